"""What a second deployment would cost: a decoded image on its way to another replica of Ray Serve.

python -m tests.benchmarks.cluster.hop [--times 300]

Prints as JSON the median milliseconds of one call there and back, and the CPU milliseconds that the
two processes spend on it, beside those of decoding and inference of the same image on one thread.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import typer

from app.engines import EngineOptions, create_engine
from app.imaging import decode
from tests.benchmarks.figures import percentile
from tests.benchmarks.machine import newest_release
from tests.benchmarks.xrays import make_inputs
from tests.integration.ray_nodes import read_environment


def milliseconds(work: Callable[[], object], times: int) -> dict[str, float]:
    """Take the median time of some work, and the mean CPU time of this process."""
    work()
    wall, cpu = [], time.process_time()
    for _ in range(times):
        began = time.perf_counter()
        work()
        wall.append(1000 * (time.perf_counter() - began))
    middle = percentile(wall, 0.5) or 0.0
    return {"median_ms": middle, "cpu_ms": 1000 * (time.process_time() - cpu) / times}


class Echo:
    """Stands for a replica with an engine; answers with as much as an engine does."""

    def predict(self, images: Any) -> tuple[Any, Any, Any]:
        n = len(images)
        return np.zeros((n, 2), np.float32), np.zeros((n, 7, 7), np.float32), np.zeros(n)

    def cpu_s(self) -> float:
        return time.process_time()


def hop(images: Any, times: int) -> dict[str, float]:
    """Measure the way to another replica and back."""
    folder = tempfile.mkdtemp(prefix="ray-")
    os.environ |= read_environment() | {"RAY_TMPDIR": folder}
    import ray  # noqa: PLC0415 -- after its environment
    from ray import serve  # noqa: PLC0415

    ray.init(log_to_driver=False)
    serve.start(proxy_location="Disabled")
    handle = serve.run(serve.deployment(Echo).bind(), route_prefix=None)
    before = handle.cpu_s.remote().result()
    found = milliseconds(lambda: handle.predict.remote(images).result(), times)
    found["cpu_ms"] += 1000 * (handle.cpu_s.remote().result() - before) / times
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    return found


def alone(files: Sequence[bytes], times: int) -> dict[str, dict[str, float]]:
    """Measure decoding and inference on one thread."""
    engine = create_engine(newest_release(), options=EngineOptions(threads=1))
    image = decode(files[0], reduced=True).to_model_input()[np.newaxis]
    return {
        "decode": milliseconds(lambda: decode(files[0], reduced=True).to_model_input(), times),
        f"inference {engine.precision}": milliseconds(lambda: engine.predict(image), times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=300)
    times = parser.parse_args().times
    files = make_inputs(["png-1024"])["png-1024"]
    images = decode(files[0], reduced=True).to_model_input()[np.newaxis]
    found = {"hop": hop(images, times)} | alone(files, times)
    typer.echo(found)


if __name__ == "__main__":
    main()
