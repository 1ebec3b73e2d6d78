import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.imaging import SIZE, Pixels
from training.lookalikes import alike


def smooth(seed: int) -> Pixels:
    """A drawing of smooth noise, uint8 `[224, 224]`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def cropped(image: Pixels, left: int, top: int, right: int, bottom: int) -> Pixels:
    """What is left after a crop, stretched to the whole again."""
    part = Image.fromarray(image).crop((left, top, SIZE - right, SIZE - bottom))
    return np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def written_on(image: Pixels) -> Pixels:
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text((5, 5), "DAY 11", fill=255)
    return np.asarray(picture)


def stack(*images: Pixels) -> Pixels:
    return np.stack(images)[..., np.newaxis]


OTHERS = stack(*(smooth(seed) for seed in range(8)))


@pytest.mark.parametrize(
    "copy",
    [
        smooth(5),
        cropped(smooth(5), 4, 0, 4, 8),
        cropped(smooth(5), 0, 8, 0, 0),
        written_on(smooth(5)),
        (smooth(5) * 0.6 + 40).astype(np.uint8),  # another exposure
    ],
)
def test_a_copy_that_was_cropped_or_written_on_is_found(copy: Pixels) -> None:
    assert alike(stack(copy, smooth(99)), OTHERS).tolist() == [True, False]


def test_images_of_one_colour_look_like_none() -> None:
    flat = np.full((1, SIZE, SIZE, 1), 128, np.uint8)
    assert not alike(flat, np.concatenate([OTHERS, flat])).any()
