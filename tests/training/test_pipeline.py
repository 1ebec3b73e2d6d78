from collections.abc import Callable
from itertools import chain

import numpy as np

from app.imaging import phantom
from training import pipeline
from training.config import Augment, Stage

IMAGES = np.repeat(np.arange(20, dtype=np.uint8), 32 * 32).reshape(20, 32, 32, 1)
TARGETS = np.eye(2, dtype=np.float32)[np.arange(20) % 2]


def places(stage: Stage, seed: int, first_epoch: int = 0) -> list[list[float]]:
    """Which image each batch holds, by its gray."""
    batches = pipeline.training_batches(IMAGES, TARGETS, stage, seed, first_epoch)
    return [(batch[:, 0, 0, 0] + 103.939).numpy().round().tolist() for batch, _ in batches]


def test_an_epoch_is_a_new_order_of_all_images(stage: Callable[..., Stage]) -> None:
    batches = places(stage(batch_size=5, epochs=2), seed=1)
    first, second = list(chain(*batches[:4])), list(chain(*batches[4:]))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_batches_from_an_epoch_on_are_the_ones_of_an_uninterrupted_run(
    stage: Callable[..., Stage],
) -> None:
    rules = stage(batch_size=8, epochs=3, augment=Augment(flip=True, contrast=0.3))
    whole = list(pipeline.training_batches(IMAGES, TARGETS, rules, seed=4))
    rest = list(pipeline.training_batches(IMAGES, TARGETS, rules, seed=4, first_epoch=1))
    assert len(whole) == 6
    for (images, targets), (again, wanted) in zip(whole[2:], rest, strict=True):
        assert np.array_equal(images, again)
        assert np.array_equal(targets, wanted)


def test_targets_stay_with_their_images(stage: Callable[..., Stage]) -> None:
    rules = stage(batch_size=4, epochs=1)
    for images, targets in pipeline.training_batches(IMAGES, TARGETS, rules, seed=2):
        grays = (images[:, 0, 0, 0] + 103.939).numpy().round().astype(int)
        assert np.array_equal(targets.numpy().argmax(axis=1), grays % 2)


def test_the_network_input_is_keras_caffe_preprocessing() -> None:
    out = pipeline.to_network_input(np.full((1, 1, 1, 1), 100, np.uint8)).numpy()
    assert np.allclose(out[0, 0, 0], [100 - 103.939, 100 - 116.779, 100 - 123.68], atol=1e-5)


def test_without_augmentation_pixels_are_unchanged() -> None:
    image = phantom()[np.newaxis]
    assert np.array_equal(pipeline.augmented(image, Augment(), [0, 0]), image.astype(np.float32))


def test_a_flip_exchanges_left_and_right_and_nothing_else() -> None:
    images = np.repeat(phantom()[np.newaxis], 16, axis=0)
    images[:, :, :40] = 0  # phantom is symmetric
    out = pipeline.augmented(images, Augment(flip=True), [1, 2]).numpy()
    same = [np.allclose(o, i, atol=1e-2) for o, i in zip(out, images, strict=True)]
    flipped = [np.allclose(o, i[:, ::-1], atol=1e-2) for o, i in zip(out, images, strict=True)]
    assert all(a != b for a, b in zip(same, flipped, strict=True))
    assert any(same)
    assert any(flipped)


def test_rotation_and_zoom_keep_the_centre_and_their_limits() -> None:
    image = np.zeros((64, 65, 65, 1), np.uint8)
    image[:, 32, 32] = 255  # the centre
    image[:, 32, 52] = 255  # 20 pixels to its right
    rules = Augment(rotate_degrees=10, zoom=0.2)
    out = pipeline.augmented(image, rules, [3, 4]).numpy()[..., 0]
    assert (out[:, 32, 32] > 200).all()
    radii, angles = [], []
    for one in out:
        one[28:37, 28:37] = 0
        y, x = np.unravel_index(one.argmax(), one.shape)
        radii.append(np.hypot(y - 32, x - 32))
        angles.append(np.degrees(np.arctan2(y - 32, x - 32)))
    assert 20 / 1.2 - 1 <= min(radii) < 19
    assert 21 < max(radii) <= 20 / 0.8 + 1
    assert -13 <= min(angles) < -3
    assert 3 < max(angles) <= 13


def test_contrast_keeps_the_mean_and_the_range() -> None:
    images = np.repeat(phantom()[np.newaxis], 8, axis=0)
    out = pipeline.augmented(images, Augment(contrast=0.2), [5, 6]).numpy()
    spread = out.std(axis=(1, 2, 3)) / images[0].std()
    assert spread.min() > 0.79
    assert spread.max() < 1.21
    assert np.ptp(spread) > 0.1
    assert np.allclose(out.mean(axis=(1, 2, 3)), images[0].mean(), atol=1.5)


