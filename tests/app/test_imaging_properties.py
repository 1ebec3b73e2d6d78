"""What holds for every image and for every file, on examples that are made up."""

import contextlib
import io
import unittest.mock

import hypothesis
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from app.errors import InputError
from app.imaging import SIZE, Limits, decode, to_model_input
from app.imaging.structure import count_passes, is_plain_png
from tests.fakes import encode, gray_png

FEW = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
MANY = hypothesis.settings(FEW, max_examples=300)
LIMITS = Limits(max_pixels=2**16, min_side=1)

sides = st.integers(1, 96)
grays = st.tuples(sides, sides).flatmap(lambda shape: arrays(np.uint8, shape))
colors = st.tuples(sides, sides, st.sampled_from([3, 4])).flatmap(lambda s: arrays(np.uint8, s))


def save(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@FEW
@given(grays)
def test_8_bit_gray_comes_out_as_it_went_in(pixels: NDArray[np.uint8]) -> None:
    radiograph = decode(encode(pixels), LIMITS)
    assert (radiograph.pixels == pixels).all()
    assert (radiograph.height, radiograph.width) == pixels.shape


@FEW
@given(grays, st.sampled_from(["1", "P", "LA", "RGB", "RGBA"]))
def test_gray_is_the_same_in_every_form_that_holds_it(pixels: NDArray[np.uint8], mode: str) -> None:
    levels = 2 if mode == "1" else 256
    pixels = np.where(pixels < 128, 0, 255).astype(np.uint8) if levels == 2 else pixels
    image = Image.fromarray(pixels).convert(mode)
    assert (decode(save(image), LIMITS).pixels == pixels).all()


@FEW
@given(colors, st.integers(1, 8))
def test_an_orientation_moves_pixels_and_changes_none(
    pixels: NDArray[np.uint8], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode(save(Image.fromarray(pixels), exif=exif), LIMITS).pixels
    upright = decode(save(Image.fromarray(pixels)), LIMITS).pixels
    assert turned.shape in (upright.shape, upright.shape[::-1])
    assert (np.sort(turned, axis=None) == np.sort(upright, axis=None)).all()


@FEW
@given(arrays(np.uint16, (3, 5)))
def test_16_bit_gray_keeps_its_order_and_its_brightest_half(samples: NDArray[np.uint16]) -> None:
    pixels = decode(encode(samples), LIMITS).pixels.ravel()
    order = np.argsort(samples, axis=None)
    assert (np.diff(pixels[order].astype(int)) >= 0).all()
    assert pixels.max() >= 127 or samples.max() < 128


@FEW
@given(grays)
def test_the_models_input_stays_within_the_images_values(pixels: NDArray[np.uint8]) -> None:
    image = to_model_input(pixels)
    assert image.shape == (SIZE, SIZE, 1)
    assert image.dtype == np.uint8
    assert pixels.min() <= image.min() <= image.max() <= pixels.max()


SEEDS = [
    gray_png(),
    encode(np.zeros((70, 70, 4), np.uint8)),
    encode(np.zeros((70, 70), np.uint8), "JPEG"),
    encode(np.zeros((70, 70, 3), np.uint8), "JPEG", progressive=True),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Take a good file, and change, cut, repeat or insert some of its bytes."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 40))
        data[at:end] = draw(
            st.one_of(
                st.just(b""), st.binary(max_size=40), st.just(bytes(data[at:end]) * draw(sides))
            )
        )
    return bytes(data)


@MANY
@given(st.one_of(damaged(), st.binary(max_size=400)))
def test_whatever_the_bytes_are_the_answer_is_an_image_within_its_limits_or_an_input_error(
    data: bytes,
) -> None:
    with contextlib.suppress(InputError):
        radiograph = decode(data, LIMITS)
        assert radiograph.pixels.dtype == np.uint8
        assert radiograph.pixels.size == radiograph.width * radiograph.height <= LIMITS.max_pixels


@MANY
@given(st.one_of(damaged(), st.binary(max_size=400)), st.sampled_from(["PNG", "JPEG"]))
def test_the_structure_of_any_bytes_is_found_in_one_pass(data: bytes, kind: str) -> None:
    assert 0 <= count_passes(data, kind) <= max(1, len(data) // 2)


def by_pillow_alone(data: bytes) -> NDArray[np.uint8] | str:
    with unittest.mock.patch("app.imaging.raster.is_plain_png", return_value=False):
        return outcome(data)


def outcome(data: bytes) -> NDArray[np.uint8] | str:
    """Decode a file to its pixels, or to the code of its error."""
    try:
        return decode(data, LIMITS).pixels
    except InputError as error:
        return error.code


@FEW
@given(st.one_of(grays, colors), st.sampled_from([0, 1, 9]), st.booleans())
def test_a_plain_png_has_the_same_pixels_by_either_decoder(
    pixels: NDArray[np.uint8], level: int, interlaced: bool
) -> None:
    data = save(Image.fromarray(pixels), compress_level=level, interlace=interlaced)
    assert is_plain_png(data) == (pixels.shape[2:] != (4,))
    assert np.array_equal(outcome(data), by_pillow_alone(data))


@MANY
@given(st.data())
def test_a_damaged_plain_png_is_judged_as_by_pillow_alone(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    shape = data.draw(st.sampled_from([(40, 33), (17, 70, 3)]))
    damaged = bytearray(save(Image.fromarray(rng.integers(90, 110, shape, np.uint8))))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, 30))
    file = bytes(damaged[: len(damaged) - cut])
    expected = by_pillow_alone(file)
    assert np.array_equal(outcome(file), expected)
