"""Head epochs on cached features against the plain loop, in one run.

python -m tests.benchmarks.feature_cache [--images 128] [--epochs 5]

Prints the seconds of each (features' computation included), their ratio, and how far apart the
trained weights are. Random images at 224 pixels and a random frozen backbone: the cost is the same.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import typer

from training import fit
from training.config import Config, Stage
from training.fit import Examples


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=128)
    options.add_argument("--epochs", type=int, default=5)
    asked = options.parse_args()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (asked.images, 224, 224, 1), np.uint8)
    examples = Examples(pixels, np.eye(2, dtype=np.float32)[np.arange(asked.images) % 2])
    with tempfile.TemporaryDirectory() as folder:
        backbone = Path(folder) / "backbone.weights.h5"
        keras.applications.ResNet50(include_top=False, weights=None).save_weights(backbone)
        seconds, weights = {}, {}
        for name, cached in (("plain", False), ("cached", True)):
            stage = Stage(name="head", train_from="head", epochs=asked.epochs, learning_rate=1e-3)
            recipe = Config(backbone=str(backbone), cache_features=cached, stages=(stage,))
            start = time.perf_counter()
            network = fit.fit(Path(folder) / name, recipe, examples, examples)
            seconds[name] = time.perf_counter() - start
            weights[name] = [v.numpy() for v in network.variables]
    distance = max(float(np.abs(a - b).max()) for a, b in zip(*weights.values(), strict=True))
    result = {
        "images": asked.images,
        "epochs": asked.epochs,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "speed_up": round(seconds["plain"] / seconds["cached"], 2),
        "largest_weight_difference": distance,
    }
    typer.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
