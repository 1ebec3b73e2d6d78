"""The article's network: ResNet50 without its top, average pooling, four dense layers, softmax."""

from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf
from keras.layers import Dense, GlobalAveragePooling2D

from training.errors import BackboneUnavailable, ConfigInvalid

BACKBONE_LAYERS = 175
FEATURES = 2048
HEAD_UNITS = (1024, 1024, 1024, 512)


class BatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]  # no types
    """Keras' layer over the channels, computed by TensorFlow's one operation where it learns.

    Keras 3 composes it of many, in float32 whatever the policy; on a processor they take a good
    part of a training step. The name is Keras', since a weights file names layers by their class.
    """

    def add_weight(self, *args: object, **options: object) -> keras.Variable:
        """Make a variable which, where several devices train, takes the mean of their statistics.

        Each normalises its part of a batch by that part's own.
        """
        return super().add_weight(*args, **{**options, "aggregation": "mean"})

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,  # noqa: FBT001 -- Keras' own signature
        mask: None = None,
    ) -> tf.Tensor:
        """Normalise `[n, h, w, c]` by the batch's statistics or, where frozen, by the stored."""
        if mask is not None:
            raise ValueError("Expected no mask; received one")
        if not (training and self.trainable):
            # On a GPU the one operation has no deterministic gradient for stored statistics.
            return super().call(inputs, training=False)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        for stored, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            stored.assign(stored * self.momentum + now * (1 - self.momentum))
        return outputs


def build(labels: int, backbone: str, size: int | None = None) -> keras.Model:
    """Build the network.

    Layers 0 to 174 are the backbone, the rest the head. The input is float32 `[n, h, w, 3]` as
    Keras' `resnet50.preprocess_input` gives it, the output float32 `[n, labels]` probabilities.

    Args:
        labels: Number of classes.
        backbone: `imagenet`, `none` (random), or the path of a Keras weights file.
        size: Side of the images; any where None.

    Raises:
        BackboneUnavailable: The weights cannot be downloaded or read.
    """
    base = _backbone(backbone, size)
    hidden = GlobalAveragePooling2D(name="features")(base.output)  # [n, 2048]
    for number, units in enumerate(HEAD_UNITS, start=1):
        hidden = Dense(units, activation="relu", name=f"head_{number}")(hidden)
    # In float32 also where the rest computes in 16 bits: a loss needs the digits.
    output = Dense(labels, activation="softmax", dtype="float32", name="probabilities")(hidden)
    return keras.Model(base.input, output, name="covid19_resnet50")


def set_trainable(model: keras.Model, train_from: str, batch_norm: str) -> None:
    """Choose what trains.

    A frozen layer of batch normalisation uses its stored statistics (Keras' rule), so freezing
    these layers is what keeps them in inference mode while others are fine-tuned.

    Args:
        model: As `build` made it.
        train_from: `head`, `all`, or the name of the first backbone layer that trains.
        batch_norm: `training` or `inference`.

    Raises:
        ConfigInvalid: The backbone has no layer of that name.
    """
    first = _first_trained(model, train_from)
    for index, layer in enumerate(model.layers):
        held = isinstance(layer, keras.layers.BatchNormalization) and batch_norm == "inference"
        layer.trainable = index >= first and not held


def fused(model: keras.Model) -> keras.Model:
    """Copy the network with the faster `BatchNormalization`: the same layers and weights."""

    def same(layer: keras.Layer) -> keras.Layer:
        fast = isinstance(layer, keras.layers.BatchNormalization)
        return (BatchNormalization if fast else type(layer)).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=same)
    copy.set_weights(model.get_weights())
    return copy


def feature_extractor(model: keras.Model) -> keras.Model:
    """Cut the network behind its pooling: network input → `[n, 2048]`. Layers are shared."""
    return keras.Model(model.input, model.get_layer("features").output)


def head(model: keras.Model) -> keras.Model:
    """Give the dense layers as a network of their own: `[n, 2048]` → probabilities. Shared too."""
    inputs = hidden = keras.Input((FEATURES,))
    for layer in model.layers[BACKBONE_LAYERS + 1 :]:
        hidden = layer(hidden)
    return keras.Model(inputs, hidden)


def summary(model: keras.Model) -> Iterator[str]:
    """Say what the article shows: Keras' summary, then each layer's index, name, shape, state."""
    lines: list[str] = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    yield from lines
    for index, layer in enumerate(model.layers):
        state = "trains" if layer.trainable else "frozen"
        yield f"{index:3} {layer.name:26} {layer.output.shape!s:24} {state}"


def _backbone(weights: str, size: int | None) -> keras.Model:
    source = None if weights == "none" else weights
    if source not in (None, "imagenet") and not Path(str(source)).is_file():
        raise BackboneUnavailable(
            "--backbone imagenet, none, or the path of a Keras weights file", f"{source}, no file"
        )
    try:
        # Keras checks the hash of what it downloads.
        return keras.applications.ResNet50(
            include_top=False, weights=source, input_shape=(size, size, 3)
        )
    except Exception as error:  # urllib, h5py and Keras raise many kinds
        raise _unavailable(weights, error) from error


def _unavailable(weights: str, error: Exception) -> BackboneUnavailable:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if weights == "imagenet":
        return BackboneUnavailable(
            "a download of Keras' ImageNet weights of ResNet50 (or give --backbone PATH of a file "
            "that you have, or --backbone none to train all layers from random)",
            reason,
        )
    return BackboneUnavailable("Keras weights of ResNet50 without its top", f"{weights}: {reason}")


def _first_trained(model: keras.Model, train_from: str) -> int:
    if train_from == "all":
        return 0
    if train_from == "head":
        return BACKBONE_LAYERS
    names = [layer.name for layer in model.layers[:BACKBONE_LAYERS]]
    if train_from not in names:
        raise ConfigInvalid(
            "train_from to be head, all or a layer of the backbone, such as conv5_block1_1_conv",
            train_from,
        )
    return names.index(train_from)
