"""Pixels → batches for the network, as a pure function of seed, epoch and step.

Nothing here keeps a state, so that a run which is resumed at an epoch sees the batches that it
would have seen. (Keras' augmentation layers draw from a generator whose state a checkpoint of the
weights does not hold.)
"""

import math

import numpy as np
import tensorflow as tf
from keras.applications.resnet50 import preprocess_input
from numpy.typing import NDArray

from app.imaging import Pixels
from training.config import Augment, Stage

Array = NDArray[np.float32]


def resized(pixels: Pixels, size: int, chunk: int = 512) -> Pixels:
    """Reduce the model's inputs to a stage's size, antialiased.

    Args:
        pixels: uint8 `[n, 224, 224, 1]`.
        size: Side of the result.
        chunk: Images at a time, a bound of memory.

    Returns:
        uint8 `[n, size, size, 1]`.
    """
    if pixels.shape[1] == size:
        return pixels
    out = np.empty((len(pixels), size, size, 1), np.uint8)
    for start in range(0, len(pixels), chunk):
        part = tf.image.resize(pixels[start : start + chunk], (size, size), antialias=True)
        out[start : start + chunk] = tf.saturate_cast(tf.round(part), tf.uint8).numpy()
    return out


def to_network_input(images: tf.Tensor) -> tf.Tensor:
    """Gray `[n, h, w, 1]` in 0 to 255 → what Keras' ResNet50 takes, float32 `[n, h, w, 3]`."""
    return preprocess_input(tf.repeat(tf.cast(images, tf.float32), 3, axis=-1))


def steps_per_epoch(count: int, stage: Stage) -> int:
    """Whole batches of an epoch; the rest of its images comes up in another epoch's order."""
    return max(1, count // stage.batch_size)


def training_batches(
    inputs: NDArray[np.generic], targets: Array, stage: Stage, seed: int, first_epoch: int = 0
) -> tf.data.Dataset:
    """Every batch from an epoch on, to the end of the stage.

    Args:
        inputs: uint8 images `[n, size, size, 1]`, or cached features float32 `[n, 2048]`.
        targets: float32 `[n, labels]`, one-hot.
        stage: Its batch size, number of epochs and augmentation.
        seed: With the epoch's number it gives the epoch's order, with the step's the changes.
        first_epoch: The epoch to begin with.

    Returns:
        `(network input [b, …], targets [b, labels])`, `steps_per_epoch` of them an epoch.
    """
    count = len(inputs)
    steps, batch = steps_per_epoch(count, stage), min(stage.batch_size, count)
    with tf.device("CPU:0"):  # where tf.data runs, also beside GPUs
        all_inputs, all_targets = tf.constant(inputs), tf.constant(targets)

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        shuffled = tf.random.experimental.stateless_shuffle(tf.range(count), [seed, epoch])
        places = tf.reshape(shuffled[: steps * batch], [steps, batch])
        numbers = tf.range(epoch * steps, (epoch + 1) * steps)
        return tf.data.Dataset.from_tensor_slices((numbers, places))

    def load(number: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = tf.gather(all_inputs, places)
        if all_inputs.dtype == tf.uint8:
            chosen = to_network_input(augmented(chosen, stage.augment, [seed, number]))
        return chosen, tf.gather(all_targets, places)

    epochs = tf.data.Dataset.range(first_epoch, stage.epochs, output_type=tf.int32)
    return epochs.flat_map(order).map(load, num_parallel_calls=2).prefetch(2)


def evaluation_batches(
    inputs: NDArray[np.generic], targets: Array, batch_size: int
) -> tf.data.Dataset:
    """Every image once, in order, unchanged: `(network input [b, …], targets [b, labels])`."""
    data = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(batch_size)
    if inputs.dtype == np.uint8:
        data = data.map(lambda images, wanted: (to_network_input(images), wanted))
    return data.prefetch(2)


def augmented(images: tf.Tensor, rules: Augment, seed: tf.Tensor) -> tf.Tensor:
    """Flip, rotate, zoom and change the contrast of each image on its own.

    Args:
        images: `[n, size, size, 1]` in 0 to 255.
        rules: How much at most.
        seed: int32 `[2]`.

    Returns:
        float32, the same shape, in 0 to 255. What comes in from outside the image is black.
    """
    images = tf.cast(images, tf.float32)
    if not rules.active:
        return images
    count, size = tf.shape(images)[0], images.shape[1]
    draws = tf.random.stateless_uniform([4, count], seed, -1, 1)  # flip, angle, zoom, contrast
    flip = tf.where((draws[0] < 0) & rules.flip, -1.0, 1.0)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=_affine(
            flip, draws[1] * math.radians(rules.rotate_degrees), 1 + draws[2] * rules.zoom, size
        ),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
    )
    gain = tf.reshape(1 + draws[3] * rules.contrast, [-1, 1, 1, 1])
    mean = tf.reduce_mean(moved, axis=(1, 2, 3), keepdims=True)
    return tf.clip_by_value((moved - mean) * gain + mean, 0, 255)


def _affine(flip: tf.Tensor, angle: tf.Tensor, zoom: tf.Tensor, size: int) -> tf.Tensor:
    """Rows of 8 numbers: where each output pixel comes from, turned about the image's centre."""
    center = (size - 1) / 2
    cos, sin = zoom * tf.cos(angle), zoom * tf.sin(angle)
    a, b, c, d = cos * flip, -sin, sin * flip, cos  # [n] each
    zero = tf.zeros_like(a)
    right, down = center - center * (a + b), center - center * (c + d)
    return tf.stack([a, b, right, c, d, down, zero, zero], axis=1)
