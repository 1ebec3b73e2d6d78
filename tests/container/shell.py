"""The one place where this test starts other programs."""

import logging
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

log = logging.getLogger("container")


class CommandFailed(RuntimeError):
    """A program ended with another code than 0."""


def run(*command: str | Path, timeout: float = 600, quiet: bool = True) -> str:
    """Run a command in the project's folder and return what it printed.

    Args:
        command: The program and its arguments; no shell reads them.
        timeout: Seconds after which it is killed.
        quiet: False shows its output while it runs, and returns none.

    Raises:
        CommandFailed: It ended with another code than 0.
        subprocess.TimeoutExpired: It took too long.
    """
    words = [str(word) for word in command]
    # S603: every command is spelled out in this folder; nothing of it comes from outside.
    done = subprocess.run(
        words, cwd=ROOT, text=True, timeout=timeout, capture_output=quiet, check=False
    )
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(words[:3])} … ended with {done.returncode}: {done.stderr}")
    return (done.stdout or "").strip()


def succeeds(*command: str | Path) -> bool:
    """Tell whether a command exists and ends with 0."""
    try:
        run(*command, timeout=30)
    except (CommandFailed, OSError, subprocess.TimeoutExpired):
        return False
    return True
