"""A synthetic chest: what a release is tried on where no X-ray may be kept."""

import numpy as np

from app.imaging.contract import SIZE, Pixels

RIB_HEIGHT = 6


def phantom() -> Pixels:
    """Draw two dark lungs, a bright mediastinum and ribs, in integer arithmetic.

    It is the same to the bit on every machine, so that a release's manifest can hold the answer
    for it (`golden`). It is no radiograph and its probabilities mean nothing.

    Returns:
        uint8 `[224, 224, 1]`.
    """
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.int64)
    body = 190 - np.abs(x - SIZE // 2) // 2
    ribs = 22 * ((y + np.abs(x - SIZE // 2) // 3) % 22 < RIB_HEIGHT)
    image = body + ribs
    for center in (72, 152):
        lung = (x - center) ** 2 * 4 + (y - 110) ** 2 < 80**2
        image = np.where(lung, 60 + ribs + y // 8, image)
    pixels: Pixels = np.clip(image, 0, 255).astype(np.uint8)
    return pixels[..., np.newaxis]
