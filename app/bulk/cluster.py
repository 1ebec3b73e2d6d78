"""The only place that knows Ray: a cluster, and a stream of files through engines on it.

listing (one task) → chunks of paths → engines (actors, a chunk on each of their threads) → rows
"""

import logging
import os
import secrets
import socket
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.bulk import rows
from app.bulk.listing import Files, Source, show
from app.bulk.paths import PathSet
from app.bulk.scoring import Job, Scorer
from app.errors import BulkUnavailable, CovidXrayError

_log = logging.getLogger(__name__)

_FEW, MANY, _PARTS = 8, 128, 32
"""What is listed so far is so many chunks for each thread, of at least few files and at most many.

So a small input keeps all threads busy to its end, and a large one costs little: a chunk takes some
milliseconds of Ray Data, which keeps kilobytes of statistics for it until the run ends.
"""

_STORE_BYTES = 128 * 2**20
"""Shared memory for paths and rows on this machine; a chunk takes at most tens of kilobytes."""

_RETRIES = 2
"""Times that a chunk whose worker died is begun again."""

LOST_CHUNKS = 100
"""That a run goes on without, since their workers died each time; beyond, it is not the files."""

_KNOCKS_S = 10.0
"""For which an address may take to let somebody connect."""

_STARTS = 3
"""Times that Ray is started here: where others keep the cores busy, its half a minute may pass."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
"""Environment, before Ray is imported: it reports to nobody, and shows nothing itself."""

_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""Environment of a cluster for this run: listens on 127.0.0.1, and to who knows a token."""


_LEAN = {
    "automatic_object_spilling_enabled": False,
    "worker_niceness": 0,  # how nice all of it is, the caller says
    "enable_metrics_collection": False,
    "task_events_report_interval_ms": 0,
}
"""Settings of a cluster for this run: nothing on the disk, and nothing counted that nobody reads.

With Ray's own values of the last three a file took 39 ms of CPU, and 35 ms with these
(docs/bulk.md).
"""


@dataclass(frozen=True, slots=True)
class Pool:
    """Engines.

    Attributes:
        workers: How many, over all machines; each in a process of its own.
        threads: Of each.
    """

    workers: int
    threads: int


