"""The service's callers: wait for it, send it an X-ray, and run it outside the container."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from app.imaging.phantom import phantom
from tests.container.shell import ROOT

SAMPLES = ROOT.parent / "shared" / "samples"


def xrays() -> dict[str, bytes]:
    """Choose the images to send: a sample of each label, or a drawn chest where there is none."""
    samples = sorted(SAMPLES.glob("*.png"))
    if samples:
        return {path.name: path.read_bytes() for path in (samples[0], samples[-1])}
    stream = io.BytesIO()
    Image.fromarray(phantom()[..., 0]).save(stream, format="PNG")
    return {"phantom.png": stream.getvalue()}


def free_port() -> int:
    """Find a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until_ready(port: int, is_running: Callable[[], bool], seconds: float = 90) -> float:
    """Ask for readiness until it is there; return the seconds it took.

    Raises:
        TimeoutError: It was not ready in time, or stopped running.
    """
    start = time.monotonic()
    while (waited := time.monotonic() - start) < seconds and is_running():
        try:
            if httpx.get(_url(port, "/health/ready"), timeout=2).is_success:
                return waited
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(
        f"expected a ready service on port {port} in {seconds} s; received none in {waited:.1f} s"
    )


def predict(port: int, name: str, data: bytes) -> dict[str, Any]:
    """Send one image and return the prediction."""
    url = _url(port, "/v1/predictions")
    answer = httpx.post(url, files={"file": (name, data, "image/png")}, timeout=60)
    answer.raise_for_status()
    prediction: dict[str, Any] = answer.json()
    return prediction


@contextmanager
def served_outside(settings: dict[str, str]) -> Iterator[int]:
    """Run the same code without a container, with no setting but the given ones."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if "COVID_XRAY_" not in name}
    command = [str(Path(sys.executable).with_name("covid-xray")), "serve"]
    environment = kept | settings | {"COVID_XRAY_PORT": str(port)}
    # S603: the program that this project installs.
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        wait_until_ready(port, lambda: process.poll() is None)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _url(port: int, path: str) -> str:
    return f"http://127.0.0.1:{port}{path}"
