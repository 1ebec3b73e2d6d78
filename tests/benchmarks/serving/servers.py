"""The servers that are measured, each in a process of its own, and what they cost."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Self

from app.engines import installed_engines
from app.processor import native_precisions
from app.release import EngineName, Manifest, Precision
from tests.benchmarks.machine import ROOT
from tests.integration.server import SERVE, free_port

PLAIN = "tests.benchmarks.serving.plain"
SERVERS = ("keras", "signature", "litserve", "service")
START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 30.0
_MEMORY_INTERVAL_S = 0.25
_LOOKS_A_SHARE = 8
"""Looks at resident memory for one at shared pages, for which the kernel takes 20 ms and holds up
whoever maps memory: four times a second it took a twentieth of the service's speed."""
_LOG_TAIL = 2_000  # characters
_KIB_IN_MIB = 1024
_PAGE_KIB = os.sysconf("SC_PAGESIZE") // 1024


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to serve a release.

    Attributes:
        name: For people.
        command: What starts it; `{port}` is replaced.
        environment: Variables that it needs; `{port}` is replaced.
        path: Where it takes an X-ray as the field `file` of a form.
        engine: What runs its model.
        precision: What that computes in.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    path: str
    engine: EngineName
    precision: Precision


class ServerFailed(RuntimeError):
    """A server did not start, or gave no answer."""


def contenders(
    names: tuple[str, ...], release: Path, computes: list[tuple[EngineName, Precision]]
) -> list[Contender]:
    """List the servers to measure.

    Args:
        names: Of `SERVERS`; those whose libraries are not installed are left out.
        release: The release's folder.
        computes: Engines and precisions of the service; it is measured in each.
    """
    found = [_plain(name, release) for name in names if name != "service" and _installed(name)]
    if "service" in names:
        found += [_service(release, engine, precision) for engine, precision in computes]
    return found


def choose_precisions(
    manifest: Manifest, asked: tuple[str, ...]
) -> list[tuple[EngineName, Precision]]:
    """Choose what the service is measured in, with the engine that it prefers.

    Args:
        manifest: Of the release; what it did not pass is not served.
        asked: Precisions; `all` are those that the processor has instructions for, and `auto` is
            the fastest of them.

    Raises:
        ValueError: The release did not pass in one that is asked for.
    """
    engine = next(name for name in installed_engines() if manifest.precisions.get(name))
    passed = manifest.precisions[engine]
    native = [each for each in native_precisions() if each in passed]
    if asked == ("all",):
        return [(engine, precision) for precision in native]
    if asked == ("auto",):
        return [(engine, native[0])]
    if unknown := set(asked) - set(passed):
        received = ", ".join(sorted(unknown))
        raise ValueError(
            f"Expected all or auto alone, or some of {', '.join(passed)}, which the release "
            f"passed; received {received}."
        )
    return [(engine, precision) for precision in passed if precision in asked]


def _installed(name: str) -> bool:
    needed = ("litserve", "tensorflow") if name == "litserve" else ("tensorflow",)
    return all(importlib.util.find_spec(each) is not None for each in needed)


def _plain(name: str, release: Path) -> Contender:
    title, *command = {
        "keras": ("FastAPI + Keras predict", *_uvicorn("keras_predict")),
        "signature": ("FastAPI + signature", *_uvicorn("signature")),
        "litserve": ("LitServe + signature", f"{PLAIN}.lit", "{port}"),
    }[name]
    environment = {"BENCHMARK_RELEASE": str(release), "TF_CPP_MIN_LOG_LEVEL": "2"}
    start = (sys.executable, "-m", *command)
    return Contender(title, start, environment, "/predict", "tensorflow", "f32")


def _uvicorn(module: str) -> tuple[str, ...]:
    return ("uvicorn", f"{PLAIN}.{module}:app", "--port", "{port}")


