"""A bulk run in a process group of its own: watched, killed, and its rows counted.

python -m tests.benchmarks.bulk.process INPUT DIR SECONDS is `covid-xray bulk INPUT --out DIR` with
an engine that answers at once, without inference, and parts written after so many seconds. A black
image ends the process of this engine.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from numpy.typing import NDArray

from app.bulk import Asked, score_files
from app.engines import EngineOptions, Predictions
from app.release import Release
from app.settings import load_settings
from tests.benchmarks.machine import ROOT
from tests.fakes import FakeEngine

MEGABYTE = 2**20
_CLI = ["-c", "from app.cli import main; main()", "bulk"]
_FAKE = ["-m", "tests.benchmarks.bulk.process"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole process tree at a moment.

    Attributes:
        at_s: Seconds since the benchmark began.
        rows: In finished parts.
        pss_mib: Memory, shared pages in shares: Ray's object store is in it once.
        cpu_s: Seconds of CPU that its processes have used.
        processes: How many there are.
        driver_mib: Of the command's own process.
        worker_mib: Of the processes that own engines.
    """

    at_s: float
    rows: int
    pss_mib: float
    cpu_s: float
    processes: int
    driver_mib: float
    worker_mib: float


def command(source: Path, out: Path, workers: int = 1) -> list[str]:
    """Call the program itself."""
    return [*_CLI, str(source), "--out", str(out), "--workers", str(workers)]


def fake_command(source: Path, out: Path, part_s: float = 15.0) -> list[str]:
    """Call it without inference; parts are written after so many seconds."""
    return [*_FAKE, str(source), str(out), str(part_s)]


class Run:
    """A command under way.

    Args:
        arguments: Of Python.
        out: Where its rows go.
        store: Model store.
    """

    def __init__(self, arguments: list[str], out: Path, store: Path) -> None:
        self.out = out
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "COVID_XRAY_MODEL_STORE": str(store),
        }
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, start_new_session=True
        )
        self._known: dict[int, psutil.Process] = {}
        self._spent: dict[int, float] = {}

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def tree(self) -> list[psutil.Process]:
        """Find its processes; those that it has lost touch with are remembered."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for each in (root, *root.children(recursive=True)):
                self._known.setdefault(each.pid, each)
        return [each for each in self._known.values() if _lives(each)]

    def sample(self, began: float) -> Sample:
        """Look at the whole tree."""
        pss, driver, worker = 0.0, 0.0, 0.0
        tree = self.tree()
        for each in tree:
            with suppress(psutil.Error):
                own = each.memory_full_info().pss / MEGABYTE
                times = each.cpu_times()
                self._spent[each.pid] = times.user + times.system
                pss += own
                driver += own if each.pid == self.process.pid else 0
                worker += own if "MapWorker" in " ".join(each.cmdline()) else 0
        return Sample(
            time.monotonic() - began,
            count_rows(self.out),
            pss,
            sum(self._spent.values()),
            len(tree),
            driver,
            worker,
        )

    def kill(self) -> float:
        """Kill -9 its process group, and tell the seconds until all that it began is gone."""
        self.tree()
        began = time.monotonic()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _, alive = psutil.wait_procs(self._known.values(), timeout=60)
        for each in alive:
            each.kill()
        return time.monotonic() - began

    def kill_worker(self) -> bool:
        """Kill -9 a process that owns an engine; tell whether there was one."""
        for each in self.tree():
            with suppress(psutil.Error):
                if "MapWorker" in " ".join(each.cmdline()):
                    each.kill()
                    return True
        return False


class MortalEngine(FakeEngine):
    """A fake engine that a black image ends, with its process."""

    def predict(self, images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
        """See `app.engines.Engine`."""
        if not images.any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(images, alone=alone)


def new_mortal_engine(release: Release, options: EngineOptions) -> MortalEngine:
    """Make one; see `app.engines.EngineFactory`."""
    del release, options
    return MortalEngine()


_ROWS: dict[Path, int] = {}


def count_rows(out: Path) -> int:
    """Count rows in finished parts."""
    for part in out.glob("part-*.parquet"):
        if part not in _ROWS:
            _ROWS[part] = pq.read_metadata(part).num_rows
    return sum(rows for part, rows in _ROWS.items() if part.parent == out)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    source, out, part_s = sys.argv[1:]
    asked = Asked(source, Path(out), part_s=float(part_s))
    sys.exit(score_files(asked, load_settings(), new_mortal_engine).failed > 0)
