import hashlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.errors import UnreadableImage, UnsupportedImage, UnsupportedImageType
from app.imaging import SIZE, Limits, decode, phantom, to_model_input
from tests.fakes import encode, gray_png

SIDE = 64
ORIENTATION = 0x0112

# SHA-256 of what the contract makes; a release trained on other pixels would be another one.
RAMP = "39a6daea73c93b266f5f49fb91999de4cb8748c719bdfea25deb458e6184f61b"
PHANTOM = "f1af18bee40389e6c5e411d0f9ad731dc6791ebfe3d548ac1b9a6dc27d7e9439"


def _even(mode: str, color: float | tuple[int, ...], kind: str = "PNG", **options: object) -> bytes:
    """Write an image of one color."""
    return _save(Image.new(mode, (SIDE, SIDE), color), kind, **options)


def _save(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _gray16(*values: int) -> bytes:
    """Write a 16-bit gray PNG whose first pixels have these values, and the others the first."""
    pixels = np.full((SIDE, SIDE), values[0], np.uint16)
    pixels[0, : len(values)] = values
    return encode(pixels)


def _palette(index: int, *, transparent: int | None = None) -> bytes:
    image = Image.new("P", (SIDE, SIDE), index)
    image.putpalette([0, 0, 0, 255, 255, 255, 255, 0, 0])
    return _save(image) if transparent is None else _save(image, transparency=transparent)


def _rgb16(red: int, green: int, blue: int) -> bytes:
    """Write a 16-bit RGB PNG, which Pillow cannot."""
    row = b"\x00" + struct.pack(">3H", red, green, blue) * SIDE
    header = struct.pack(">2I5B", SIDE, SIDE, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * SIDE)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# Luma is ITU-R BT.601: 0.299 red + 0.587 green + 0.114 blue.
@pytest.mark.parametrize(
    ("data", "value"),
    [
        pytest.param(_even("L", 0), 0, id="gray8 black"),
        pytest.param(_even("L", 200), 200, id="gray8"),
        pytest.param(_even("L", 255), 255, id="gray8 white"),
        pytest.param(_even("1", 0), 0, id="1-bit black"),
        pytest.param(_even("1", 1), 255, id="1-bit white"),
        pytest.param(_even("RGB", (255, 0, 0)), 76, id="RGB red"),
        pytest.param(_even("RGB", (0, 255, 0)), 150, id="RGB green"),
        pytest.param(_even("RGB", (0, 0, 255)), 29, id="RGB blue"),
        pytest.param(_even("RGB", (90, 90, 90)), 90, id="RGB gray"),
        pytest.param(_rgb16(25_700, 25_700, 25_700), 100, id="RGB of 16 bits"),
        pytest.param(_even("LA", (200, 255)), 200, id="LA opaque"),
        pytest.param(_even("LA", (200, 0)), 0, id="LA transparent"),
        pytest.param(_even("LA", (200, 51)), 40, id="LA a fifth"),
        pytest.param(_even("RGBA", (100, 100, 100, 255)), 100, id="RGBA opaque"),
        pytest.param(_even("RGBA", (255, 255, 255, 0)), 0, id="RGBA transparent"),
        pytest.param(_even("RGBA", (250, 250, 250, 51)), 50, id="RGBA a fifth"),
        pytest.param(_palette(1), 255, id="palette white"),
        pytest.param(_palette(2), 76, id="palette red"),
        pytest.param(_palette(1, transparent=1), 0, id="palette transparent"),
        pytest.param(_palette(1, transparent=2), 255, id="palette, another color transparent"),
        pytest.param(_even("L", 200, transparency=200), 0, id="gray8, its gray transparent"),
        pytest.param(_even("L", 180, "JPEG"), 180, id="JPEG gray"),
        pytest.param(_even("RGB", (90, 90, 90), "JPEG"), 90, id="JPEG RGB"),
        pytest.param(_even("CMYK", (0, 0, 0, 155), "JPEG"), 100, id="JPEG CMYK"),
        pytest.param(_even("L", 180, "JPEG", progressive=True), 180, id="JPEG progressive"),
    ],
)
def test_every_form_of_even_image_has_its_exact_value(data: bytes, value: int) -> None:
    pixels = decode(data).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (SIDE, SIDE)
    assert np.unique(pixels).tolist() == [value]


@pytest.mark.parametrize(
    ("values", "pixels", "warns"),
    [
        ((65_535, 0, 32_768), [255, 0, 128], False),
        ((40_000, 257, 128, 129), [156, 1, 0, 1], False),
        ((4_095, 0, 2_048), [255, 0, 128], True),
        ((1_023, 512), [255, 128], True),
        ((200, 100, 0), [200, 100, 0], True),
        ((0, 0), [0, 0], True),
    ],
    ids=["16 bits", "16 bits, not all used", "12 bits", "10 bits", "8 bits", "black"],
)
def test_16_bit_gray_is_scaled_by_the_bits_it_needs(
    values: tuple[int, ...],
    pixels: list[int],
    warns: bool,
) -> None:
    radiograph = decode(_gray16(*values))
    assert radiograph.pixels[0, : len(pixels)].tolist() == pixels
    assert [warning.code for warning in radiograph.warnings] == ["bit-depth-inferred"] * warns


# How a reader turns the stored pixels, by the EXIF orientation (CIPA DC-008, "Orientation").
TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_orientation_is_applied(orientation: int, dtype: type[np.generic]) -> None:
    stored = np.arange(70 * 90, dtype=np.uint32).reshape(70, 90) % 256
    if dtype is np.uint16:
        stored = stored * 257
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    radiograph = decode(encode(stored.astype(dtype), exif=exif))
    expected = TURNS[orientation]((np.arange(70 * 90).reshape(70, 90) % 256).astype(np.uint8))
    np.testing.assert_array_equal(radiograph.pixels, expected)
    assert (radiograph.height, radiograph.width) == expected.shape


@pytest.mark.parametrize("orientation", TURNS)
def test_an_orientation_of_a_jpeg_is_applied(orientation: int) -> None:
    stored = np.zeros((70, 90), np.uint8)
    stored[:35, :45] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    found = decode(encode(stored, "JPEG", quality=100, exif=exif)).pixels
    np.testing.assert_array_equal(found > 127, TURNS[orientation](stored) > 127)


def _chest(width: int, height: int, mode: str = "L", **options: object) -> bytes:
    """Write a JPEG of the phantom with detail of the size of a pixel."""
    chest = np.asarray(Image.fromarray(phantom()[..., 0]).resize((width, height)), np.float32)
    noise = np.random.default_rng(1).normal(0, 4, chest.shape)
    image = Image.fromarray((chest + noise).clip(0, 255).astype(np.uint8)).convert(mode)
    return _save(image, "JPEG", quality=90, **options)


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((448, 500), (448, 500)),
        ((895, 900), (895, 900)),
        ((896, 900), (448, 450)),
        ((1801, 2303), (451, 576)),
        ((3584, 4000), (448, 500)),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_large_jpeg_is_decoded_reduced_and_the_models_input_stays(
    size: tuple[int, int], decoded: tuple[int, int], mode: str
) -> None:
    data = _chest(*size, mode)
    whole, reduced = decode(data), decode(data, reduced=True)
    assert reduced.pixels.shape == decoded[::-1]
    assert (reduced.width, reduced.height) == (whole.width, whole.height) == size
    assert reduced.is_reduced == (decoded != size)
    assert not whole.is_reduced
    difference = np.abs(whole.to_model_input().astype(int) - reduced.to_model_input())
    assert difference.max() <= 9
    assert difference.mean() < 0.5


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_reduced_radiograph_knows_its_files_size_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = _chest(900, 1800, exif=exif)
    reduced = decode(data, reduced=True)
    size = (900, 1800) if orientation in {1, 3} else (1800, 900)
    assert (reduced.width, reduced.height) == size
    assert reduced.pixels.shape == (size[1] // 2, size[0] // 2)


def test_a_png_is_never_reduced() -> None:
    data = encode(np.full((2000, 2000), 9, np.uint8))
    assert decode(data, reduced=True).pixels.shape == (2000, 2000)


def test_a_radiograph_knows_its_format_size_and_hash() -> None:
    data = gray_png(height=80, width=100)
    radiograph = decode(data)
    assert (radiograph.format, radiograph.width, radiograph.height) == ("PNG", 100, 80)
    assert radiograph.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_unreadable(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    data = encode(noise, kind)
    whole = decode(data)
    last = 14 if kind == "PNG" else 2  # the end marker, and for PNG the data's own checksum
    for length in (*range(8, 200, 7), *range(200, len(data) - last, 97)):
        with pytest.raises(UnreadableImage, match=f"a truncated or corrupt {kind}"):
            decode(data[:length])
    assert whole.pixels.shape == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_no_byte_that_is_changed_ends_in_another_error_than_the_trees(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    data = bytearray(encode(noise, kind))
    for at in range(8, min(len(data), 700)):
        broken = data.copy()
        broken[at] ^= 0xFF
        try:
            decode(bytes(broken), Limits(max_pixels=10_000))
        except (UnreadableImage, UnsupportedImage):
            continue


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"hello, this is text", "19 bytes of no known image type"),
        (b"GIF89a" + bytes(99), "a GIF"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x89PNG", "4 bytes"),
    ],
)
def test_what_is_neither_png_nor_jpeg_is_told(data: bytes, what: str) -> None:
    with pytest.raises(UnsupportedImageType, match=what):
        decode(data)


def test_an_empty_file_is_unreadable() -> None:
    with pytest.raises(UnreadableImage, match="0 bytes"):
        decode(b"")


def test_an_animated_png_is_not_supported() -> None:
    frames = [Image.new("L", (SIDE, SIDE), value) for value in (0, 255)]
    data = _save(frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImage, match="an animated PNG"):
        decode(data)


@pytest.mark.parametrize("side", [8_001, 11_000, 60_000, 2**31 - 1])
def test_a_header_that_announces_too_many_pixels_is_refused_before_they_are_decoded(
    side: int,
) -> None:
    header = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"")
    with pytest.raises(UnsupportedImage, match="at most 64000000 pixels"):
        decode(data)


def test_the_limits_are_inclusive() -> None:
    data = gray_png(height=80, width=100)
    assert decode(data, Limits(max_pixels=8000, min_side=80)).width == 100
    with pytest.raises(UnsupportedImage, match="at most 7999 pixels; received 100 x 80"):
        decode(data, Limits(max_pixels=7999))
    with pytest.raises(UnsupportedImage, match="at least 81 x 81 pixels; received 100 x 80"):
        decode(data, Limits(min_side=81))


def test_an_image_of_the_models_size_is_not_changed() -> None:
    pixels = phantom()
    np.testing.assert_array_equal(to_model_input(pixels[..., 0]), pixels)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_resize_averages_and_does_not_sample(factor: int) -> None:
    checkerboard = np.indices((SIZE * factor, SIZE * factor)).sum(axis=0) % 2 * 255
    found = to_model_input(checkerboard.astype(np.uint8))
    assert found.shape == (SIZE, SIZE, 1)
    assert abs(found[2:-2, 2:-2].astype(int) - 127).max() <= 8


def test_a_resize_stretches_to_the_square() -> None:
    left_white = np.zeros((100, 448), np.uint8)
    left_white[:, :224] = 255
    found = to_model_input(left_white)[..., 0]
    assert (found[:, :111] == 255).all()
    assert (found[:, 113:] == 0).all()


def test_the_pixel_contract_is_the_same_to_the_bit_everywhere() -> None:
    ramp = (np.indices((300, 500)).sum(axis=0) % 256).astype(np.uint8)
    assert hashlib.sha256(to_model_input(ramp).tobytes()).hexdigest() == RAMP
    assert hashlib.sha256(phantom().tobytes()).hexdigest() == PHANTOM
