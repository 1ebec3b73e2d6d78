"""A run from its input to its folder, and what is told of it meanwhile."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from app.bulk import Asked, Outcome, cluster
from app.bulk.listing import Source, open_source, show
from app.bulk.output import Counts, Output, open_output
from app.bulk.paths import PathSet
from app.bulk.rows import SCHEMA_VERSION, schema_of
from app.bulk.scoring import Job, choose_release
from app.engines import EngineFactory
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
        counter = _Counter(source)
        if not all(map(done.has_all, _shown(source))):
            _score(asked, source, job, output, counter)
        return Outcome(counts.files, counts.failed, max(0, counter.wait() - counts.files))


def _score(asked: Asked, source: Source, job: Job, output: Output, counter: "_Counter") -> None:
    cores = job.settings.threads or available_cpus()
    with cluster.open_cluster(asked.address, cores) as found, _progress(output, counter) as tell:
        pool = cluster.share_cores(found, asked.workers)
        _log.info("%d worker(s) of %d thread(s).", pool.workers, pool.threads)
        job = replace(job, threads=pool.threads)
        with closing(cluster.stream(source, output.done, job, pool.workers)) as stream:
            for rows in stream:
                output.add(rows)
                tell()


def _shown(source: Source) -> Iterator[list[str]]:
    paths = map(show, source.paths())
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
        self._source = source
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def wait(self) -> int:
        """Give how many there are; 0 where they could not be listed to the end."""
        self._thread.join()
        return self.total or 0

    def _count(self) -> None:
        seen = PathSet()
        for chunk in _shown(self._source):
            seen.add_new(chunk)
        self.total = len(seen)


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
