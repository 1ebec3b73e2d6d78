"""Pictures that a program draws: patterns, noise, shapes, pages, charts, and bodies but a chest.

Every function takes a generator of random numbers and gives one picture, uint8 `[height, width]`.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from app.imaging import Pixels

Floats = NDArray[np.float64]

SIDE = 320
WHITE = 255
SYLLABLES = (
    "an",
    "ber",
    "con",
    "di",
    "el",
    "for",
    "gra",
    "hi",
    "lo",
    "men",
    "no",
    "or",
    "un",
    "wi",
)


def blank(rng: Generator) -> Pixels:
    """One gray, exactly or with a grain that nobody sees."""
    grain = rng.choice([0.0, 0.0, 1.0, 3.0])
    return _bytes(rng.integers(0, 256) + grain * rng.normal(size=(SIDE, SIDE)))


def gradient(rng: Generator) -> Pixels:
    """From one gray to another, along a line or away from a point."""
    x, y = _plane(rng)
    ramp = x if rng.random() < 1 / 2 else np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1))
    return _between(ramp, rng)


def pattern(rng: Generator) -> Pixels:
    """Stripes, waves, rings, a checkerboard or a grid."""
    x, y = _plane(rng)
    waves = rng.uniform(1.5, 30)
    across, down = np.sin(waves * np.pi * x), np.sin(waves * rng.uniform(0.5, 2) * np.pi * y)
    values = [
        across,
        np.sign(across),
        np.sign(across) * np.sign(down),
        across * down,
        np.sin(waves * np.pi * np.hypot(x, y)),
        np.minimum(np.abs(across), np.abs(down)) < rng.uniform(0.1, 0.3),
    ][rng.integers(6)]
    return _between(values.astype(float), rng)


def noise(rng: Generator) -> Pixels:
    """White, coarse, salt and pepper, or of a spectrum that falls like clouds' or bone's."""
    kind = rng.integers(5)
    if kind == 0:
        return rng.integers(0, 256, (SIDE, SIDE), np.uint8)
    if kind == 1:
        return _bytes(rng.uniform(40, 215) + rng.uniform(5, 90) * rng.normal(size=(SIDE, SIDE)))
    if kind == 2:
        share, (salt, pepper, ground) = rng.uniform(0.02, 0.5), rng.uniform(0, WHITE, 3)
        speck = rng.random((SIDE, SIDE))
        return _bytes(np.where(speck < share / 2, salt, np.where(speck < share, pepper, ground)))
    if kind == 3:
        cells = int(rng.integers(3, 60))
        coarse = rng.integers(0, 256, (cells, int(rng.integers(3, 60))), np.uint8)
        way = [Image.Resampling.NEAREST, Image.Resampling.BICUBIC][rng.integers(2)]
        return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), way))
    return _between(clouds(rng, rng.uniform(0.4, 2.6)), rng)


def clouds(rng: Generator, steepness: float) -> Floats:
    """Noise whose amplitude falls with a power of its frequency, in -1 to 1, `[320, 320]`."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.normal(size=(SIDE, SIDE))) / frequency**steepness
    values = np.real(np.fft.ifft2(spectrum))
    spread: Floats = values / np.abs(values).max()
    return spread


def drawing(rng: Generator) -> Pixels:
    """Lines, curves and shapes, as of a pen, a child or a logo's maker."""
    image, draw, ink = _sheet(rng)
    for _ in range(rng.integers(1, 25)):
        _shape(draw, rng, ink if rng.random() < 1 / 2 else int(rng.integers(256)))
    if rng.random() < 1 / 4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
    return np.asarray(image)


def document(rng: Generator) -> Pixels:
    """A page of text in one to three columns, some with headings, ruled tables or shade."""
    image, draw, ink = _sheet(rng, paper=rng.random() < 0.85)
    columns, size = int(rng.integers(1, 4)), int(rng.integers(6, 26))
    width, margin = image.width // columns, int(rng.integers(4, 30))
    for column in range(columns):
        y, left = margin, column * width + margin
        while y < image.height - margin:
            big = size * (2 if rng.random() < 0.08 else 1)
            if rng.random() < 0.9:
                _write(draw, (left, y), width - 2 * margin, rng, (big, ink))
            elif rng.random() < 1 / 2:
                draw.line([left, y, left + width - 2 * margin, y], fill=ink)
            y += int(big * rng.uniform(1.1, 1.6))
    return _shaded(np.asarray(image), rng)


