"""One fit in a process of its own: to be killed, on virtual devices, or with other machines.

The processes are forks of one that has imported TensorFlow, which takes longer than these fits do.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import typer

from tests.training.small_network import put_in_place
from training import fit, workers
from training.config import Config
from training.errors import WorkerLost
from training.files import write_whole
from training.fit import Examples


def examples(count: int, seed: int) -> Examples:
    """Noise; that of the first label is brighter."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 120, (count, 224, 224, 1), np.uint8)
    pixels[labels == 0] += 90
    return Examples(pixels, np.eye(2, dtype=np.float32)[labels])


TRAIN, VALIDATION = examples(24, 1), examples(8, 2)


def start(
    folder: Path, work: Path, *, devices: int = 1, cluster: Any = None, killed_at: str = ""
) -> BaseProcess:
    """Fit the recipe `folder / "config.json"` in a process of its own.

    Args:
        folder: Also takes what the process says, `worker.log`.
        work: The folder of the fit.
        devices: Processors to act as.
        cluster: What TF_CONFIG is to say.
        killed_at: The file, named from the folder of the fit, that the process is killed (-9) at
            when it has written half of it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    arguments = (folder, work, devices, cluster, killed_at)
    process = context.Process(target=main, args=arguments, daemon=True)
    process.start()
    return process


def main(folder: Path, work: Path, devices: int, cluster: Any, killed_at: str) -> None:
    log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    put_in_place()
    if cluster:
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    if devices > 1:
        _divide(devices)
    if killed_at:
        _be_killed(killed_at)
    config = Config.model_validate_json((folder / "config.json").read_text())
    try:
        fit.fit(work, config, TRAIN, VALIDATION, workers.join())
    except WorkerLost as error:
        workers.leave(error)


def _be_killed(at: str) -> None:
    def written(target: Path, write: Callable[[Path], object]) -> None:
        def half(path: Path) -> None:
            write(path)
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        write_whole(target, half if target.as_posix().endswith(f"/{at}") else write)

    vars(fit)["write_whole"] = written


def _divide(devices: int) -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * devices,
    )
    mirrored = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    typer.echo(f"replicas: {mirrored.num_replicas_in_sync}")
    fit.strategy = lambda: mirrored
