"""One fit in a process of its own: to be killed, on virtual devices, or with other machines.

The processes are forks of one that has imported TensorFlow, which takes longer than these fits.
"""

import json
import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from training import fit, workers
from training.config import Config
from training.errors import WorkerLost
from training.fit import Examples


def examples(count: int, seed: int) -> Examples:
    """Noise; that of the first label is brighter."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 120, (count, 224, 224, 1), np.uint8)
    pixels[labels == 0] += 90
    return Examples(pixels, np.eye(2, dtype=np.float32)[labels])


TRAIN, VALIDATION = examples(24, 1), examples(8, 2)


def start(folder: Path, work: Path, devices: int = 1, cluster: Any = None) -> BaseProcess:
    """Fit the recipe `folder / "config.json"` in a process of its own.

    Args:
        folder: Also takes what the process says, `worker.log`.
        work: The folder of the fit.
        devices: Processors to act as.
        cluster: What TF_CONFIG is to say.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=main, args=(folder, work, devices, cluster), daemon=True)
    process.start()
    return process


def main(folder: Path, work: Path, devices: int, cluster: Any) -> None:
    log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    if cluster:
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    if devices > 1:
        _divide(devices)
    config = Config.model_validate_json((folder / "config.json").read_text())
    try:
        fit.fit(work, config, TRAIN, VALIDATION, workers.join())
    except WorkerLost as error:
        workers.leave(error)


def _divide(devices: int) -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * devices,
    )
    mirrored = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    print("replicas:", mirrored.num_replicas_in_sync, flush=True)  # noqa: T201 -- for the test
    fit.strategy = lambda: mirrored
