"""The heatmap over its X-ray, as a PNG."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.imaging import Pixels

MAX_SIDE = 1024
"""Longer side of the picture, in pixels."""

OPACITY = 0.65
"""Of the hottest point; the coldest is transparent, and the X-ray stays readable between."""

# Nine equidistant points of the color map "inferno" (van der Walt and Smith, 2015, CC0): its
# lightness grows evenly with heat, in gray print and with color blindness as well.
_INFERNO = (
    (0, 0, 4),
    (33, 12, 74),
    (87, 16, 110),
    (138, 34, 106),
    (188, 55, 84),
    (227, 89, 51),
    (249, 140, 10),
    (249, 201, 50),
    (252, 255, 164),
)


def draw_overlay(pixels: Pixels, heatmap: NDArray[np.float32], opacity: float = OPACITY) -> bytes:
    """Draw a heatmap over its X-ray, at the X-ray's own aspect.

    The model saw the X-ray stretched to a square, so stretching the heatmap back to the X-ray's
    sides puts each of its cells over the place that it is about.

    Args:
        pixels: uint8 `[height, width]`, 0 black to 255 white.
        heatmap: float32 `[7, 7]` in [0, 1].
        opacity: Of the hottest point, in [0, 1]; 0 gives the X-ray alone.

    Returns:
        A PNG in RGB whose longer side has at most `MAX_SIDE` pixels.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    upsampled = Image.fromarray(heatmap).resize(image.size, Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(upsampled), 0, 1)  # bicubic may overshoot
    alpha = (opacity * heat)[..., np.newaxis]
    gray = np.asarray(image, dtype=np.float32)[..., np.newaxis]
    blended = gray * (1 - alpha) + _colors()[np.rint(heat * 255).astype(np.uint8)] * alpha
    buffer = io.BytesIO()
    Image.fromarray(np.rint(blended).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _colors() -> NDArray[np.float32]:
    """Interpolate the color map to float32 `[256, 3]` in [0, 255]."""
    at = np.linspace(0, 255, len(_INFERNO))
    channels = [np.interp(np.arange(256), at, channel) for channel in zip(*_INFERNO, strict=True)]
    return np.stack(channels, axis=1).astype(np.float32)
