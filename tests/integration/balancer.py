"""HAProxy as `deploy/haproxy` says, in a process of its own, on a free port."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.integration.server import free_port

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def configure(folder: Path, port: int, replicas: Sequence[int]) -> Path:
    """Copy the shipped configuration with other ports.

    Args:
        folder: To be written to.
        port: To listen on.
        replicas: Ports of the two replicas.
    """
    shutil.copytree(CONFIG.parent, folder, dirs_exist_ok=True)
    text = CONFIG.read_text(encoding="utf-8")
    for shipped, other in zip(
        (8000, 8001, 8002, 8404), (port, *replicas, free_port()), strict=True
    ):
        text, times = re.subn(rf"(127\.0\.0\.1):{shipped}\b", rf"\1:{other}", text)
        assert times == 1, shipped
    file = folder / CONFIG.name
    file.write_text(text, encoding="utf-8")
    return file


@contextmanager
def balanced(
    folder: Path, replicas: Sequence[int], port: int | None = None
) -> Iterator[httpx.Client]:
    """Run HAProxy before two replicas, and give a client of it."""
    assert HAPROXY is not None
    port = port or free_port()
    file = configure(folder, port, replicas)
    process = subprocess.Popen([HAPROXY, "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)