def test_a_shift_moves_and_a_stretch_changes_the_aspect() -> None:
    image = np.zeros((32, 100, 100, 1), np.uint8)
    image[:, 40:60, 40:60] = 255
    shifted = pipeline.augmented(image, Augment(shift=0.1), [1, 1]).numpy()[..., 0]
    centres = np.array([np.argwhere(one > 127).mean(axis=0) for one in shifted]) - 49.5
    assert 5 < np.abs(centres).max() <= 10.5
    assert np.allclose((shifted > 127).sum(axis=(1, 2)), 400, atol=45)
    stretched = pipeline.augmented(image, Augment(stretch=0.2), [1, 2]).numpy()[..., 0]
    boxes = np.array([np.ptp(np.argwhere(one > 127), axis=0) + 1 for one in stretched])
    aspect = boxes[:, 0] / boxes[:, 1]
    assert aspect.min() < 0.8
    assert aspect.max() > 1.2


def test_exposure_changes_brightness_and_gamma_and_keeps_black_and_white() -> None:
    image = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (16, 64, 1))[..., np.newaxis]
    brighter = pipeline.augmented(image, Augment(brightness=0.2), [7, 1]).numpy() - image
    middle = brighter[:, 0, 32, 0]
    assert np.abs(middle).max() <= 51.1
    assert np.ptp(middle) > 40
    curved = pipeline.augmented(image, Augment(gamma=1), [7, 2]).numpy()
    assert np.allclose(curved[:, 0, 0], 0)
    assert np.allclose(curved[:, 0, -1], 255)
    exponent = np.log(curved[:, 0, 32, 0] / 255) / np.log(image[0, 0, 32, 0] / 255)
    assert 0.5 <= exponent.min() < 0.8
    assert 1.2 < exponent.max() <= 2.01


def test_a_frame_comes_from_another_image_and_the_centre_stays() -> None:
    values = np.array([40, 80, 120, 160], np.uint8)
    image = np.ones((4, 100, 100, 1), np.uint8) * values[:, None, None, None]
    out = pipeline.augmented(image, Augment(frame=0.999), [2, 2]).numpy()[..., 0]
    assert np.allclose(out[:, 20:80, 20:80], values[:, None, None])
    assert (out[:, 0, 0] <= np.roll(values, 1) + 0.5).all()  # the image before it, darkened
    assert np.ptp(out[:, 0, 0] / np.roll(values, 1)) > 0.2
    some = pipeline.augmented(np.repeat(image, 50, axis=0), Augment(frame=0.3), [3, 3]).numpy()
    changed = ~np.isclose(some[:, 0, 0, 0], np.repeat(values, 50))
    assert 0.2 < changed.mean() < 0.4


def test_detail_goes_from_blurred_to_sharpened() -> None:
    lines = np.full((64, 64, 64, 1), 100, np.uint8)
    lines[:, ::2] = 150
    out = pipeline.augmented(lines, Augment(blur=0.9, sharpen=1), [4, 4]).numpy()
    spread = out[:, 8:-8, 8:-8].std(axis=(1, 2, 3)) / 25
    assert 0.09 < spread.min() < 0.4
    assert 1.6 < spread.max() <= 2.01


def test_noise_is_other_in_each_image_and_bounded() -> None:
    even = np.full((32, 64, 64, 1), 128, np.uint8)
    spread = pipeline.augmented(even, Augment(noise=0.05), [5, 5]).numpy().std(axis=(1, 2, 3))
    assert spread.min() < 3
    assert 9 < spread.max() < 13.5


def test_mixup_mixes_images_and_targets_by_the_same_shares_of_the_next() -> None:
    values = np.linspace(0, 250, 400, dtype=np.float32)
    images = np.ones((400, 4, 4, 1), np.float32) * values[:, None, None, None]
    targets = np.eye(2, dtype=np.float32)[np.arange(400) % 2]
    out, wanted = pipeline.mixed(images, targets, 0.4, [6, 6])
    own = wanted.numpy().max(axis=1)
    assert np.array_equal(wanted.numpy().argmax(axis=1), targets.argmax(axis=1))
    assert np.allclose(wanted.numpy().sum(axis=1), 1)
    expected = own * values + (1 - own) * np.roll(values, -1)
    assert np.allclose(out.numpy(), expected[:, None, None, None], atol=1e-3)
    # Beta(a, a) has a variance of 1 / (4 (2 a + 1)) about a half, folded or not.
    assert np.isclose(((own - 0.5) ** 2).mean(), 1 / (4 * 1.8), rtol=0.1)


def test_batches_are_mixed_where_the_stage_says_so(stage: Callable[..., Stage]) -> None:
    rules = stage(batch_size=8, epochs=1, augment=Augment(mixup=0.4))
    plain = stage(batch_size=8, epochs=1, augment=Augment())
    pairs = zip(
        pipeline.training_batches(IMAGES, TARGETS, rules, seed=4),
        pipeline.training_batches(IMAGES, TARGETS, plain, seed=4),
        strict=True,
    )
    for (images, targets), (as_they_are, labels) in pairs:
        assert not np.allclose(images, as_they_are, atol=1e-2)
        assert not np.allclose(targets, labels, atol=1e-2)
        assert np.array_equal(targets.numpy().argmax(axis=1), labels.numpy().argmax(axis=1))


def test_reduction_averages_and_does_not_sample() -> None:
    lines = np.zeros((1, 224, 224, 1), np.uint8)
    lines[:, ::2] = 255
    small = pipeline.resized(lines, 64)
    assert small.shape == (1, 64, 64, 1)
    assert small.dtype == np.uint8
    assert np.ptp(small[:, 4:-4].astype(int)) < 80
