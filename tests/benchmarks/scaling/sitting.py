"""What is measured, in one sitting: a core, the HTTP around it, the real service under loads."""

import importlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.engines import INT8
from tests.benchmarks.figures import percentile
from tests.benchmarks.machine import ROOT, describe, newest_release
from tests.benchmarks.scaling.queueing import Fleet, Seen, Simulation, drawn_from, poisson
from tests.benchmarks.serving import servers
from tests.benchmarks.serving.requests import build_request
from tests.benchmarks.serving.servers import Running
from tests.benchmarks.xrays import KINDS, Inputs, make_inputs

LOADS = (0.3, 0.6, 0.9, 1.3, 2.0)
"""Arrivals over what a client that is alone gets: below, near and beyond all that can be done."""

WAITING = 16
"""Places to wait in, so few that they are filled within a window."""

QUANTILES = 100
REPLICATIONS = 100
"""Of the simulation of one load, whose spread is the chance in a measured window."""

PARQUET_ROWS = 20_000
_log = logging.getLogger(__name__)


def quantiles(values: Sequence[float]) -> list[float]:
    """Give the distribution as `QUANTILES + 1` values at equal distances."""
    ranked = sorted(values)
    last = len(ranked) - 1
    return [round(ranked[round(last * step / QUANTILES)], 3) for step in range(QUANTILES + 1)]


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Measure everything."""
    core, load_core = sorted(os.sched_getaffinity(0))[:2]
    machine = describe()
    inputs = make_inputs()
    _log.info("one core")
    alone = _run("scaling.onecore", _core_options(core, rounds, 2 * seconds))
    found = {
        "machine": machine,
        "bytes": {kind: sum(map(len, files)) // len(files) for kind, files in inputs.items()},
        "core": {
            precision: {kind: _summarize(times) for kind, times in kinds.items()}
            for precision, kinds in alone["times_ms"].items()
        },
        "copy_gb_per_s": round(alone["copy_gb_per_s"], 1),
        "weights_mb": _weights_mb(),
        "http": {},
        "parquet_bytes": _parquet_bytes(),
        **_tls(),
    }
    with tempfile.TemporaryDirectory() as folder:
        service = _Service(core, load_core, inputs, Path(folder))
        _log.info("HTTP")
        found["http"] = service.measure_http(3 * seconds)
        _log.info("loads")
        found["validation"] = service.validate("png-1024", rounds, 8 * seconds)
    found["machine"]["load_after"] = [round(each, 2) for each in os.getloadavg()]
    return found


def _core_options(core: int, rounds: int, seconds: float) -> list[str]:
    release = ["--release", str(newest_release()), "--core", str(core)]
    return [*release, "--rounds", str(rounds), "--seconds", str(seconds)]


def _summarize(times: Sequence[Sequence[float]]) -> dict[str, Any]:
    count = len(times)
    return {
        "images": count,
        "decode_ms": round(sum(decode for decode, _ in times) / count, 2),
        "inference_ms": round(sum(inference for _, inference in times) / count, 2),
        "quantiles_ms": quantiles([sum(each) for each in times]),
    }


def _run(module: str, options: Sequence[str], core: int | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        out, _ = process.communicate(timeout=600)
    if process.returncode != 0:
        raise RuntimeError(f"Expected {module} to end with 0; received {process.returncode}.")
    answer: dict[str, Any] = json.loads(out)
    return answer


def _weights_mb() -> dict[str, float]:
    """Give the megabytes of the network's weights: stored in integers and in half precision."""
    release = newest_release()
    half = (release / "saved_model.pb").stat().st_size / 1e6
    integers = (release / INT8).with_suffix(".bin").stat().st_size / 1e6
    return {"int8": round(integers, 1), "bf16": round(half, 1), "f32": round(2 * half, 1)}


def _tls() -> dict[str, float]:
    """Ask openssl what a core encrypts, and how often it signs a handshake."""
    lines = _openssl("-evp", "aes-128-gcm", "-bytes", "16384")
    signs = _openssl("ecdsap256")
    encrypted = float(re.findall(r"^\+F:.*:([\d.]+)$", lines, re.MULTILINE)[0])
    signed = float(re.findall(r"^\+F4:\d+:256:([\d.]+):", signs, re.MULTILINE)[0])
    return {"tls_gb_per_s": round(encrypted / 1e9, 2), "handshakes_per_s": round(signed)}


