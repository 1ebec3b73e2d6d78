"""A real `covid-xray serve` in a process of its own, on a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import httpx

SERVE = [sys.executable, "-c", "from app.cli import main; main()", "serve"]
Start = Callable[..., "Server"]


def free_port() -> int:
    """Find a TCP port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


class Server:
    """A server process and a client for it.

    Args:
        environment: Settings; `path` is where it looks for modules, and `home`, where given, the
            folder in which alone it has a reason to write; `port` is a free one where not given.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        port = int(environment.pop("port", None) or free_port())
        home = environment.pop("home", None)
        places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), home) if home else {}
        settings = {f"COVID_XRAY_{key.upper()}": value for key, value in environment.items()}
        self.process = subprocess.Popen(
            SERVE,
            env=os.environ
            | {"COVID_XRAY_PORT": str(port), "PYTHONPATH": settings.pop("COVID_XRAY_PATH", "")}
            | settings
            | places,
            cwd=home,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def wait_until_ready(self) -> "Server":
        while self.process.poll() is None:
            try:
                assert self.client.get("/health/ready").status_code == 200
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return self
        raise AssertionError(self.end())

    def end(self) -> tuple[int, str]:
        """Wait for the end of the process, and give its exit code and its log."""
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.end()

    def predict(self, data: bytes) -> httpx.Response:
        return self.client.post("/v1/predictions", files={"file": data})

    def kill(self) -> None:
        """End it however it is."""
        self.process.kill()
        self.process.communicate()