def chart(rng: Generator) -> Pixels:
    """Axes with curves, bars or dots, or a pie."""
    image, draw, ink = _sheet(rng)
    left, low = 40, image.height - 40
    width, height = image.width - 60, image.height - 60
    for i in range(0, 11, int(rng.integers(1, 4))):
        draw.line([left, low - i * height // 10, left + width, low - i * height // 10], fill=160)
        draw.text((8, low - i * height // 10 - 5), str(i * 10), fill=ink, font=_font(10))
    draw.line([left, low - height, left, low, left + width, low], fill=ink, width=2)
    count, kind = int(rng.integers(3, 40)), rng.integers(4)
    for _ in range(rng.integers(1, 5)):
        shade = int(rng.integers(256))
        ends = low - np.clip(0.5 + 0.15 * np.cumsum(rng.normal(size=count)), 0, 1) * height
        points = list(zip(np.linspace(left, left + width, count), ends, strict=True))
        if kind == 0:
            draw.line(points, fill=shade, width=int(rng.integers(1, 5)))
        elif kind == 1:
            for x, y in points:
                draw.rectangle([x, y, x + width / count / 2, low], fill=shade)
        elif kind == 2:
            for x, y in points:
                draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=shade)
        else:
            start = rng.uniform(0, 360)
            box = [left, low - height, left + width, low]
            draw.pieslice(box, start, start + rng.uniform(30, 180), fill=shade, outline=ink)
    _write(draw, (left, 5), width, rng, (14, ink))
    return np.asarray(image)


def screen(rng: Generator) -> Pixels:
    """Windows with title bars, text, buttons and pictures on a desktop."""
    desk = Image.fromarray(gradient(rng)).resize((480, int(rng.integers(270, 420))))
    draw = ImageDraw.Draw(desk)
    for _ in range(rng.integers(1, 4)):
        x, y = int(rng.integers(0, 200)), int(rng.integers(0, 120))
        right, low = x + int(rng.integers(120, 300)), y + int(rng.integers(90, 260))
        light = int(rng.integers(256))
        ink = WHITE - light if abs(light - 128) > 50 else 0
        draw.rectangle([x, y, right, low], fill=light, outline=ink)
        draw.rectangle([x, y, right, y + 14], fill=int(rng.integers(256)))
        for row in range(y + 20, low - 12, int(rng.integers(11, 20))):
            _write(draw, (x + 6, row), int((right - x) * rng.uniform(0.2, 0.9)), rng, (9, ink))
        picture = Image.fromarray(_between(clouds(rng, 1.8), rng)).resize((60, 45))
        desk.paste(picture, (int(rng.integers(x, right)), int(rng.integers(y, low))))
    return np.asarray(desk)


def limb(rng: Generator) -> Pixels:
    """Bones in soft tissue: fingers, a forearm, a knee or a foot, as a radiograph shows them."""
    flesh, bones = Image.new("L", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
    rays, wide = int(rng.integers(1, 6)), rng.uniform(0.03, 0.13) * SIDE
    start = np.array([rng.uniform(0.3, 0.7), rng.uniform(0.75, 1.15)]) * SIDE
    for ray in range(rays):
        angle = -math.pi / 2 + (ray - (rays - 1) / 2) * rng.uniform(0.12, 0.35)
        at, width = start + np.array([(ray - (rays - 1) / 2) * wide * 1.6, 0]), wide
        while 0 < at[1] < 1.2 * SIDE and width > wide * rng.uniform(0.2, 0.6):
            far = at + rng.uniform(0.15, 0.8) * SIDE * np.array([math.cos(angle), math.sin(angle)])
            _capsule(flesh, at, far, width * rng.uniform(1.8, 3.2), WHITE)
            _capsule(bones, at, far, width, WHITE)
            at = far + (far - at) / np.linalg.norm(far - at) * width * 0.7
            width *= rng.uniform(0.75, 0.95)
    return _exposed(flesh, bones, rng)


def axial(rng: Generator) -> Pixels:
    """A slice through a body or a head, as a tomograph shows it."""
    x, y = _plane(rng, turn=0.15)
    round_ = x**2 + (y * rng.uniform(1.0, 1.6)) ** 2
    size = rng.uniform(0.6, 0.95) ** 2
    fat, spine = rng.uniform(0.75, 0.95), rng.uniform(0.3, 0.7)
    values = np.where(round_ < size, 0.35, 0.0)
    inside = round_ < size * fat
    values = np.where(inside, 0.55 + 0.06 * clouds(rng, 1.6), values)
    for _ in range(rng.integers(2, 9)):  # organs, lungs, gas
        cx, cy, r = rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.4), rng.uniform(0.05, 0.4)
        organ = ((x - cx) ** 2 + ((y - cy) * rng.uniform(0.6, 1.6)) ** 2 < r**2) & inside
        values = np.where(organ, rng.choice([0.05, 0.5, 0.6, 0.65, 0.7]), values)
    if rng.random() < 1 / 3:  # a skull's ring
        values = np.where((round_ < size * fat) & (round_ > size * fat * 0.85), 1.0, values)
    bone = np.hypot(x, (y - spine) * 1.2)
    values = np.where(bone < rng.uniform(0.08, 0.16), rng.uniform(0.8, 1), values)
    values = np.where(bone < rng.uniform(0.02, 0.05), 0.5, values)
    if rng.random() < 1 / 2:  # the table
        values = np.where(np.abs(y - 0.9 - 0.1 * x**2) < 0.015, 0.6, values)
    values = values + rng.uniform(0, 0.05) * rng.normal(size=values.shape)
    blurred = Image.fromarray(_bytes(values * WHITE)).filter(ImageFilter.GaussianBlur(1))
    return np.asarray(blurred)


def skeleton(rng: Generator) -> Pixels:
    """A skull, a spine from the side, or a pelvis, roughly."""
    flesh, bones = Image.new("L", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
    soft, hard = ImageDraw.Draw(flesh), ImageDraw.Draw(bones)
    kind = rng.integers(3)
    if kind == 0:
        box = [40, 20, rng.uniform(240, 300), rng.uniform(220, 290)]
        soft.ellipse([box[0] - 12, box[1] - 12, box[2] + 12, box[3] + 12], fill=WHITE)
        hard.ellipse(box, fill=90, outline=WHITE, width=int(rng.integers(6, 16)))
        for _ in range(rng.integers(2, 6)):
            cx, cy, r = rng.uniform(90, 230), rng.uniform(130, 260), rng.uniform(12, 34)
            hard.ellipse([cx - r, cy - r, cx + r, cy + r], fill=int(rng.integers(0, 230)))
    elif kind == 1:
        soft.rectangle([30, 0, SIDE - 30, SIDE], fill=WHITE)
        middle, bend, tall = rng.uniform(110, 210), rng.uniform(-50, 50), rng.uniform(26, 60)
        for row in np.arange(-10, SIDE, tall):
            cx = middle + bend * math.sin(row / SIDE * math.pi)
            wide = tall * rng.uniform(0.55, 0.7)
            hard.rounded_rectangle([cx - wide, row, cx + wide, row + tall * 0.82], 6, fill=WHITE)
            hard.line([cx + wide, row + 8, cx + wide * 2.4, row + tall * 0.7], fill=200, width=9)
    else:
        soft.rectangle([0, 10, SIDE, SIDE], fill=WHITE)
        for side in (-1, 1):
            cx = SIDE / 2 + side * rng.uniform(70, 90)
            hard.ellipse([cx - 62, 60, cx + 62, 190], fill=190)
            hard.ellipse([cx - 30, 190, cx + 30, 260], outline=WHITE, width=14)
            _capsule(bones, np.array([cx, 205.0]), np.array([cx + side * 40, 340.0]), 34, WHITE)
        hard.rectangle([SIDE / 2 - 28, 0, SIDE / 2 + 28, 110], fill=220)
    return _exposed(flesh, bones, rng)


DRAWINGS: dict[str, tuple[Callable[[Generator], Pixels], ...]] = {
    "blank": (blank,),
    "gradient or pattern": (gradient, pattern),
    "noise": (noise,),
    "drawing": (drawing,),
    "document": (document,),
    "chart or screenshot": (chart, screen),
    "drawn radiograph of another part": (limb, skeleton),
    "drawn tomogram": (axial,),
}
"""Kind → what draws it."""


def _plane(rng: Generator, turn: float = math.pi) -> tuple[Floats, Floats]:
    """Coordinates in -1 to 1, turned at random by at most so many radians."""
    steps = np.linspace(-1, 1, SIDE)
    x, y = np.meshgrid(steps, steps)
    angle = rng.uniform(-turn, turn)
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _between(values: Floats, rng: Generator) -> Pixels:
    """Stretch values over a random part of black to white."""
    low, high = rng.uniform(0, WHITE, 2)
    least, most = values.min(), values.max()
    return _bytes(low + (values - least) / max(most - least, 1e-9) * (high - low))


def _bytes(values: Floats) -> Pixels:
    pixels: Pixels = np.clip(np.rint(values), 0, WHITE).astype(np.uint8)
    return pixels


def _sheet(
    rng: Generator, *, paper: bool | None = None
) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """An empty sheet and its ink: black on white, white on black, or grays."""
    white = rng.random() < 0.6 if paper is None else paper
    ground = int(rng.integers(200, 256) if white else rng.integers(0, 90))
    ink = int(rng.integers(0, 80) if white else rng.integers(160, 256))
    image = Image.new("L", (int(rng.integers(240, 420)), int(rng.integers(240, 480))), ground)
    return image, ImageDraw.Draw(image), ink


def _shape(draw: ImageDraw.ImageDraw, rng: Generator, ink: int) -> None:
    width = int(rng.integers(1, 12))
    x, y = np.sort(rng.uniform(0, 400, (2, 2)), axis=1)
    box = [x[0], y[0], x[1] + 1, y[1] + 1]
    fill = ink if rng.random() < 1 / 2 else None
    points = [(float(px), float(py)) for px, py in rng.uniform(0, 400, (rng.integers(3, 8), 2))]
    start, end = rng.uniform(0, 360, 2)
    turns = np.cumsum(rng.normal(0, 0.5, 60))
    path = rng.uniform(50, 350, 2) + np.cumsum(8 * np.stack([np.cos(turns), np.sin(turns)], 1), 0)
    [
        lambda: draw.line(points[:2], fill=ink, width=width),
        lambda: draw.ellipse(box, fill=fill, outline=ink, width=width),
        lambda: draw.rectangle(box, fill=fill, outline=ink, width=width),
        lambda: draw.polygon(points, fill=fill, outline=ink, width=width),
        lambda: draw.line([tuple(p) for p in path], fill=ink, width=width, joint="curve"),
        lambda: draw.arc(box, start, end, fill=ink, width=width),
    ][rng.integers(6)]()


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    width: float,
    rng: Generator,
    style: tuple[int, int],
) -> None:
    """Write a line of words that nobody knows, as many as fit; the style is size and ink."""
    size, ink = style
    words, most = "", width / size * 1.6
    while len(words) < most:
        words += "".join(rng.choice(SYLLABLES, rng.integers(1, 5))) + " "
    draw.text(place, words[: max(1, int(most))], fill=ink, font=_font(size))


def _shaded(pixels: Pixels, rng: Generator) -> Pixels:
    """Lay a shadow over half of the pages, as where a page was photographed."""
    if rng.random() < 1 / 2:
        return pixels
    across = np.linspace(rng.uniform(0.4, 1), rng.uniform(0.4, 1), pixels.shape[1])
    return _bytes(pixels * across)


def _capsule(image: Image.Image, start: Floats, end: Floats, width: float, gray: int) -> None:
    draw = ImageDraw.Draw(image)
    draw.line([*start, *end], fill=gray, width=max(1, int(width)))
    for x, y in (start, end):
        r = width * 0.56
        draw.ellipse([x - r, y - r, x + r, y + r], fill=gray)


def _exposed(flesh: Image.Image, bones: Image.Image, rng: Generator) -> Pixels:
    """Make a radiograph of where tissue and bone are: thick parts and bone's edges are lighter."""
    thick = np.asarray(flesh.filter(ImageFilter.GaussianBlur(rng.uniform(4, 14))), float)
    bone = np.asarray(bones.filter(ImageFilter.GaussianBlur(1.5)), float)
    marrow = np.asarray(bones.filter(ImageFilter.GaussianBlur(rng.uniform(5, 9))), float)
    hard = np.clip(bone - rng.uniform(0.2, 0.6) * marrow, 0, WHITE)
    values = rng.uniform(0, 40) + rng.uniform(0.2, 0.5) * thick + rng.uniform(0.4, 0.9) * hard
    values += bone / WHITE * 25 * clouds(rng, 1.2) + rng.uniform(0, 6) * rng.normal(size=bone.shape)
    return np.rot90(_bytes(values), int(rng.choice([0, 0, 0, 1, 2, 3])))