def share_cores(cores: list[int], workers: int | None) -> Pool:
    """Give each engine its share of cores; one engine a machine where nothing else is asked for.

    Args:
        cores: Of each machine.
        workers: How many engines there shall be.

    Raises:
        BulkUnavailable: There are fewer cores than engines.
    """
    if not cores or sum(cores) < (workers or 1):
        raise BulkUnavailable(f"a core for each of {workers or 1} workers", f"{sum(cores)}")
    threads = min(cores) if workers is None else max(1, min(*cores, sum(cores) // workers))
    while workers and sum(each // threads for each in cores) < workers:
        threads -= 1
    return Pool(workers or sum(each // threads for each in cores), threads)


@contextmanager
def open_cluster(address: str | None, cores: int) -> Iterator[list[int]]:
    """Start Ray on this machine for as long as the block runs, or use a cluster.

    Args:
        address: Of the cluster.
        cores: That each machine gives at most.

    Yields:
        The cores of each machine.

    Raises:
        BulkUnavailable: There is no cluster at the address, its token is another, or Ray does not
            start.
    """
    if address:
        _knock(address)
    ray = _import_ray(alone=not address)
    options: dict[str, Any] = {"address": address} if address else _alone(cores)
    for attempt in range(_STARTS):
        try:
            with _silenced():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
            break
        except Exception as error:  # it raises plain Exception, and more
            if address or attempt == _STARTS - 1:
                where = f"at {address} with the same token" if address else "on this machine"
                raise BulkUnavailable(f"a Ray cluster {where}", _said(error)) from error
            _log.warning("Ray does not start; it is tried again.")
    try:
        found = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        yield [min(each, cores) for each in found if each]
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ask whether anybody listens there: Ray would wait for minutes, and say nothing.

    Raises:
        BulkUnavailable: Nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # such as `auto`, which Ray resolves
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCKS_S).close()
    except (OSError, OverflowError) as error:
        raise BulkUnavailable(f"a Ray cluster at {address}", _said(error)) from error


def _said(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "")[:200]
    return f"{type(error).__name__} ({first_line})"


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep from standard error what Ray's other half, which is no Python, writes to it."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _import_ray(*, alone: bool) -> Any:  # noqa: ANN401 -- a module
    os.environ |= _QUIET | (_ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)} if alone else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own libraries
        import ray.data  # noqa: PLC0415 -- takes seconds, and reads the environment
    for name in ("ray", "ray.data"):  # they have handlers of their own
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray


def _alone(cores: int) -> dict[str, Any]:
    """Options of a cluster on this machine, which keeps all that it holds in memory."""
    return {
        "address": "local",
        "num_cpus": cores,
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_system_config": _LEAN,
    }


def stream(
    source: Source | Files, done: PathSet, job: Job, workers: int, *, singly: bool = False
) -> Generator[pa.RecordBatch, None, None]:
    """Score files as they are listed, and give their rows, in no order.

    Listing stops where the engines cannot follow, and they where the rows are not taken: what is
    in memory does not grow with the files. Where a worker dies again and again over a chunk, its
    rows are left out.

    Args:
        source: What to score.
        done: What is left out.
        job: What each worker has to know.
        workers: How many there are.
        singly: Each file is a chunk, and alone in its worker: if one ends it, no other suffers.

    Raises:
        BulkUnavailable: Workers cannot begin, or died over too many chunks.
        CovidXrayError: What else keeps workers from beginning.
    """
    import ray  # noqa: PLC0415 -- `open_cluster` imported it
    from ray.data import ActorPoolStrategy, DataContext  # noqa: PLC0415 -- the same

    context = DataContext.get_current()
    # A row holds a chunk, and each row is a block of its own: then a task is a chunk, in and out.
    context.target_max_block_size = 1
    context.max_errored_blocks = -1 if singly else LOST_CHUNKS
    chunks = ray.data.from_arrow(pa.table({"begin": [0]})).map_batches(
        list_chunks,
        fn_kwargs={
            "source": source,
            "done": done,
            "most": 1 if singly else MANY,
            "threads": workers * job.threads,
        },
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
    )
    scored = chunks.map_batches(
        _Worker,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=workers,
            max_tasks_in_flight_per_actor=1 if singly else 2 * job.threads,
            enable_true_multi_threading=True,
        ),
        num_cpus=job.threads,
        max_concurrency=1 if singly else job.threads,
        max_task_retries=_RETRIES,
    )
    try:
        # Closed before Ray is: what it leaves to the collector would start Ray again.
        with closing(iter(scored.iter_batches(batch_size=None, batch_format="pyarrow"))) as tables:
            for table in tables:
                for chunk in table.column("rows"):
                    yield from pa.ipc.open_stream(chunk.as_buffer())
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, CovidXrayError):
            raise cause from error
        raise BulkUnavailable("workers that score", _said(error)) from error


def list_chunks(
    begin: pa.Table, source: Source | Files, done: PathSet, most: int, threads: int
) -> Iterator[pa.Table]:
    """List what is not done, a chunk a row."""
    del begin
    of = _PARTS * threads
    paths = source.paths()
    listed = 0
    while chunk := list(islice(paths, min(most, max(_FEW, listed // of)))):
        listed += len(chunk)
        fresh = done.add_new([show(path) for path in chunk])
        new = [os.fsencode(path) for path, is_new in zip(chunk, fresh, strict=True) if is_new]
        if new:
            yield pa.table({"paths": pa.array([new], pa.list_(pa.binary()))})


class _Worker:
    """A Ray actor's work: chunks to rows.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        self._scorer = Scorer(job)

    def __call__(self, chunks: pa.Table) -> pa.Table:
        return pa.table({"rows": [self._score(each.as_py()) for each in chunks.column("paths")]})

    def _score(self, chunk: list[bytes]) -> bytes:
        paths = map(os.fsdecode, chunk)
        batch = rows.to_batch(
            (self._scorer.score(path, show(path)) for path in paths), self._scorer.schema
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        found: bytes = sink.getvalue().to_pybytes()
        return found
