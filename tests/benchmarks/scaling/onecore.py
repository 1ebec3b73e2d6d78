"""What one core takes for an image: decoding and inference in a process of its own, no HTTP.

python -m tests.benchmarks.scaling.onecore --release DIR --core 0 --rounds 3 --seconds 2

Precisions and kinds of files take turns, so that what else the machine does hits all alike. Times
are of the processor, not of the wall: they leave out when others had the core. Prints JSON.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from app.engines import Engine, EngineOptions, create_engine
from app.errors import EngineUnavailable
from app.imaging import decode
from app.release import Precision, open_release
from tests.benchmarks.xrays import make_inputs

_COPIED = 64 * 2**20  # bytes: more than a core's caches hold
_COPIES = 20


def run(engine: Engine, files: Sequence[bytes], seconds: float) -> list[tuple[float, float]]:
    """Work on files one after another; milliseconds of each for decoding and for inference."""
    found = []
    ends = time.perf_counter() + seconds
    for file in cycle(files):
        if time.perf_counter() >= ends:
            break
        began = time.process_time()
        image = decode(file, reduced=True).to_model_input()
        decoded = time.process_time()
        engine.predict(image[np.newaxis])
        ended = time.process_time()
        found.append((1000 * (decoded - began), 1000 * (ended - decoded)))
    return found


def copy_gb_per_s() -> float:
    """Copy memory: gigabytes read and written in a second of the processor."""
    source = np.ones(_COPIED, np.uint8)
    target = np.empty_like(source)
    np.copyto(target, source)
    began = time.process_time()
    for _ in range(_COPIES):
        np.copyto(target, source)
    return 2 * _COPIES * _COPIED / (time.process_time() - began) / 1e9


def open_engines(release: Path) -> dict[Precision, Engine]:
    """Open a release in all that it passed and this processor computes, if slowly."""
    engines: dict[Precision, Engine] = {}
    for precision in open_release(release).manifest.precisions["openvino"]:
        with suppress(EngineUnavailable):  # bf16 without its instructions
            options = EngineOptions(threads=1)
            engines[precision] = create_engine(release, "openvino", precision, options)
    return engines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    os.sched_setaffinity(0, {asked.core})
    engines = open_engines(asked.release)
    inputs = make_inputs()
    times: dict[Precision, dict[str, list[tuple[float, float]]]] = {
        precision: {kind: [] for kind in inputs} for precision in engines
    }
    for engine in engines.values():
        run(engine, inputs["png-224"], 0.5)  # the first are slow
    copies = []
    for _ in range(asked.rounds):
        for precision, engine in engines.items():
            for kind, files in inputs.items():
                times[precision][kind] += run(engine, files, asked.seconds)
        copies.append(copy_gb_per_s())
    found: dict[str, Any] = {"times_ms": times, "copy_gb_per_s": sorted(copies)[len(copies) // 2]}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
