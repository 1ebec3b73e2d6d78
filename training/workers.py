"""Training on several machines, which share the work of every step.

`TF_CONFIG`, TensorFlow's own convention, says who takes part and which of them this is. Each takes
its part of every batch, all add up their gradients (`tf.distribute.MultiWorkerMirroredStrategy`),
and so all hold the same weights after every step. One of them, the chief, writes what is kept.

Keras 3 cannot `fit` with this strategy: before the first step it makes a tensor of what is spread
over the workers, and later averages a step's numbers over an axis that they do not have. So the
loop over epochs is here. It ends in the weights that `fit` ends in, but for the order of additions.
"""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.errors import ConfigInvalid, RunMismatch, WorkerLost


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that train together, one on each machine.

    Attributes:
        strategy: Adds up what they compute.
        chief: Whether this is the one that writes.
    """

    strategy: tf.distribute.MultiWorkerMirroredStrategy
    chief: bool

    @contextmanager
    def folder(self, shared: Path) -> Iterator[Path]:
        """Give the folder of a fit to the chief, and a copy for the time being to another.

        All save, since Keras makes variables on the way, and these are made by all together.

        Args:
            shared: The folder.

        Raises:
            RunMismatch: Another worker sees other files in it.
            WorkerLost: Another worker has ended.
        """
        with TemporaryDirectory() as temporary, _watching():
            mine = shared if self.chief else Path(temporary) / "fit"
            if shared.exists() and not self.chief:
                shutil.copytree(shared, mine)
            self._agree(mine)
            yield mine

    def check_shares(self, images: int) -> None:
        """Check that every device gets the same part of a batch.

        Raises:
            ConfigInvalid: It does not.
        """
        devices = self.strategy.num_replicas_in_sync
        if images % devices:
            raise ConfigInvalid(f"batches that {devices} devices share equally", f"{images} images")

    def _agree(self, folder: Path) -> None:
        """Wait for all, so that nobody writes yet, and compare what they go on from."""
        files = sorted(p.relative_to(folder).as_posix() for p in folder.glob("[0-9]*/*"))
        if len(set(self.gather(zlib.crc32("\n".join(files).encode())))) > 1:
            raise RunMismatch(
                "a work folder that all workers share, with the same files for each",
                f"other files than these: {', '.join(files) or 'none'}",
            )

    def gather(self, number: int) -> list[int]:
        """Wait for all; then each has everyone's number."""
        numbers = self.strategy.gather(tf.constant([number], tf.int64), axis=0)
        return [int(n) for n in numbers.numpy()]


@contextmanager
def chief_first(workers: Workers | None) -> Iterator[None]:
    """Let the others do what is in here after the chief has, so that they find it done.

    Raises:
        WorkerLost: Another worker has ended.
    """
    if workers is None:
        yield
        return
    with _watching():
        if not workers.chief:
            workers.gather(0)
        yield
        if workers.chief:
            workers.gather(0)


@contextmanager
def _watching() -> Iterator[None]:
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.InternalError) as error:
        raise WorkerLost(
            "every worker until the end (start all of them again: they go on from the last epoch)",
            f"one that ended or does not answer: {error.message.splitlines()[0][:200]}",
        ) from error


def join() -> Workers | None:
    """Meet the other workers that `TF_CONFIG` names; None where it names no other.

    TensorFlow wants this before anything else, and waits here until all have come.

    Raises:
        ConfigInvalid: `TF_CONFIG` cannot be used.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        cluster = tf.train.ClusterSpec(json.loads(text).get("cluster", {}))
        others = [f"{job} {n}" for job in cluster.jobs for n in cluster.task_indices(job)][1:]
        if not others:
            return None
        tf.get_logger().setLevel("WARNING")  # it tells of every sum
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigInvalid("TF_CONFIG in TensorFlow's form", f"{text} ({error})") from error
    resolver = strategy.cluster_resolver
    leads = "chief" if "chief" in cluster.jobs else "worker"
    return Workers(strategy, (resolver.task_type, resolver.task_id) == (leads, 0))


def leave(error: WorkerLost) -> NoReturn:
    """End the process with the error, without TensorFlow's own end: it waits for the lost."""
    sys.stderr.write(f"training: {error}\n")
    sys.stderr.flush()
    os._exit(1)


