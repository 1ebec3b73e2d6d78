"""Pixels → batches for the network, as a pure function of seed, epoch and step.

Nothing here keeps a state, so that a run which is resumed at an epoch sees the batches that it
would have seen. (Keras' augmentation layers draw from a generator whose state a checkpoint of the
weights does not hold.)
"""

import math
from collections.abc import Iterator

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
        chosen, wanted = tf.gather(all_inputs, places), tf.gather(all_targets, places)
        if all_inputs.dtype == tf.uint8:
            images = augmented(chosen, stage.augment, [seed, number])
            images, wanted = mixed(images, wanted, stage.augment.mixup, [seed, number])
            chosen = to_network_input(images)
        return chosen, wanted

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
    """Change each image on its own, at random: where it lies, its exposure, frame and detail.

    Exposure, frame and sharpness tell hospitals apart and not lungs; what is varied here cannot be
    learned from.

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
    draws = iter(tf.unstack(tf.random.stateless_uniform([15, tf.shape(images)[0]], seed, -1, 1)))
    images = _moved(images, rules, draws)
    images = _exposed(images, rules, draws)
    images = _framed(images, rules, draws)
    return tf.clip_by_value(_detailed(images, rules, draws, seed), 0, 255)


def mixed(
    images: tf.Tensor, targets: tf.Tensor, concentration: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image, and its target, with the next of the batch (Zhang et al., ICLR 2018).

    Args:
        images: float32 `[n, size, size, 1]`.
        targets: float32 `[n, labels]`, one-hot.
        concentration: Both parameters of the Beta distribution of the image's own share; 0 leaves
            everything as it is.
        seed: int32 `[2]`.

    Returns:
        Both, of the same shapes. An image keeps at least half of itself: the distribution is
        symmetric, so a share below a half is taken as the other's.
    """
    if not concentration:
        return images, targets
    # `augmented` draws by the seed, its noise by one more.
    gammas = tf.random.stateless_gamma([2, tf.shape(images)[0]], tf.add(seed, 2), concentration)
    share = tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1])
    own = tf.maximum(share, 1 - share)

    def mix(values: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        # The frame came from the image before; `roll` by -1 takes the one after.
        return share * values + (1 - share) * tf.roll(values, -1, axis=0)

    return mix(images, _each(own)), mix(targets, own[:, tf.newaxis])


def _moved(images: tf.Tensor, rules: Augment, draws: Iterator[tf.Tensor]) -> tf.Tensor:
    size = images.shape[1]
    flip = tf.where((next(draws) < 0) & rules.flip, -1.0, 1.0)
    angle = next(draws) * math.radians(rules.rotate_degrees)
    zoom, stretch = 1 + next(draws) * rules.zoom, 1 + next(draws) * rules.stretch
    shift = [next(draws) * rules.shift * size for _ in ("right", "down")]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=_affine(flip * zoom * stretch, zoom / stretch, angle, shift, size),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
    )


def _exposed(images: tf.Tensor, rules: Augment, draws: Iterator[tf.Tensor]) -> tf.Tensor:
    gain, offset, log_gamma = (_each(next(draws)) for _ in range(3))
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = (images - mean) * (1 + gain * rules.contrast) + mean
    images = tf.clip_by_value(images + offset * rules.brightness * 255, 0, 255)
    if not rules.gamma:
        return images
    return 255 * (images / 255) ** (2 ** (log_gamma * rules.gamma))


def _framed(images: tf.Tensor, rules: Augment, draws: Iterator[tf.Tensor]) -> tf.Tensor:
    """Give some images the outer part of another one of the batch, darkened at random.

    The centre, which keeps its label, is a superellipse of half-axes 0.7 to 0.94 of half a side;
    over a tenth of half a side the one goes over into the other.
    """
    chosen, wide, high, light = (_each(next(draws)) for _ in range(4))
    if not rules.frame:
        return images
    steps = tf.abs(tf.linspace(-1.0, 1.0, images.shape[1]))
    x = steps[tf.newaxis, tf.newaxis, :, tf.newaxis] / (0.82 + 0.12 * wide)
    y = steps[tf.newaxis, :, tf.newaxis, tf.newaxis] / (0.82 + 0.12 * high)
    outside = tf.clip_by_value(((x**4 + y**4) ** 0.25 - 1) / 0.1, 0, 1)  # [n, size, size, 1]
    outside *= tf.cast((chosen + 1) / 2 < rules.frame, tf.float32)
    frame = tf.roll(images, 1, axis=0) * (light + 1) / 2
    return images * (1 - outside) + frame * outside


def _detailed(
    images: tf.Tensor, rules: Augment, draws: Iterator[tf.Tensor], seed: tf.Tensor
) -> tf.Tensor:
    detail, noise = _each(next(draws)), _each(next(draws))
    if rules.blur or rules.sharpen:
        weights = tf.constant([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # binomial, sigma 1 pixel
        padded = tf.pad(images, [[0, 0], [2, 2], [2, 2], [0, 0]], "REFLECT")
        blurred = tf.nn.conv2d(padded, tf.reshape(weights, [5, 1, 1, 1]), 1, "VALID")
        blurred = tf.nn.conv2d(blurred, tf.reshape(weights, [1, 5, 1, 1]), 1, "VALID")
        amount = tf.where(detail < 0, detail * rules.blur, detail * rules.sharpen)
        images += amount * (images - blurred)
    if rules.noise:
        grain = tf.random.stateless_normal(tf.shape(images), tf.add(seed, 1))
        images += tf.abs(noise) * rules.noise * 255 * grain
    return images


def _each(draw: tf.Tensor) -> tf.Tensor:
    """One number an image, `[n, 1, 1, 1]`."""
    return tf.reshape(draw, [-1, 1, 1, 1])


def _affine(
    across: tf.Tensor, down: tf.Tensor, angle: tf.Tensor, shift: list[tf.Tensor], size: int
) -> tf.Tensor:
    """Rows of 8 numbers: where each output pixel comes from, about the image's centre."""
    center = (size - 1) / 2
    a, b = across * tf.cos(angle), -down * tf.sin(angle)  # [n] each
    c, d = across * tf.sin(angle), down * tf.cos(angle)
    right, below = center - center * (a + b) + shift[0], center - center * (c + d) + shift[1]
    zero = tf.zeros_like(a)
    return tf.stack([a, b, right, c, d, below, zero, zero], axis=1)
