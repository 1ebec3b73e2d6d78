"""The limit: decoding and inference alone on threads of one process, with the CPU that they take.

python -m tests.benchmarks.bulk.alone RELEASE PRECISION THREADS SECONDS FOLDER
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import cast

from app.engines import EngineOptions, open_engine
from app.release import Precision, open_release
from tests.benchmarks.serving.limit import answer, run_threads

WARM_UP_S = 2.0


def main() -> None:
    release, precision, threads, seconds, folder = sys.argv[1:]
    count = int(threads)
    options = EngineOptions(precision=cast("Precision", precision), threads=count)
    engine = open_engine(open_release(Path(release)), options)
    files = [file.read_bytes() for file in sorted(Path(folder).iterdir())]
    work = partial(answer, engine, alone=count == 1)
    work(files[0])
    run_threads(work, files, count, 0, WARM_UP_S)
    began, used = time.perf_counter(), _cpu()
    found = run_threads(work, files, count, 0, float(seconds))
    lasted, spent = time.perf_counter() - began, _cpu() - used
    json.dump({"files_per_s": len(found) / lasted, "cpu_ms": 1000 * spent / len(found)}, sys.stdout)


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


if __name__ == "__main__":
    main()