def _service(release: Path, engine: EngineName, precision: Precision) -> Contender:
    settings = {
        "port": "{port}",
        "model_store": str(release.parents[1]),
        "model_name": release.parent.name,
        "model_version": release.name,
        "engine": engine,
        "precision": precision,
        "acceptance": "warn",  # a synthetic image is no X-ray
    }
    environment = {f"COVID_XRAY_{key.upper()}": value for key, value in settings.items()}
    name = f"covid-xray {engine} {precision}"
    return Contender(name, tuple(SERVE), environment, "/v1/predictions", engine, precision)


class Running:
    """A server's process.

    Attributes:
        name: The contender's.
        port: That it listens on.
        pid: Its process.
    """

    def __init__(self, contender: Contender, log: Path) -> None:
        self.port = free_port()
        self.name = contender.name
        self._log = log
        others = {key: value for key, value in os.environ.items() if "COVID_XRAY_" not in key}
        own = {key: self._fill(value) for key, value in contender.environment.items()}
        self._began = time.perf_counter()
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [self._fill(word) for word in contender.command],
                cwd=ROOT,
                env=others | own,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # so that its own processes can be ended with it
            )
        self.pid = self._process.pid

    def wait_for_answer(self, request: bytes) -> tuple[float, bytes]:
        """Ask until there is an answer.

        Args:
            request: HTTP/1.1, to the byte.

        Returns:
            Seconds from the process' start to the first answer, and the answer's body.

        Raises:
            ServerFailed: The process ended, the time passed, or another status than 200 came.
        """
        while (passed := time.perf_counter() - self._began) < START_TIMEOUT_S:
            if self._process.poll() is not None:
                break
            try:
                status, body = _ask(self.port, request)
            except (OSError, HTTPException):
                time.sleep(0.02)
                continue
            if status == 200:
                return time.perf_counter() - self._began, body
            if status not in {502, 503}:  # it is up, and will not do better
                break
        raise ServerFailed(
            f"Expected an answer of {self.name}; received none within {passed:.0f} s. Its log "
            f"ends with:\n{self._log.read_text(errors='replace')[-_LOG_TAIL:]}"
        )

    def stop(self) -> None:
        """End it, and what it started."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _fill(self, text: str) -> str:
        return text.replace("{port}", str(self.port))


@contextmanager
def started(contender: Contender, log: Path) -> Iterator[Running]:
    """Start a server, and end it in any case."""
    running = Running(contender, log)
    try:
        yield running
    finally:
        running.stop()


def _ask(port: int, request: bytes) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT_S) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


class MemoryWatch:
    """Looks at a process and its descendants while they serve.

    Attributes:
        rss_mib: Most that was resident, in MiB; pages that processes share count for each.
        pss_mib: The same with shared pages in equal parts.
    """

    def __init__(self, pid: int) -> None:
        self.rss_mib = 0.0
        self.pss_mib = 0.0
        self._pid = pid
        self._end = Event()
        self._thread = Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        for look in count():
            pids = list(descendants(self._pid))
            self.rss_mib = max(self.rss_mib, sum(map(_resident, pids)) / _KIB_IN_MIB)
            if look % _LOOKS_A_SHARE == 0:
                self.pss_mib = max(self.pss_mib, sum(map(_share, pids)) / _KIB_IN_MIB)
            if self._end.wait(_MEMORY_INTERVAL_S):
                return


def descendants(pid: int) -> Iterator[int]:
    """List a process, its children, and theirs."""
    yield pid
    with suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from descendants(int(child))


def parse_rollup(text: str) -> int:
    """Read the proportional memory, in KiB, in `/proc/<pid>/smaps_rollup`."""
    sizes = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    return int(sizes["Pss"])


def _resident(pid: int) -> int:
    with suppress(OSError):  # it has just ended
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KIB
    return 0


def _share(pid: int) -> int:
    with suppress(OSError, KeyError):  # as above
        return parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
    return 0
