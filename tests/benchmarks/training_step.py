"""One training step with Keras' batch normalisation against one with TensorFlow's fused operation.

python -m tests.benchmarks.training_step --size 224
"""

import argparse
import json
import statistics
import time

import keras
import numpy as np
import typer

from training.model import build, fused, set_trainable


def main() -> None:
    """Time some steps of each, in turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", default="mixed_bfloat16", help="Keras' policy")
    options = parser.parse_args()
    keras.mixed_precision.set_global_policy(options.precision)
    rng = np.random.default_rng(0)
    images = rng.normal(0, 60, (options.batch, options.size, options.size, 3)).astype(np.float32)
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, options.batch)]
    plain = build(2, "none", options.size)
    networks = {"Keras": plain, "fused": fused(plain)}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for network in networks.values():
        set_trainable(network, "all", "training")
        network.compile("adamw", "categorical_crossentropy", jit_compile=False)
        network.train_on_batch(images, targets)  # traces
    for _ in range(options.steps):
        for name, network in networks.items():
            start = time.perf_counter()
            network.train_on_batch(images, targets)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    result = {
        "images": options.batch,
        "size": options.size,
        "precision": options.precision,
        "seconds_a_step": medians,
        "speed_up": round(medians["Keras"] / medians["fused"], 2),
    }
    typer.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
