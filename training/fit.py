"""Train the stages of a recipe, one after the other, each resumable at its last epoch.

Layout of the folder of a fit:

    <number>-<stage>/epoch-<n>.weights.h5   the last epoch's weights and optimizer state
    <number>-<stage>/history.json           every epoch's measurements
    <number>-<stage>/features.npz           the cached features, where the backbone is frozen
    <number>-<stage>/final.weights.h5       the stage's result; the stage is done
    tensorboard/
"""

import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from app.processor import native_precisions
from training import pipeline
from training.config import Config, Stage
from training.files import write_whole
from training.model import build, feature_extractor, fused, head, set_trainable
from training.pipeline import Array
from training.workers import Loop, Workers, predict_alone

log = logging.getLogger(__name__)

History = list[dict[str, float]]
FINAL = "final.weights.h5"
HISTORY = "history.json"


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Images and what they are.

    Attributes:
        inputs: uint8 `[n, size, size, 1]`, or features float32 `[n, 2048]`.
        targets: float32 `[n, labels]`, one-hot.
    """

    inputs: NDArray[Any]
    targets: Array


class EpochCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keep the last epoch's weights, optimizer state and history, whatever moment ends the run.

    The epoch's number is in the file's name and the file appears whole or not at all. (Keras'
    `BackupAndRestore` writes weights and epoch number one after the other, in place: killed in
    between, an epoch is trained twice.)

    Args:
        folder: Of the stage.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.history: History = []

    def restore(self, model: keras.Model) -> int:
        """Load the last epoch, if there is one, and return the epoch to go on with."""
        saved = sorted(self.folder.glob("epoch-*.weights.h5"))
        if not saved:
            return 0
        model.optimizer.build(model.trainable_variables)
        model.load_weights(saved[-1])
        done = int(saved[-1].name.removeprefix("epoch-").split(".")[0])
        self.history = json.loads((self.folder / HISTORY).read_text())[:done]
        return done

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the history, then the weights, then remove what is older."""
        self.history.append({"epoch": epoch, **{k: float(v) for k, v in (logs or {}).items()}})
        write_whole(self.folder / HISTORY, lambda p: p.write_text(json.dumps(self.history)))
        target = self.folder / f"epoch-{epoch + 1:04}.weights.h5"
        write_whole(target, self.model.save_weights)
        for older in self.folder.glob("epoch-*.weights.h5"):
            if older.name < target.name:
                older.unlink()


def stage_folder(config: Config, index: int) -> str:
    """Name the folder of a stage; -1 is the last."""
    number = range(len(config.stages))[index]
    return f"{number + 1}-{config.stages[number].name}"


