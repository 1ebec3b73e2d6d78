"""Find images that look like one of training though no hash of theirs is near.

A copy that was cropped, stretched anew or written on differs in many bits of its difference hash,
and was not grouped with its original (`dataset.group`). Its lungs still correlate.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from app.imaging import SIZE, Pixels

ALIKE = 0.975
"""Correlation from which upwards two X-rays count as alike. Of the pairs above it of the release's
test and validation images, those looked at were of one film or one patient; of those below 0.97 not
all were."""

_STEP = 4
_SIDE = SIZE // _STEP
_MIDDLE = slice(_SIDE // 8, _SIDE - _SIDE // 8)
_SHIFT = 3
_SCALES = (0.96, 1.0, 1.04)
_CANDIDATES = 3

Thumbnails = NDArray[np.float32]


def alike(images: Pixels, others: Pixels) -> NDArray[np.bool_]:
    """Tell which images look like any of the others; some that do are not found.

    Of the 3 others that correlate most with an image, thumbnails of 56 x 56 are stretched by up to
    4% and shifted by up to 3 of their pixels, to correlate with the image's middle.

    Args:
        images: uint8 `[n, 224, 224, 1]`.
        others: uint8 `[m, 224, 224, 1]`.

    Returns:
        `[n]`.
    """
    mine, theirs = _thumbnails(images), _thumbnails(others)
    likeness = _flat(mine) @ _flat(theirs).T  # [n, m]
    candidates = np.argsort(-likeness, axis=1)[:, :_CANDIDATES]
    return np.array(
        [
            any(_likeness(image, theirs[other]) >= ALIKE for other in chosen)
            for image, chosen in zip(mine, candidates, strict=True)
        ],
        bool,
    )


def _likeness(image: Thumbnails, other: Thumbnails) -> float:
    """Greatest correlation of an image's middle with another image, stretched and shifted."""
    middle = _standardised(image[_MIDDLE, _MIDDLE])
    around = slice(_MIDDLE.start - _SHIFT, _MIDDLE.stop + _SHIFT)
    best = -1.0
    for rows in _SCALES:
        for columns in _SCALES:
            scales = np.array([rows, columns])
            offset = (1 - scales) * (_SIDE - 1) / 2  # about the middle
            stretched = affine_transform(other, scales, offset, order=1)
            places = sliding_window_view(stretched[around, around], middle.shape)
            correlations = np.tensordot(_standardised(places), middle, 2)
            best = max(best, float(correlations.max()))
    return best


def _thumbnails(images: Pixels) -> Thumbnails:
    parts = images.reshape(len(images), _SIDE, _STEP, _SIDE, _STEP)
    means: Thumbnails = parts.mean(axis=(2, 4), dtype=np.float32)
    return means


def _flat(images: Thumbnails) -> Thumbnails:
    return _standardised(images).reshape(len(images), _SIDE**2)


def _standardised(images: Thumbnails) -> Thumbnails:
    """Take the mean from each image and divide by its length; a flat one becomes all 0."""
    apart = images - images.mean(axis=(-2, -1), keepdims=True)
    length = np.sqrt(np.square(apart).sum(axis=(-2, -1), keepdims=True))
    found: Thumbnails = apart / np.maximum(length, np.float32(1e-6))
    return found
