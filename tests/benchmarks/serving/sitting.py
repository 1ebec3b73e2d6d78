"""Everything that is measured, in rounds, so that what else the machine does hits all alike."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from app.release import EngineName, Precision
from tests.benchmarks.figures import percentile
from tests.benchmarks.machine import ROOT
from tests.benchmarks.serving import servers
from tests.benchmarks.serving.options import Options
from tests.benchmarks.serving.requests import build_request
from tests.benchmarks.serving.servers import Contender, MemoryWatch, Running
from tests.benchmarks.xrays import Inputs

_NUMBERS_OF_THREADS = 3  # that the limit tries
_SLACK_S = 180.0  # beyond the measured seconds, for a process of ours to start and to end

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Case:
    """A server under a number of clients that send one kind of file, in one round."""

    round: int
    server: str
    kind: str
    clients: int
    answers: int
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Process:
    """A server's process in one round.

    Attributes:
        first_answer_s: Seconds from its start to its first answer.
        rss_mib: Most resident memory while it served, its children included.
        pss_mib: The same with shared pages in equal parts.
        probabilities: Kind of file → its answer for the first of them.
    """

    round: int
    server: str
    first_answer_s: float
    rss_mib: float
    pss_mib: float
    probabilities: dict[str, float]


@dataclass(frozen=True, slots=True)
class Limit:
    """Decoding and inference alone, in one round.

    Attributes:
        requests_per_s: Threads → files per second.
        alone_ms: Median milliseconds of a file on one thread.
        probabilities: For each file.
    """

    round: int
    engine: EngineName
    precision: Precision
    kind: str
    requests_per_s: dict[str, float]
    alone_ms: float | None
    probabilities: list[float]


@dataclass(slots=True)
class Results:
    """What was measured."""

    cases: list[Case] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)


class Sitting:
    """Measures.

    Args:
        options: How.
        contenders: The servers.
        inputs: The files.
        load_cpus: Numbers of the load generator's cores.
        folder: For requests and logs; it is to be empty.
    """

    def __init__(
        self,
        options: Options,
        contenders: list[Contender],
        inputs: Inputs,
        load_cpus: set[int],
        folder: Path,
    ) -> None:
        self._options = options
        self._contenders = contenders
        self._inputs = inputs
        self._load_cpus = load_cpus
        self._folder = folder
        self.results = Results()

    def run(self) -> Results:
        """Measure each server and each limit once a round, in another order each round."""
        limits = dict.fromkeys((each.engine, each.precision) for each in self._contenders)
        steps: list[Callable[[int], None]] = [
            *(partial(self._measure_server, each) for each in self._contenders),
            *(partial(self._measure_limits, *each) for each in limits),
        ]
        for number in range(self._options.rounds):
            first = number % len(steps)
            for step in steps[first:] + steps[:first]:
                step(number)
        return self.results

    def _measure_server(self, contender: Contender, number: int) -> None:
        requests = {
            kind: [build_request(contender.path, file) for file in files]
            for kind, files in self._inputs.items()
        }
        first = next(iter(requests.values()))[0]
        _log.info("round %d: %s", number + 1, contender.name)
        with servers.started(contender, self._folder / "server.log") as running:
            first_answer_s, _ = running.wait_for_answer(first)
            with MemoryWatch(running.pid) as memory:
                probabilities = {
                    kind: _positive(running.wait_for_answer(each[0])[1])
                    for kind, each in requests.items()
                }
                for kind, each in requests.items():
                    for clients in sorted({1, self._options.clients}):
                        found = self._load(running, each, clients)
                        self.results.cases.append(
                            self._case(found, number, contender.name, kind, clients)
                        )
        self.results.processes.append(
            Process(
                number,
                contender.name,
                first_answer_s,
                memory.rss_mib,
                memory.pss_mib,
                probabilities,
            )
        )

    def _case(
        self, found: dict[str, Any], number: int, server: str, kind: str, clients: int
    ) -> Case:
        latencies: list[float] = found["latencies_ms"]
        return Case(
            round=number,
            server=server,
            kind=kind,
            clients=clients,
            answers=len(latencies),
            requests_per_s=len(latencies) / self._options.seconds,
            p50_ms=percentile(latencies, 0.5),
            p99_ms=percentile(latencies, 0.99),
            errors=found["errors"],
        )

    def _load(self, running: Running, requests: list[bytes], clients: int) -> dict[str, Any]:
        files = list(map(str, self._write("requests of this case", requests)))
        options = ["--port", str(running.port), "--clients", str(clients)]
        found: dict[str, Any] = self._run(
            "load", options, files, self._load_cpus, self._options.seconds
        )
        return found

    def _measure_limits(self, engine: EngineName, precision: Precision, number: int) -> None:
        _log.info("round %d: limit of %s %s", number + 1, engine, precision)
        release = ["--release", str(self._options.release)]
        options = [*release, "--engine", engine, "--precision", precision]
        folders = [str(self._write(kind, files)[0].parent) for kind, files in self._inputs.items()]
        seconds = len(folders) * _NUMBERS_OF_THREADS * self._options.seconds
        found = self._run("limit", options, folders, os.sched_getaffinity(0), seconds)
        self.results.limits += [
            Limit(number, engine, precision, kind, **each)
            for kind, each in zip(self._inputs, found, strict=True)
        ]

    def _write(self, name: str, contents: Sequence[bytes]) -> list[Path]:
        """Write files into a folder of their own, whose name may hold slashes."""
        folder = self._folder / name.replace("/", "_")
        folder.mkdir(exist_ok=True)
        files = [folder / f"{index:06}" for index in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        return files

    def _run(
        self, module: str, options: list[str], files: list[str], cpus: set[int], seconds: float
    ) -> Any:
        """Run a module of this package in a process of its own, and read the JSON it prints.

        Args:
            module: Its name.
            options: Its own.
            files: Paths of what it works on.
            cpus: Numbers of the cores it gets.
            seconds: That it measures.

        Raises:
            RuntimeError: It failed.
            subprocess.TimeoutExpired: It took much longer than it measures.
        """
        times = ["--warm-up", str(self._options.warm_up), "--seconds", str(self._options.seconds)]
        command = [sys.executable, "-m", f"tests.benchmarks.serving.{module}", *times, *options]
        with subprocess.Popen(
            [*command, *files],
            cwd=ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            os.sched_setaffinity(process.pid, cpus)
            try:
                out, log = process.communicate(timeout=seconds + _SLACK_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if process.returncode != 0:
            raise RuntimeError(f"Expected {module} to end with 0; received:\n{log}")
        return json.loads(out)


def _positive(body: bytes) -> float:
    """Read the first label's probability out of an answer."""
    return float(next(iter(json.loads(body)["probabilities"].values())))
