"""A run from its input to its folder, and what is told of it meanwhile."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from app.bulk import Asked, Outcome, cluster, rows
from app.bulk.listing import Files, Source, open_source, show
from app.bulk.output import Counts, Output, open_output
from app.bulk.paths import PathSet
from app.bulk.rows import SCHEMA_VERSION, schema_of
from app.bulk.scoring import Job, choose_release
from app.engines import EngineFactory
from app.errors import BulkUnavailable, FileEndsWorker
from app.processor import available_cpus
from app.release import Release
from app.settings import Settings

_log = logging.getLogger(__name__)

_TOLD_EVERY_S = 30.0
_AT_ONCE = 1024
_DECIDING = ("engine", "precision", "acceptance", "max_pixels", "max_upload_bytes")
"""Settings that a row depends on."""


def run(asked: Asked, settings: Settings, new_engine: EngineFactory) -> Outcome:
    """See `app.bulk.score_files`."""
    release = choose_release(settings, new_engine)
    source = open_source(asked.source)
    job = Job(settings, release.manifest.version, release.digest, 1, new_engine)
    about, schema = _about(source, release, settings), schema_of(release.manifest)
    with open_output(asked.out, about, schema, part_s=asked.part_s) as output:
        done = output.read_done()
        counts = output.counts
        _log.info("%s has %d rows.", asked.out, counts.files)
        missed = 0
        if any(_without(chunk, done) for chunk in _chunks(source)):
            missed = _score(asked, job, release, output, _Counter(source))
        return Outcome(counts.files, counts.failed, missed)


def _score(asked: Asked, job: Job, release: Release, output: Output, counter: "_Counter") -> int:
    """Score what has no row, and tell how many files came meanwhile and have none."""
    cores = job.settings.threads or available_cpus()
    with cluster.open_cluster(asked.address, cores) as found, _progress(output, counter) as tell:
        pool = cluster.share_cores(found, asked.workers)
        _log.info("%d worker(s) of %d thread(s).", pool.workers, pool.threads)
        job = replace(job, threads=pool.threads)

        def take(stream: Generator[pa.RecordBatch, None, None]) -> None:
            with closing(stream):
                for each in stream:
                    output.add(each)
                    tell()

        take(cluster.stream(counter.source, output.done, job, pool.workers))
        left, came = _find_left(counter, output.done)
        if left:
            _log.warning("%d files are scored one by one: workers died over them.", len(left))
            files = Files(tuple(left))
            take(cluster.stream(files, output.done, job, pool.workers, singly=True))
            output.add(_tell_lost(_without(left, output.done), release))
            _, came = _find_left(counter, output.done)
    return came


def _find_left(counter: "_Counter", done: PathSet) -> tuple[list[str], int]:
    """Find the files that have no row.

    Returns:
        Those that were listed at the beginning, and how many came since.

    Raises:
        BulkUnavailable: They are more than workers may have died over.
    """
    counted = counter.wait()
    left: list[str] = []
    came = PathSet()
    for chunk in _chunks(counter.source):
        fresh = _without(chunk, done)
        for path, was_counted in zip(fresh, counted.has(map(show, fresh)), strict=True):
            if was_counted:
                left.append(path)
            else:
                came.add_new([show(path)])
        if len(left) > cluster.LOST_CHUNKS * cluster.MANY:
            raise BulkUnavailable("workers that score", f"{len(left)} files without a row, or more")
    return left, len(came)


def _without(paths: list[str], done: PathSet) -> list[str]:
    known = done.has(map(show, paths))
    return [path for path, is_done in zip(paths, known, strict=True) if not is_done]


def _tell_lost(paths: list[str], release: Release) -> pa.RecordBatch:
    """Tell in its row of each file that no worker outlived."""
    wanted = "a file that can be scored"
    why = rows.of_error(FileEndsWorker(wanted, "the end of each process that scored it alone"))
    lost = [rows.of_file(show(path), release, None) | why for path in paths]
    return rows.to_batch(lost, rows.schema_of(release.manifest))


def _chunks(source: Source) -> Iterator[list[str]]:
    paths = source.paths()
    while chunk := list(islice(paths, _AT_ONCE)):
        yield chunk


def _about(source: Source, release: Release, settings: Settings) -> dict[str, Any]:
    """Tell what a run is about; see `output.open_output`."""
    manifest = release.manifest
    chosen = settings.model_dump(mode="json")
    fields = schema_of(manifest)
    return {
        "schema_version": SCHEMA_VERSION,
        "input": source.address,
        "release": {
            "name": manifest.name,
            "version": manifest.version,
            "digest": release.digest,
        },
        "settings": {name: chosen[name] for name in _DECIDING},
        "thresholds": {
            "decision": manifest.decision.threshold,
            "acceptance": manifest.acceptance.threshold,
        },
        "columns": {field.name: field.metadata[b"description"].decode() for field in fields},
        "software": version("covid-xray"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class _Counter:
    """Counts the input's files beside the run, so that it can tell how much is left.

    Args:
        source: The input.
    """

    def __init__(self, source: Source) -> None:
        self.total: int | None = None
        self.source = source
        self._seen = PathSet()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def wait(self) -> PathSet:
        """Give them; not all where they could not be listed to the end."""
        self._thread.join()
        return self._seen

    def _count(self) -> None:
        for chunk in _chunks(self.source):
            self._seen.add_new(map(show, chunk))
        self.total = len(self._seen)


@contextmanager
def _progress(output: Output, counter: _Counter) -> Iterator[Callable[[], None]]:
    """Tell how far it is: by a bar on a terminal, else by a line in the log now and then."""
    if not sys.stderr.isatty():
        yield _Lines(output.counts, counter).tell
        return
    columns = (
        TextColumn("Scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} without an answer"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as shown:
        task = shown.add_task("", total=None, failed=0)
        yield lambda: shown.update(
            task,
            completed=output.counts.files,
            total=counter.total,
            failed=output.counts.failed,
        )


class _Lines:
    """Writes a line into the log now and then.

    Args:
        counts: What is told.
        counter: Knows of how many.
    """

    def __init__(self, counts: Counts, counter: _Counter) -> None:
        self._counts = counts
        self._counter = counter
        self._before = counts.files
        self._began = self._told = time.monotonic()

    def tell(self) -> None:
        """Write a line, unless one was written a moment ago."""
        now = time.monotonic()
        if now - self._told < _TOLD_EVERY_S:
            return
        self._told = now
        total = self._counter.total
        _log.info(
            "%d files%s, %d without an answer; %.1f a second.",
            self._counts.files,
            "" if total is None else f" of {total}",
            self._counts.failed,
            (self._counts.files - self._before) / (now - self._began),
        )
