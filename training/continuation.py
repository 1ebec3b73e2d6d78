"""Go on from a release: its stages are not trained again where a recipe begins with them.

The recipe may have no other stages: then what the program does after training is done anew.

Every stage begins with a new optimizer, so none has to be kept. But a release holds other weights
than the run that made it ended with: kernels into which batch normalisation is folded, rounded to
bfloat16 (`training.folding`; releases 1 to 3 have theirs unfolded, as float16). So the longer run
begins with what the release computes, and is not the run from random weights: on a folded kernel
steps of the optimizer and weight decay weigh otherwise.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from app.imaging import phantom
from app.release import Continuation, Release, open_release
from training import fit as fitting
from training.config import Config
from training.dataset import Record, fingerprint
from training.errors import ContinuationImpossible
from training.export import ReleaseGraph, Scaling, all_logits
from training.files import write_whole
from training.model import build

log = logging.getLogger(__name__)

NOTE = "continued-from.json"
HISTORY = "evaluation/history.json"
MOST_DIFFERENCE = 1e-3


def continue_from(path: Path, folder: Path, config: Config, records: Sequence[Record]) -> None:
    """Leave a release's weights where `fit` finds them as the result of the stages it was made by.

    Args:
        path: The release.
        folder: Of the fit; nothing is done if it has been continued already.
        config: The recipe.
        records: The images; the same, in the same splits, as the release's.

    Raises:
        ContinuationImpossible: The recipe does not begin with the release's, or the images or
            their splits are other ones.
        ReleaseInvalid: The release's files are not what its manifest says.
    """
    if (folder / NOTE).exists():
        return
    release = open_release(path)
    stages = _stages_done(release, config, records)
    keras.mixed_precision.set_global_policy("float32")
    network = build(len(config.data.labels), "none")
    _take_weights(network, release)
    last = folder / fitting.stage_folder(config, stages - 1)
    last.mkdir(parents=True, exist_ok=True)
    write_whole(last / fitting.FINAL, network.save_weights)
    take_histories(release, folder, config)
    note = Continuation(
        name=release.manifest.name,
        version=release.manifest.version,
        digest=release.digest,
        stages=stages,
    )
    write_whole(folder / NOTE, lambda file: file.write_text(note.model_dump_json()))
    log.info("continued from %s, after stage %d of %d", path, stages, len(config.stages))


def continuation(folder: Path) -> Continuation | None:
    """What the fit in this folder goes on from, if it does."""
    file = folder / NOTE
    return Continuation.model_validate_json(file.read_text()) if file.exists() else None


def _stages_done(release: Release, config: Config, records: Sequence[Record]) -> int:
    made = release.manifest.training
    theirs = Config.model_validate(made.config)
    count = len(theirs.stages)
    same = (theirs.seed, theirs.data, theirs.backbone, theirs.precision, theirs.stages) == (
        config.seed,
        config.data,
        config.backbone,
        config.precision,
        config.stages[:count],
    )
    if not same:
        raise ContinuationImpossible(
            "a recipe with the release's seed, data, backbone, precision and stages, and perhaps "
            "more stages after them",
            "another recipe",
        )
    if fingerprint(records) != made.dataset.fingerprint:
        raise ContinuationImpossible(
            f"images and splits with the release's fingerprint, {made.dataset.fingerprint}",
            fingerprint(records),
        )
    return count


def _take_weights(network: keras.Model, release: Release) -> None:
    """Assign the release's constants to the network's variables, and compare the answers."""
    signature = tf.saved_model.load(str(release.path)).signatures["serving_default"]
    graph = ReleaseGraph(network)
    # Both graphs name their constants in the order of use, the network's before all others.
    order = graph.logits.get_concrete_function().captured_inputs
    for constant, theirs in zip(order, signature.captured_inputs, strict=False):
        graph.variable(constant).assign(tf.cast(theirs, tf.float32))
    image = phantom()[np.newaxis]
    scaling = Scaling(release.manifest.temperature, release.manifest.bias)
    mine = float(scaling.scores(all_logits(ReleaseGraph(network), image))[0])
    theirs = float(signature(image=tf.constant(image))["probabilities"][0, 0])
    if abs(mine - theirs) > MOST_DIFFERENCE:
        raise ContinuationImpossible(
            f"the release's answer for the test image, {theirs:.4f}", f"{mine:.4f}"
        )


def take_histories(release: Release, folder: Path, config: Config) -> None:
    """Leave what was measured at the end of each of a release's epochs where `fit` leaves it."""
    file = release.path / HISTORY
    if not file.exists():
        return
    saved = json.loads(file.read_text())
    for number, stage in enumerate(config.stages):
        if stage.name in saved:
            text = json.dumps(saved[stage.name])
            place = folder / fitting.stage_folder(config, number)
            place.mkdir(parents=True, exist_ok=True)
            (place / fitting.HISTORY).write_text(text)
