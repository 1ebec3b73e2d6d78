"""The folder of a run: what it is about, and parts that are there whole or not at all.

DIR/_run.json             input, release, settings: a run goes on only with the same
DIR/part-000001.parquet   rows, each file in one part only
DIR/.lock                 held while a run writes

What begins with `_` or `.` is passed over by all that reads a folder of Parquet as one table.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk.paths import PathSet
from app.errors import BulkOutputTaken

RUN = "_run.json"

_LOCK = ".lock"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_BATCH = 8192
_RECORDED_ONLY = {"created", "software", "columns", "thresholds"}
"""What a run tells of itself, and what may differ when it goes on."""


@dataclass(slots=True)
class Counts:
    """Files of the folder.

    Attributes:
        files: That have a row.
        failed: Of them without an answer.
    """

    files: int = 0
    failed: int = 0

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Count rows."""
        self.files += rows.num_rows
        self.failed += rows.num_rows - rows.column("error_code").null_count


class Output:
    """Parts of one run; made by `open_output`.

    Attributes:
        counts: Of the files that have a row, or will have.
        done: These files.

    Args:
        folder: It, locked.
        schema: Of its rows.
        part_rows: After which a part is written.
        part_s: Seconds after which the next rows that come go into a part with those before, few
            as they are: what a kill may cost.
    """

    def __init__(self, folder: Path, schema: pa.Schema, part_rows: int, part_s: float) -> None:
        self.counts = Counts()
        self.done = PathSet()
        self._folder = folder
        self._schema = schema
        self._part_rows = part_rows
        self._part_s = part_s
        self._pending: list[pa.RecordBatch] = []
        self._since = time.monotonic()
        self._next = 1

    def read_done(self) -> PathSet:
        """Read which files have a row, and count them.

        Raises:
            BulkOutputTaken: A part cannot be read.
        """
        for part in sorted(self._folder.glob("part-*.parquet")):
            found = _PART.fullmatch(part.name)
            self._next = max(self._next, int(found[1]) + 1 if found else 1)
            for batch in _read_part(part):
                self.counts.add(batch)
                self.done.add_new(batch.column("path").to_pylist())
        return self.done

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows; they are in a part sooner or later. A file's second row is left out.

        Raises:
            BulkOutputTaken: A part cannot be written.
        """
        fresh = self.done.add_new(rows.column("path").to_pylist())
        if not all(fresh):
            rows = rows.filter(pa.array(fresh))
        self.counts.add(rows)
        self._pending.append(rows)
        waited = time.monotonic() - self._since
        if sum(each.num_rows for each in self._pending) >= self._part_rows or waited > self._part_s:
            self.flush()

    def flush(self) -> None:
        """Write what was taken as a part that is there whole or not at all, also after a crash.

        Raises:
            BulkOutputTaken: It cannot be written.
        """
        table = pa.Table.from_batches(self._pending, self._schema)
        if table.num_rows:
            with _writing(self._folder):
                self._write(table)
            self._next += 1
        self._pending.clear()
        self._since = time.monotonic()

    def _write(self, table: pa.Table) -> None:
        part = self._folder / f"part-{self._next:06}.parquet"
        hidden = part.with_name(f".{part.name}")
        with hidden.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            _sync(file.fileno())
        hidden.rename(part)
        _sync_folder(self._folder)


@contextmanager
def open_output(
    folder: Path,
    about: dict[str, Any],
    schema: pa.Schema,
    part_rows: int = 10_000,
    part_s: float = 15.0,
) -> Iterator[Output]:
    """Begin a run in a folder, or go on with it; no other process writes into it meanwhile.

    Args:
        folder: Made where there is none.
        about: What the run is about; kept in the folder, and compared when it goes on.
        schema: Of its rows.
        part_rows: See `Output`.
        part_s: See `Output`.

    Raises:
        BulkOutputTaken: The folder is another run's, holds something else, or cannot be written.
    """
    with ExitStack() as held:
        with _writing(folder):
            _take(folder, held)
            _check_same(folder, about)
        output = Output(folder, schema, part_rows, part_s)
        try:
            yield output
        finally:
            output.flush()


def _take(folder: Path, held: ExitStack) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = held.enter_context((folder / _LOCK).open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BulkOutputTaken(f"no other run that writes to {folder}", "one") from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Tell what keeps a folder from being written to, such as a full disk.

    Raises:
        BulkOutputTaken: Something does.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BulkOutputTaken(f"a folder to write to at {folder}", reason) from error


def _check_same(folder: Path, about: dict[str, Any]) -> None:
    file = folder / RUN
    if not file.exists():
        strangers = sorted(each.name for each in folder.iterdir() if each.name != _LOCK)
        if [each for each in strangers if not each.startswith(f".{RUN}")]:
            raise BulkOutputTaken(f"an empty folder at {folder}", f"one with {strangers[0]}")
        hidden = folder / f".{RUN}"
        with hidden.open("w", encoding="utf-8") as text:
            json.dump(about, text, indent=2)
            text.flush()
            _sync(text.fileno())
        hidden.rename(file)
        _sync_folder(folder)
        return
    before = _read_about(file)
    for key in (about.keys() | before.keys()) - _RECORDED_ONLY:
        if about.get(key) != before.get(key):
            raise BulkOutputTaken(
                f"another folder than {folder}, or a run with {key} {_said(before.get(key))}",
                f"{_said(about.get(key))}",
            )


def _read_about(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BulkOutputTaken(f"what a run is about in {file}", type(error).__name__) from error
    if not isinstance(about, dict):
        raise BulkOutputTaken(f"what a run is about in {file}", type(about).__name__)
    return about


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_part(part: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(_BATCH, columns=["path", "error_code"]):
                if batch.schema.types != [pa.string()] * 2 or batch.column("path").null_count:
                    raise BulkOutputTaken(f"rows of this program in {part}", "others")
                yield batch
    except (OSError, pa.ArrowException) as error:
        raise BulkOutputTaken(f"rows of this program in {part}", type(error).__name__) from error


def _sync(number: int) -> None:
    os.fsync(number)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        _sync(number)
    finally:
        os.close(number)
