"""Many X-rays scored on Ray Data, into Parquet with one row a file; needs the extra `scale`.

list (`listing`) → chunks of paths → engines (`scoring`) on a cluster (`cluster`) → rows (`rows`)
→ parts of a folder (`output`), all put together by `run`.

Only paths and rows move between processes: a file is read, decoded and scored by one thread, so no
pixel is in Ray's object store, or on a disk.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from app.engines import EngineFactory, open_engine
from app.errors import BulkUnavailable
from app.settings import Settings

_NEEDED = ("fsspec", "pyarrow", "ray")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is in the folder when a run has come to its end.

    Attributes:
        files: That have a row.
        failed: Of them without an answer.
        missed: Files that came to the input while it ran, and have no row.
    """

    files: int
    failed: int
    missed: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a run.

    Attributes:
        source: A file, a folder, a pattern, a Parquet list (column `path`), or any of them at an
            address that fsspec knows, such as `s3://bucket/folder`.
        out: The folder of the rows.
        address: Of a Ray cluster; with none, one is started on this machine, for this run.
        workers: Engines in all; one a machine where not given.
        part_s: Seconds after which rows go into the folder with the next that come: what a kill
            may cost.
    """

    source: str
    out: Path
    address: str | None = None
    workers: int | None = None
    part_s: float = 15.0


def score_files(
    asked: Asked, settings: Settings, new_engine: EngineFactory = open_engine
) -> Outcome:
    """Write a row for each file into a folder; what is there already is not done again.

    Args:
        asked: Which files, and where to.
        settings: What the operator chose.
        new_engine: Makes an engine; tests give a fake one.

    Raises:
        BulkError: What is needed is not installed, the input cannot be listed, or the folder
            belongs to another run.
        ReleaseError: There is no release that can be used.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BulkUnavailable(
            "the extra scale to be installed "
            "(pip install --constraint constraints.txt --editable '.[scale]')",
            f"no {' and no '.join(missing)}",
        )
    if asked.address is not None and not asked.address.strip():
        raise BulkUnavailable("the address of a Ray cluster", "an empty text")
    from app.bulk.run import run  # noqa: PLC0415 -- needs the extra, and seconds

    return run(asked, settings, new_engine)