def histories(folder: Path, config: Config) -> dict[str, History]:
    """Read what was measured at the end of each epoch: stage's name → epochs.

    A stage that a release without it was continued from is left out.
    """
    files = {
        stage.name: folder / stage_folder(config, i) / HISTORY
        for i, stage in enumerate(config.stages)
    }
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def strategy() -> tf.distribute.Strategy:
    """All GPUs that there are, or the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return tf.distribute.MirroredStrategy() if gpus else tf.distribute.get_strategy()


def fit(
    folder: Path,
    config: Config,
    train: Examples,
    validation: Examples,
    workers: Workers | None = None,
) -> keras.Model:
    """Train every stage that is not done yet.

    Args:
        folder: Where the state is kept; what is in it already is gone on with.
        config: The recipe.
        train: uint8 `[n, 224, 224, 1]` and one-hot targets.
        validation: The same; measured at the end of each epoch, never learned from.
        workers: Train together with these, which have the same arguments and share the folder.

    Returns:
        The trained network.

    Raises:
        BackboneUnavailable: The backbone's weights cannot be had.
        ConfigInvalid: A stage trains from a layer that the backbone does not have, or its batches
            cannot be shared equally.
        RunMismatch: The workers do not share the folder.
        WorkerLost: Another worker has ended.
    """
    config = config.with_backbone(config.backbone)
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(config.precision)
    warn_of_emulation(config)
    if workers is None:
        return _fit_stages(folder, config, (train, validation), None)
    with workers.folder(folder) as mine:
        return _fit_stages(mine, config, (train, validation), workers)


def warn_of_emulation(config: Config) -> None:
    """Tell who trains in bfloat16 where nothing computes in it: right, but of no use."""
    native = "bf16" in native_precisions() or tf.config.list_physical_devices("GPU")
    if config.precision == "mixed_bfloat16" and not native:
        log.warning(
            "Expected a GPU, or a processor that computes in bfloat16, for the recipe's precision; "
            "received neither: a step may take several times as long as in float32."
        )


def _fit_stages(
    folder: Path, config: Config, data: tuple[Examples, Examples], workers: Workers | None
) -> keras.Model:
    with (workers.strategy if workers else strategy()).scope():
        model = fused(build(data[0].targets.shape[1], config.backbone))
        places = [folder / stage_folder(config, n) for n in range(len(config.stages))]
        done = [number for number, place in enumerate(places) if (place / FINAL).exists()]
        if done:
            model.load_weights(places[done[-1]] / FINAL)
        for number in range(done[-1] + 1 if done else 0, len(places)):
            places[number].mkdir(parents=True, exist_ok=True)
            _fit_stage(places[number], config, number, model, data, workers)
            write_whole(places[number] / FINAL, model.save_weights)
    return model


def _fit_stage(  # noqa: PLR0913, PLR0917 -- what, where, on what and with whom
    place: Path,
    config: Config,
    number: int,
    model: keras.Model,
    data: tuple[Examples, Examples],
    workers: Workers | None,
) -> None:
    stage = config.stages[number]
    set_trainable(model, stage.train_from, stage.batch_norm)
    network = model
    train, validation = (_at_size(examples, stage.size) for examples in data)
    if config.cache_features and stage.train_from == "head" and not stage.augment.active:
        train, validation = _features(
            place / "features.npz", model, stage, (train, validation), workers
        )
        network = head(model)
    steps = pipeline.steps_per_epoch(len(train.inputs), stage)
    if workers:
        workers.check_shares(min(stage.batch_size, len(train.inputs)))
    _compile(network, stage, steps)
    checkpoint = EpochCheckpoint(place)
    first = checkpoint.restore(network)
    log.info("stage %s: from epoch %d of %d", stage.name, first + 1, stage.epochs)
    batches = pipeline.training_batches(
        train.inputs, train.targets, stage, config.seed + number, first
    )
    measured = pipeline.evaluation_batches(validation.inputs, validation.targets, stage.batch_size)
    callbacks = [
        checkpoint,
        keras.callbacks.TensorBoard(place.parent / "tensorboard" / place.name, write_graph=False),
    ]
    if workers:
        epochs = range(first, stage.epochs)
        Loop(workers, network).fit(batches, measured, steps, epochs, callbacks)
        return
    network.fit(
        batches,
        steps_per_epoch=steps,
        shuffle=False,  # the pipeline's own business
        initial_epoch=first,
        epochs=stage.epochs,
        validation_data=measured,
        callbacks=callbacks,
    )


def _compile(network: keras.Model, stage: Stage, steps: int) -> None:
    optimizer = keras.optimizers.AdamW(
        _learning_rate(stage, steps),
        weight_decay=stage.weight_decay,
        use_ema=stage.average > 0,
        ema_momentum=stage.average or 0.99,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    network.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(label_smoothing=stage.label_smoothing),
        metrics=["accuracy", keras.metrics.AUC(name="auc")],
        jit_compile=False,  # XLA's convolutions on a CPU are slower than oneDNN's
    )


def _learning_rate(stage: Stage, steps: int) -> float | keras.optimizers.schedules.CosineDecay:
    if stage.schedule == "constant":
        return stage.learning_rate
    warmup = round(stage.warmup_epochs * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=stage.learning_rate / 100 if warmup else stage.learning_rate,
        decay_steps=max(1, stage.epochs * steps - warmup),
        warmup_target=stage.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _at_size(examples: Examples, size: int) -> Examples:
    return Examples(pipeline.resized(examples.inputs, size), examples.targets)


def _features(
    file: Path,
    model: keras.Model,
    stage: Stage,
    data: tuple[Examples, Examples],
    workers: Workers | None,
) -> tuple[Examples, Examples]:
    """The pooled features float32 `[n, 2048]` of both sets; computed once, then read."""
    if not file.exists():
        extractor = feature_extractor(model)
        predict = partial(predict_alone, extractor) if workers else extractor.predict
        arrays = [
            predict(
                pipeline.evaluation_batches(examples.inputs, examples.targets, stage.batch_size)
            )
            for examples in data
        ]
        write_whole(file, lambda path: _save(path, *(np.asarray(a, np.float32) for a in arrays)))
    with np.load(file) as saved:
        train, validation = saved["train"], saved["validation"]
    return Examples(train, data[0].targets), Examples(validation, data[1].targets)


def _save(path: Path, train: Array, validation: Array) -> None:
    np.savez(path, train=train, validation=validation)
