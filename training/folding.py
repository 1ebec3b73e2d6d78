"""A trained network in a form that loses little where an engine computes in bfloat16.

Engines multiply batch normalisation into the kernels before it, and then round these to 8 bits of
digits, each engine and precision for itself. Here both are done once, before anything is measured
or calibrated: the kernels are the same numbers in every precision, and what is left to differ is
the rounding of the layers' outputs.

It is done at the export, and the fit's own weights stay as they are. Who goes on from a release
(`training.continuation`) begins with the folded ones.
"""

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.model import BACKBONE_LAYERS

LEAST_GAMMA = 1e-2
"""A channel whose scale is smaller keeps its batch normalisation: `gamma ** 2 - epsilon`, its
variance after folding, has to be a number with digits."""

Values = NDArray[np.float32]


def fold(network: keras.Model) -> None:
    """Move what batch normalisation multiplies by into the kernels, and round these to bfloat16.

    Nothing else changes: but for the rounding the layers' outputs are the same at inference, and
    (but for epsilon) in training, since a batch's own statistics take any scale of a kernel back.

    With `scale = gamma / sqrt(variance + epsilon)` of a channel, its kernel `k`, bias `b` and mean
    `m` become `scale * k`, 0 and `scale * (m - b)`, `gamma` becomes its absolute value, and
    `variance` becomes `gamma ** 2 - epsilon`: what is left to multiply by is 1 (Jacob et al., CVPR
    2018, section 3.2, where it is done for integers).

    Args:
        network: As `training.model.build` makes it; it is changed.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            _fold_into(layer.input._keras_history.operation, layer)  # noqa: SLF001 -- no other way
    for layer in network.layers[BACKBONE_LAYERS + 1 :]:
        layer.kernel.assign(rounded(layer.kernel.numpy()))


def rounded(values: Values) -> Values:
    """Round float32 to the nearest bfloat16, as float32."""
    near: Values = tf.cast(tf.cast(values, tf.bfloat16), tf.float32).numpy()
    return near


def _fold_into(convolution: keras.Layer, norm: keras.layers.BatchNormalization) -> None:
    gamma, mean, variance = (
        each.numpy() for each in (norm.gamma, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)  # [channels], the kernel's last axis
    folds = np.abs(gamma) >= LEAST_GAMMA
    scale = np.where(folds, scale, 1)
    convolution.kernel.assign(rounded(convolution.kernel.numpy() * scale))
    norm.moving_mean.assign(scale * (mean - convolution.bias.numpy()))
    convolution.bias.assign(np.zeros_like(mean))
    norm.gamma.assign(np.where(folds, np.abs(gamma), gamma))
    norm.moving_variance.assign(np.where(folds, gamma**2 - norm.epsilon, variance))
