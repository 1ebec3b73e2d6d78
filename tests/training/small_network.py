"""A network of ResNet50's kinds of layers, few of them, in its place.

Most of the time of a fit that is a test is that of tracing its layers.
"""

from collections.abc import Callable

import keras
from keras import layers

from training import model

TUNED = "tuned"
"""The layer that fine-tuning may begin with."""


def put_in_place(put: Callable[[object, str, object], None] = setattr) -> None:
    """Have `training.model` build the small network.

    Args:
        put: Sets an attribute; a test's takes it back at its end.
    """
    sizes = {"BACKBONE_LAYERS": 7, "FEATURES": 16, "HEAD_UNITS": (8, 8, 8, 8)}
    for name, value in sizes.items():
        put(model, name, value)
    put(keras.applications, "ResNet50", _backbone)


def _backbone(*, input_shape: tuple[int | None, int | None, int], **_: object) -> keras.Model:
    images = keras.Input(input_shape)
    first = layers.Conv2D(8, 3, strides=4)(images)
    first = layers.ReLU()(layers.BatchNormalization()(first))
    second = layers.Conv2D(16, 3, strides=2, name=TUNED)(first)
    return keras.Model(images, layers.ReLU()(layers.BatchNormalization()(second)))
