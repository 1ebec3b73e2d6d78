"""Files that appear whole or not at all, so that a run may be killed at any moment."""

from collections.abc import Callable
from pathlib import Path


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name of the same ending, then rename it.

    Args:
        target: The file.
        write: Writes it to the path that it is given.
    """
    partial = target.with_name(f"partial-{target.name}")
    write(partial)
    partial.replace(target)
