"""The pixel contract between every image and every release."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

SIZE = 224
"""Side of the model's square input, in pixels."""

RESIZE_RULE = "stretch-224x224-bilinear-antialias-v1"
"""Name of what `to_model_input` does. A release is served only if its manifest names this rule."""


def to_model_input(pixels: Pixels, extent: tuple[float, float] | None = None) -> Pixels:
    """Stretch an image to the model's input.

    The aspect is not kept, since the images that the releases are trained on were stretched too.
    The filter is Pillow's BILINEAR, whose support grows with the reduction (a triangle filter), so
    that a large image is averaged and not sampled; its arithmetic is fixed-point and thus the same
    on every processor.

    Args:
        pixels: uint8 `[height, width]`, 0 black to 255 white.
        extent: Width and height of what is stretched, from the upper left corner, in pixels; the
            whole where not given. Of an image that was decoded reduced, the last column and row
            may stand for less than the others.

    Returns:
        uint8 `[224, 224, 1]`.
    """
    if pixels.shape == (SIZE, SIZE):
        return pixels[..., np.newaxis]
    box = (0.0, 0.0, *extent) if extent else None
    resized = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
    return np.asarray(resized)[..., np.newaxis]
