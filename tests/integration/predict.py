"""`covid-xray predict` in a process of its own."""

import subprocess
import sys

from tests.integration.ray_nodes import Either

COMMAND = [sys.executable, "-c", "from app.cli import main; main()", "predict"]


def address(server: Either) -> str:
    return str(server.client.base_url).rstrip("/")


def predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