def _openssl(*options: str) -> str:
    command = ["openssl", "speed", "-mr", "-seconds", "2", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def _parquet_bytes() -> float:
    """Write rows as bulk scoring does, with names and numbers by chance: bytes of one."""
    pa: Any = importlib.import_module("pyarrow")  # of an extra, and without types
    pq: Any = importlib.import_module("pyarrow.parquet")
    rng = np.random.default_rng(0)
    uids = [
        [
            f"1.2.826.0.1.3680043.8.498.{number}"
            for number in rng.integers(10**17, 10**18, PARQUET_ROWS)
        ]
        for _ in range(3)
    ]
    probabilities = rng.random(PARQUET_ROWS)
    table = pa.table(
        {
            "path": [f"archive/{n // 1000:06}/{n:09}.dcm" for n in range(PARQUET_ROWS)],
            "sha256": [rng.bytes(32).hex() for _ in range(PARQUET_ROWS)],
            **dict(zip(("study_uid", "series_uid", "instance_uid"), uids, strict=True)),
            "probability": probabilities,
            "acceptance": rng.random(PARQUET_ROWS),
            "prediction_set": ["COVID-19" if each > 0.5 else "Normal" for each in probabilities],
            "digest": ["96a1d4a0b4ddc1c2b74b435b2bc6e435"] * PARQUET_ROWS,
            "error": pa.nulls(PARQUET_ROWS, pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    size: int = sink.getvalue().size
    return round(size / PARQUET_ROWS, 1)


class _Service:
    """The real service on one core, and its load on another."""

    def __init__(self, core: int, load_core: int, inputs: Inputs, folder: Path) -> None:
        self._core, self._load_core, self._folder = core, load_core, folder
        self._inputs = inputs
        (contender,) = servers.contenders(("service",), newest_release(), [("openvino", "int8")])
        more = {"COVID_XRAY_QUEUE_LIMIT": str(WAITING), "COVID_XRAY_LOG_LEVEL": "error"}
        self._contender = replace(contender, environment=contender.environment | more)

    def _start(self) -> Running:
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._core})  # which it inherits, and counts its threads by
        try:
            return Running(self._contender, self._folder / "log")
        finally:
            os.sched_setaffinity(0, allowed)

    def measure_http(self, seconds: float) -> dict[str, float]:
        """Take the processor's milliseconds of the event loop for a request, by kind."""
        found = {}
        running = self._start()
        try:
            for kind in KINDS:
                files = self._write(kind)
                running.wait_for_answer(files[0].read_bytes())
                before = _main_thread_ms(running.pid)
                answers = self._alone(running, files, seconds, warm_up_s=0.0)
                asked = len(answers) + 1  # and the one whose answer came too late
                found[kind] = round((_main_thread_ms(running.pid) - before) / asked, 2)
        finally:
            running.stop()
        return found

    def validate(self, kind: str, rounds: int, seconds: float) -> dict[str, Any]:
        """Measure loads, each between two windows of a client that is alone, and predict them."""
        files = self._write(kind)
        running = self._start()
        loads: dict[float, list[dict[str, Any]]] = {load: [] for load in LOADS}
        pooled: list[float] = []
        try:
            running.wait_for_answer(files[0].read_bytes())
            before = self._alone(running, files, seconds / 4)
            for number in range(rounds):
                for load in LOADS:
                    rate = load * 1000 * len(before) / sum(before)
                    answers = self._load(running, files, rate, seconds, number)
                    after = self._alone(running, files, seconds / 4)
                    window = {"rate": rate, "alone_ms": before + after, "answers": answers}
                    loads[load].append(window)
                    pooled += after
                    before = after
        finally:
            running.stop()
        return {
            "kind": kind,
            "seconds": seconds,
            "rounds": rounds,
            "alone_ms": round(sum(pooled) / len(pooled), 2),
            "alone_p99_ms": percentile(pooled, 0.99),
            "loads": [_compare(load, each, seconds) for load, each in loads.items()],
        }

    def _write(self, kind: str) -> list[Path]:
        paths = []
        for index, file in enumerate(self._inputs[kind]):
            paths.append(self._folder / f"{kind}-{index}")
            paths[-1].write_bytes(build_request(self._contender.path, file))
        return paths

    def _alone(
        self, running: Running, files: list[Path], seconds: float, warm_up_s: float = 0.2
    ) -> list[float]:
        options = ["--port", str(running.port), "--clients", "1", "--seconds", str(seconds)]
        command = [*options, "--warm-up", str(warm_up_s), *map(str, files)]
        found = _run("serving.load", command, self._load_core)
        latencies: list[float] = found["latencies_ms"]
        return latencies

    def _load(
        self, running: Running, files: list[Path], rate: float, seconds: float, seed: int
    ) -> dict[str, Any]:
        options = ["--port", str(running.port), "--rate", str(rate), "--seconds", str(seconds)]
        return _run(
            "scaling.openload", [*options, "--seed", str(seed), *map(str, files)], self._load_core
        )


def _main_thread_ms(pid: int) -> float:
    """Read for how many milliseconds a process' first thread has had a processor."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


def _compare(load: float, windows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Put what was measured beside what the model says of the same arrivals."""
    latencies = [each for window in windows for each in window["answers"]["latencies_ms"]]
    refused = sum(window["answers"]["refused"] for window in windows)
    predicted = [_predict(windows, seconds, seed) for seed in range(REPLICATIONS)]
    return {
        "load": load,
        "rate": round(sum(window["rate"] for window in windows) / len(windows), 2),
        "requests": len(latencies) + refused,
        "failed": sum(window["answers"]["failed"] for window in windows),
        "measured": {
            "answers_per_s": round(len(latencies) / seconds / len(windows), 2),
            "p50_ms": round(percentile(latencies, 0.5) or 0, 1),
            "p95_ms": round(percentile(latencies, 0.95) or 0, 1),
            "p99_ms": round(percentile(latencies, 0.99) or 0, 1),
            "refused": round(refused / (len(latencies) + refused), 4),
        },
        "predicted": {
            name: [
                round(percentile([each[name] for each in predicted], share) or 0, 4)
                for share in (0.5, 0.05, 0.95)
            ]
            for name in predicted[0]
        },
    }


def _predict(windows: list[dict[str, Any]], seconds: float, seed: int) -> dict[str, float]:
    """Simulate all windows of a load once, each with its own arrivals."""
    fleet = Fleet(replicas=1, threads=1, waiting=WAITING)
    total = Seen(0.0)
    for number, window in enumerate(windows):
        work = drawn_from(quantiles(window["alone_ms"]))
        arrivals = poisson(window["rate"], number)
        seen = Simulation(fleet, work, arrivals, (0.0, seconds), seed).run()
        total.latencies_s += seen.latencies_s
        total.refusals += seen.refusals
        total.seconds += seconds
    return {
        "answers_per_s": len(total.latencies_s) / total.seconds,
        "p50_ms": total.latency_ms(0.5),
        "p95_ms": total.latency_ms(0.95),
        "p99_ms": total.latency_ms(0.99),
        "refused": total.refused_share,
    }
