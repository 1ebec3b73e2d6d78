"""The heatmap over its X-ray: as pixels, with a legend below, and as a PNG."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from app.imaging import Pixels

MAX_SIDE = 1024
"""Longer side of the X-ray in the picture, in pixels."""

OPACITY = 0.65
"""Of the hottest point; the coldest is transparent, and the X-ray stays readable between."""

DISCLAIMER = "Research software, no medical device."

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

_LEGEND_WIDTH = 320
"""Pixels in which a legend can be read; a narrower X-ray gets black beside it."""

_LINES_ACROSS = 36
"""Line heights in the picture's width: the text grows with the picture."""

_MIN_LINE = 18
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MID_GRAY = 128.0
_WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Legend:
    """What the picture's reader has to know.

    Attributes:
        label: What the heatmap is about.
        other: The label that it is told apart from.
        model: Name of the model.
        version: Of the model.
        opacity: Of the hottest point in the picture, in [0, 1].
    """

    label: str
    other: str
    model: str
    version: int
    opacity: float = OPACITY


def draw_overlay(pixels: Pixels, heatmap: NDArray[np.float32], opacity: float = OPACITY) -> Pixels:
    """Draw a heatmap over its X-ray, at the X-ray's own aspect.

    The model saw the X-ray stretched to a square, so stretching the heatmap back to the X-ray's
    sides puts each of its cells over the place that it is about.

    Args:
        pixels: uint8 `[height, width]`, 0 black to 255 white.
        heatmap: float32 `[7, 7]` in [0, 1].
        opacity: Of the hottest point, in [0, 1]; 0 gives the X-ray alone.

    Returns:
        uint8 `[height, width, 3]` in RGB, the longer side reduced to at most `MAX_SIDE`.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    upsampled = Image.fromarray(heatmap).resize(image.size, Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(upsampled), 0, 1)  # bicubic may overshoot
    return _blend(np.asarray(image, dtype=np.float32), heat, opacity)


def add_legend(picture: Pixels, legend: Legend) -> Pixels:
    """Write below a picture what it shows; none of its own pixels is changed.

    Args:
        picture: uint8 `[height, width, 3]` in RGB.
        legend: What is written.

    Returns:
        uint8 `[more height, width, 3]`; a picture that is too narrow for the text has black at its
        right.
    """
    height, width = picture.shape[:2]
    canvas_width = max(width, _LEGEND_WIDTH)
    strip = _draw_legend(canvas_width, legend)
    canvas = np.zeros((height + len(strip), canvas_width, 3), np.uint8)
    canvas[:height, :width] = picture
    canvas[height:] = strip
    return canvas


def encode_png(picture: Pixels) -> bytes:
    """Write uint8 `[height, width, 3]` in RGB as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _draw_legend(width: int, legend: Legend) -> Pixels:
    """Draw the legend's strip: uint8 `[height, width, 3]`."""
    line = max(_MIN_LINE, width // _LINES_ACROSS)
    font = ImageFont.load_default(line * 2 // 3)
    margin = line // 2
    title = f"Grad-CAM: where the model sees {legend.label} rather than {legend.other}"
    above = _wrap(title, font, width - 2 * margin)
    below = _wrap(f"{legend.model}, version {legend.version}", font, width - 2 * margin)
    below += _wrap(DISCLAIMER, font, width - 2 * margin)
    strip = Image.new("RGB", (width, 2 * margin + line * (len(above) + 1 + len(below))))
    draw = ImageDraw.Draw(strip)
    at = margin
    for text in above:
        draw.text((margin, at), text, _WHITE, font)
        at += line
    _draw_scale(strip, draw, font, legend.opacity, (margin, at, width - margin, at + line))
    for text in below:
        at += line
        draw.text((margin, at), text, _WHITE, font)
    return np.asarray(strip)


def _draw_scale(
    strip: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: _Font,
    opacity: float,
    box: tuple[int, int, int, int],
) -> None:
    """Draw the color scale between its two ends, as the colors look over middle gray."""
    left, top, right, bottom = box
    least, most = "0 ", " this X-ray's maximum"
    start = left + round(font.getlength(least))
    stop = right - round(font.getlength(most))
    draw.text((left, top), least, _WHITE, font)
    draw.text((stop, top), most, _WHITE, font)
    inset = (bottom - top) // 6
    shape = (bottom - top - 2 * inset, stop - start)
    heat = np.broadcast_to(np.linspace(0, 1, shape[1], dtype=np.float32), shape)
    scale = _blend(np.full(shape, _MID_GRAY, np.float32), heat, opacity)
    strip.paste(Image.fromarray(scale), (start, top + inset))


def _wrap(text: str, font: _Font, width: int) -> list[str]:
    """Break a text into lines of at most a width in pixels: between words, or within a long one."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
        while font.getlength(lines[-1]) > width:
            long = lines.pop()
            end = next(n for n in range(len(long), 0, -1) if font.getlength(long[:n]) <= width)
            lines += [long[:end], long[end:]]
    return lines


def _blend(gray: NDArray[np.float32], heat: NDArray[np.float32], opacity: float) -> Pixels:
    """Lay the colors of heat `[height, width]` in [0, 1] over gray `[height, width]`."""
    alpha = (opacity * heat)[..., np.newaxis]
    colors = _colors()[np.rint(heat * 255).astype(np.uint8)]
    blended = gray[..., np.newaxis] * (1 - alpha) + colors * alpha
    pixels: Pixels = np.rint(blended).astype(np.uint8)
    return pixels


def _colors() -> NDArray[np.float32]:
    """Interpolate the color map to float32 `[256, 3]` in [0, 255]."""
    at = np.linspace(0, 255, len(_INFERNO))
    channels = [np.interp(np.arange(256), at, channel) for channel in zip(*_INFERNO, strict=True)]
    return np.stack(channels, axis=1).astype(np.float32)
