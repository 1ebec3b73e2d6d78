"""What the heatmap's picture and its legend look like."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from app.imaging import phantom
from app.overlay import MAX_SIDE, OPACITY, Legend, add_legend, draw_overlay, encode_png

LEGEND = Legend("COVID-19", "Normal", "covid19-resnet50", 3)


def _draw(pixels: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    return draw_overlay(pixels, heatmap).astype(int)


def test_without_heat_the_xray_is_as_it_was() -> None:
    pixels = phantom()[..., 0]
    drawn = _draw(pixels, np.zeros((7, 7), np.float32))
    np.testing.assert_array_equal(drawn, np.repeat(pixels[..., None], 3, axis=2))


def test_the_hottest_point_has_the_brightest_color_and_the_xray_still_shows() -> None:
    black, white = (
        _draw(np.full((70, 70), value, np.uint8), np.ones((7, 7), np.float32)) for value in (0, 255)
    )
    assert np.unique(black.reshape(-1, 3), axis=0).tolist() == [[164, 166, 107]]
    assert ((white - black) == 89).all()  # what 65% opacity leaves of 255


def test_heat_is_drawn_where_it_is() -> None:
    heatmap = np.zeros((7, 7), np.float32)
    heatmap[1, 5] = 1
    drawn = _draw(np.zeros((140, 280), np.uint8), heatmap).sum(axis=2)
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (y // 20, x // 40) == (1, 5)


def test_a_large_xray_is_drawn_smaller() -> None:
    drawn = _draw(np.zeros((1000, 3000), np.uint8), np.zeros((7, 7), np.float32))
    assert drawn.shape[:2] == (341, MAX_SIDE)


def _picture(height: int = 200, width: int = 600) -> np.ndarray:
    return np.full((height, width, 3), 77, np.uint8)


@pytest.mark.parametrize("width", [64, 319, 320, 321, 1024])
def test_the_legend_covers_nothing_of_the_xray(width: int) -> None:
    picture = _picture(width=width)
    drawn = add_legend(picture, LEGEND)
    np.testing.assert_array_equal(drawn[:200, :width], picture)
    assert not drawn[:200, width:].any()
    assert drawn.shape[0] > 200
    assert (drawn[200:] == 255).any()


@pytest.mark.parametrize(
    "other",
    [
        Legend("Influenza", "Normal", "covid19-resnet50", 3),
        Legend("COVID-19", "Healthy", "covid19-resnet50", 3),
        Legend("COVID-19", "Normal", "another-model", 3),
        Legend("COVID-19", "Normal", "covid19-resnet50", 4),
    ],
)
def test_the_legend_says_what_was_found_and_by_what(other: Legend) -> None:
    one, two = (add_legend(_picture(), legend) for legend in (LEGEND, other))
    assert one.shape != two.shape or (one != two).any()


def test_the_scale_goes_from_gray_to_the_brightest_color() -> None:
    strip = add_legend(_picture(), LEGEND)[200:].astype(int)
    gray = 128
    rows, columns = np.nonzero((strip == gray).all(axis=2))
    row, start = rows[len(rows) // 2], columns.min()
    hottest = np.rint(gray * (1 - OPACITY) + OPACITY * np.array([252, 255, 164])).astype(int)
    (ends,) = np.nonzero((strip[row] == hottest).all(axis=1))
    assert ends.max() - start > 200
    lightness = strip[row, start : ends.max()].sum(axis=1)
    assert lightness[0] == 3 * gray
    assert lightness[-1] > lightness[0]


def test_the_scale_is_as_opaque_as_the_picture() -> None:
    clear = dataclasses.replace(LEGEND, opacity=0.0)
    strips = [add_legend(_picture(), legend)[200:] for legend in (LEGEND, clear)]
    colored = [(strip.max(axis=2) != strip.min(axis=2)).any() for strip in strips]
    assert colored == [True, False]


def test_a_long_name_is_broken_and_not_cut() -> None:
    name = "m" * 64
    width = 64
    short, long = (
        add_legend(_picture(width=width), Legend("COVID-19", "Normal", model, 3))
        for model in ("m", name)
    )
    assert len(long) > len(short)
    assert not long[200:, -3:].any()


def test_a_picture_is_written_as_png() -> None:
    drawn = add_legend(_picture(), LEGEND)
    with Image.open(io.BytesIO(encode_png(drawn))) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(image), drawn)
