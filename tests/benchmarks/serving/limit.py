"""The limit of any server: decoding and inference alone, on threads of one process.

python -m tests.benchmarks.serving.limit --release DIR --engine openvino --precision f32 DIR...

Each DIR holds files of one kind. Does what the service does with a file, and nothing else: no HTTP,
no queue. Prints as JSON, for each DIR, the files per second for each number of threads, and the
milliseconds of a file on one thread.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from app.engines import Engine, EngineOptions, create_engine
from app.imaging import decode
from app.processor import available_cpus
from tests.benchmarks.figures import percentile


def concurrencies(cpus: int) -> tuple[int, ...]:
    """Choose how many threads are tried: one, as many as there are CPUs, and twice that."""
    return tuple(sorted({1, cpus, 2 * cpus}))


def answer(engine: Engine, file: bytes, *, alone: bool = True) -> float:
    """Decode a file and return the first label's probability."""
    image = decode(file, reduced=True).to_model_input()
    return float(engine.predict(image[np.newaxis], alone=alone).probabilities[0, 0])


def run_threads(
    work: Callable[[bytes], object],
    files: Sequence[bytes],
    threads: int,
    warm_up_s: float,
    seconds: float,
) -> list[float]:
    """Work on files without a pause, each thread on one at a time.

    Returns:
        Milliseconds of each piece of work that ended in the window after the warm-up.
    """
    opens = time.perf_counter() + warm_up_s
    closes = opens + seconds

    def run() -> list[float]:
        found = []
        for file in cycle(files):
            began = time.perf_counter()
            if began >= closes:
                break
            work(file)
            ended = time.perf_counter()
            if opens <= ended < closes:
                found.append(1000 * (ended - began))
        return found

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run) for _ in range(threads)]
        return [each for future in futures for each in future.result()]


def measure(
    engine: Engine, files: Sequence[bytes], cpus: int, warm_up_s: float, seconds: float
) -> dict[str, Any]:
    """Try each number of threads on one kind of file."""
    measured = {
        threads: run_threads(
            partial(answer, engine, alone=threads == 1), files, threads, warm_up_s, seconds
        )
        for threads in concurrencies(cpus)
    }
    return {
        "requests_per_s": {
            str(threads): len(found) / seconds for threads, found in measured.items()
        },
        "alone_ms": percentile(measured[1], 0.5),
        "probabilities": [answer(engine, file) for file in files],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("folders", type=Path, nargs="+")
    asked = parser.parse_args()
    cpus = available_cpus()
    options = EngineOptions(threads=cpus)
    engine = create_engine(asked.release, asked.engine, asked.precision, options)
    found = []
    for folder in asked.folders:
        files = [file.read_bytes() for file in sorted(folder.iterdir())]
        answer(engine, files[0])  # the first of an engine is slow
        found.append(measure(engine, files, cpus, asked.warm_up, asked.seconds))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