class Loop:
    """What `fit` does with a network, by several workers.

    Args:
        workers: Who takes part.
        network: Compiled, in the strategy's scope.
    """

    def __init__(self, workers: Workers, network: keras.Model) -> None:
        self.strategy = workers.strategy
        self.network = network
        with self.strategy.scope():
            self.loss = keras.metrics.Mean(name="loss")
            self.others = [
                keras.metrics.CategoricalAccuracy(name="accuracy"),
                keras.metrics.AUC(name="auc"),
            ]
        self._learn, self._measure = (
            tf.function(partial(self.strategy.run, each), autograph=False)
            for each in (self._learn_rows, self._measure_rows)
        )

    def fit(
        self,
        batches: tf.data.Dataset,
        validation: tf.data.Dataset,
        steps: int,
        epochs: range,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Train for some epochs.

        Args:
            batches: `(network input [b, …], targets [b, labels])`, of all these epochs.
            validation: The same; measured at the end of each epoch.
            steps: An epoch's.
            epochs: Their numbers.
            callbacks: As Keras'.
        """
        told = keras.callbacks.CallbackList(list(callbacks), model=self.network)
        source, measured = iter(self._shares(batches)), self._shares(validation)
        told.on_train_begin()
        for epoch in epochs:
            told.on_epoch_begin(epoch)
            for _ in range(steps):
                self._learn(next(source))
            logs = self._taken("")
            for batch in measured:
                self._measure(batch)
            told.on_epoch_end(epoch, logs | self._taken("val_"))
        self.network.optimizer.finalize_variable_values(self.network.trainable_variables)
        told.on_train_end()

    def _shares(self, batches: tf.data.Dataset) -> tf.distribute.DistributedDataset:
        """Split each batch by rows.

        Each worker makes every batch and keeps its rows, so that what is drawn for an
        image, and which one it is, do not depend on the number of workers.
        """
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        return self.strategy.experimental_distribute_dataset(batches.with_options(options))

    def _learn_rows(self, inputs: tf.Tensor, targets: tf.Tensor) -> None:
        optimizer, variables = self.network.optimizer, self.network.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self.network(inputs, training=True)
            losses = self.network.loss.call(targets, outputs)  # [b]
            # Shares are equal, and the optimizer adds up gradients: the mean of the whole batch.
            mean = tf.reduce_mean(losses) / self.strategy.num_replicas_in_sync
            scaled = optimizer.scale_loss(mean)
        optimizer.apply(tape.gradient(scaled, variables), variables)
        self._note(losses, targets, outputs)

    def _measure_rows(self, inputs: tf.Tensor, targets: tf.Tensor) -> None:
        outputs = self.network(inputs, training=False)
        self._note(self.network.loss.call(targets, outputs), targets, outputs)

    def _note(self, losses: tf.Tensor, targets: tf.Tensor, outputs: tf.Tensor) -> None:
        self.loss.update_state(losses)
        for metric in self.others:
            metric.update_state(targets, outputs)

    def _taken(self, prefix: str) -> dict[str, float]:
        """Read the measures, of all workers together, and begin anew."""
        logs = {}
        for metric in (*self.others, self.loss):
            logs[prefix + metric.name] = float(metric.result())
            metric.reset_state()
        return logs


def predict_alone(network: keras.Model, batches: tf.data.Dataset) -> NDArray[np.float32]:
    """`network.predict`, without the other workers: `(inputs [b, …], …)` → outputs `[n, …]`."""
    step = tf.function(partial(network, training=False), autograph=False)
    return np.concatenate([step(inputs).numpy() for inputs, _ in batches])
