"""A model's folder in the store: which versions it has, which one is pinned, and what changes."""

import os
import re
from pathlib import Path

from app.errors import ReleaseNotFound

PIN = "pin"
"""Name of a file beside the versions; it holds the number of the one to serve."""

Signature = frozenset[tuple[str, int, int, bool]]
"""Of a version's files: path, bytes, time of change, and whether they can be read. As long as it
stays, the version does."""


def find_versions(folder: Path) -> list[int]:
    """Give the numbers that name folders, in no order.

    Raises:
        ReleaseNotFound: The folder cannot be looked through.
    """
    try:
        names = [path.name for path in folder.glob("[1-9]*") if path.is_dir()]
    except OSError as error:
        raise ReleaseNotFound(
            f"a folder of versions at {folder.resolve()}", f"{error.strerror}"
        ) from error
    return [int(name) for name in names if name.isdecimal() and name.isascii()]


def read_pin(folder: Path) -> int | None:
    """Give the version that the folder's file `pin` names; none where there is no such file.

    Raises:
        ReleaseNotFound: It names none, or it cannot be read.
    """
    pin = folder / PIN
    try:
        text = pin.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReleaseNotFound(f"the number of a version in {pin}", f"{error.strerror}") from error
    if not re.fullmatch(r"0*[1-9][0-9]{,17}", text):
        raise ReleaseNotFound(f"the number of a version in {pin}", f"{len(text)} characters")
    return int(text)


def sign(path: Path) -> Signature:
    """Tell a version's files from what they were; nothing where they cannot be looked at."""
    try:
        found = [(file, file.stat()) for file in path.rglob("*") if file.is_file()]
    except OSError:  # a file or the folder went away in between
        return frozenset()
    return frozenset(
        (str(file), stat.st_size, stat.st_mtime_ns, os.access(file, os.R_OK))
        for file, stat in found
    )
