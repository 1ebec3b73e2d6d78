"""PNG and JPEG, in all the forms that are met, to an upright 8-bit gray radiograph."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from app.errors import UnreadableImage, UnsupportedImage, UnsupportedImageType
from app.imaging.contract import SIZE, Pixels
from app.imaging.radiograph import ImageWarning, Radiograph
from app.imaging.structure import count_passes, is_plain_png

_READ = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
_KNOWN_BUT_NOT_READ = {
    b"GIF8": "a GIF",
    b"RIFF": "a RIFF file (WebP?)",
    b"II*\x00": "a TIFF",
    b"MM\x00*": "a TIFF",
    b"BM": "a BMP",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000",
    b"<svg": "an SVG",
}
SAMPLE_BITS = 16

# `Limits` takes the place of Pillow's own guard, which would write a warning to the log.
Image.MAX_IMAGE_PIXELS = None

# Texts beside the pixels are no use here, but Pillow unpacks and keeps them: each up to its own
# limit of 1 MiB (as color profiles), and all together up to this one, by default 64 MiB.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20

_STRIP_PIXELS = 2**20
"""Reduced to gray at once. Of a large image this saves several copies in more than one channel."""

_MAX_PASSES = 16
"""Times `Limits.max_pixels`, over all scans of a progressive JPEG, which has about 10."""


_LEAST_REDUCED_SIDE = 2 * SIZE
"""Pixels of the shorter side of a JPEG that is decoded reduced. Of 16 X-rays of 2048 x 2500 pixels
the model's input then differs by 0.2 gray levels on average and 9 at most, and the log odds of its
answer by 0.02 at most; at `SIZE` these are 0.9, 74 and 0.2. `tests.benchmarks.decoding
--images DIR` measures it for other X-rays."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is decoded at all; checked against the file's header, before any pixel is.

    Attributes:
        max_pixels: Width times height. The largest digitised films have about 30 million.
        min_side: Pixels of the shorter side. Below it nothing of a lung is left to see.
    """

    max_pixels: int = 64_000_000
    min_side: int = 64


def decode(data: bytes, limits: Limits | None = None, *, reduced: bool = False) -> Radiograph:
    """Read a PNG or JPEG; `app.imaging.decode` reads what is neither.

    Color is reduced to luma (ITU-R BT.601), transparency is laid over black, an EXIF orientation
    is applied. 16-bit gray is scaled by the number of bits that its brightest pixel needs (at least
    8), since a 12-bit detector's values are often stored in 16 bits unscaled; a warning says so.
    16-bit color and 16-bit gray with alpha keep their 8 high bits. A JPEG of several pictures is
    read as its first.

    Args:
        data: The file's bytes.
        limits: What is decoded at all; the defaults where not given.
        reduced: Decode a JPEG at a half, a quarter or an eighth of its sides where these stay large
            enough for the model's input: several times as fast.

    Raises:
        UnsupportedImageType: The bytes begin like neither PNG nor JPEG.
        UnreadableImage: The file is empty, truncated or corrupt.
        UnsupportedImage: It is intact, but animated, too large, too small or too fragmented.
    """
    kind = _sniff(data)
    passes = count_passes(data, kind)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as opened:
            _check(opened, passes, limits or Limits())
            image = _read_plain_png(data) if kind == "PNG" else None
            image = image or opened
            size = image.size
            if reduced:
                image.draft(None, (_LEAST_REDUCED_SIDE, _LEAST_REDUCED_SIDE))
            upright = image.size
            ImageOps.exif_transpose(image, in_place=True)
            size = size if image.size == upright else size[::-1]
            pixels, warnings = _to_gray(image)
    except UnsupportedImage:
        raise
    except Exception as error:  # decoders raise almost anything when fed with broken bytes
        raise UnreadableImage(f"an intact {kind} file", f"a truncated or corrupt {kind}") from error
    return Radiograph(pixels, kind, hashlib.sha256(data).hexdigest(), warnings, size)


def _sniff(data: bytes) -> str:
    if not data:
        raise UnreadableImage("a PNG, JPEG or DICOM file", "an empty file (0 bytes)")
    for signature, kind in _READ.items():
        if data.startswith(signature):
            return kind
    raise UnsupportedImageType("a PNG, JPEG or DICOM file", _describe(data))


def _describe(data: bytes) -> str:
    for signature, name in _KNOWN_BUT_NOT_READ.items():
        if data.startswith(signature):
            return name
    return f"{len(data)} bytes of no known image type"


def _check(image: Image.Image, passes: int, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise UnsupportedImage(
            f"an image of at most {limits.max_pixels} pixels", f"{width} x {height}"
        )
    if min(width, height) < limits.min_side:
        raise UnsupportedImage(
            f"an image of at least {limits.min_side} x {limits.min_side} pixels",
            f"{width} x {height}",
        )
    if passes * width * height > _MAX_PASSES * limits.max_pixels:
        raise UnsupportedImage("a progressive JPEG of about 10 scans", f"{passes} of them")
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise UnsupportedImage("a single image", "an animated PNG")


def _read_plain_png(data: bytes) -> Image.Image | None:
    """Read a PNG of nothing but pixels by libpng, which gives the same ones sooner than Pillow.

    Whatever it does not take is left to Pillow to judge: it is the stricter of the two.
    """
    if not is_plain_png(data):
        return None
    import imagecodecs  # noqa: PLC0415 -- loaded with the first file that it reads

    try:
        return Image.fromarray(imagecodecs.png_decode(data))
    except (RuntimeError, ValueError):  # its own errors are RuntimeErrors
        return None


def _to_gray(image: Image.Image) -> tuple[Pixels, tuple[ImageWarning, ...]]:
    if image.mode.startswith("I"):
        return _scale_16_bit(np.asarray(image))
    if image.mode == "L" and not image.has_transparency_data:
        return np.asarray(image), ()
    pixels = np.empty((image.height, image.width), np.uint8)
    for rows in _strips(pixels):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        pixels[rows] = np.asarray(_strip_to_gray(strip))
    return pixels, ()


def _strips(pixels: np.ndarray) -> Iterator[slice]:
    """Divide an image, `[height, width]`, into its strips of rows."""
    height, width = pixels.shape
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _strip_to_gray(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    elif image.mode == "P":
        image = image.convert("RGB")
    return image.convert("L")


def _scale_16_bit(samples: np.ndarray) -> tuple[Pixels, tuple[ImageWarning, ...]]:
    bits = max(8, int(samples.max()).bit_length())
    white = (1 << bits) - 1
    pixels = np.empty(samples.shape, np.uint8)
    for rows in _strips(samples):
        pixels[rows] = (samples[rows].astype(np.uint32) * 255 + white // 2) // white
    if bits == SAMPLE_BITS:
        return pixels, ()
    detail = f"A 16-bit image that uses {bits} bits only; it was scaled by these."
    return pixels, (ImageWarning("bit-depth-inferred", detail),)
