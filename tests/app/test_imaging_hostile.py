"""Files that are made to cost more than they should."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.errors import InputError, UnreadableImage, UnsupportedImage
from app.imaging import Limits, decode
from app.imaging.structure import MAX_EXIF, MAX_PACKED, MAX_PARTS, MAX_TABLES, count_passes
from tests.fakes import encode, gray_png

PNG = gray_png()
AFTER_IHDR, BEFORE_IEND = 33, len(PNG) - 12
JPEG = encode(np.full((80, 100), 200, np.uint8), "JPEG")
AFTER_SOI = 2
MEBIBYTE = 2**20


def chunk(name: bytes, data: bytes = b"") -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def segment(marker: int, data: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(data)) + data


def insert(data: bytes, at: int, part: bytes) -> bytes:
    return data[:at] + part + data[at:]


# --- unpacked texts and profiles


@pytest.mark.parametrize("at", [AFTER_IHDR, BEFORE_IEND], ids=["before", "behind"])
@pytest.mark.parametrize(
    "bomb",
    [
        chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(64 * MEBIBYTE))),
        chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(64 * MEBIBYTE))),
        chunk(b"iCCP", b"key\0\0" + zlib.compress(bytes(64 * MEBIBYTE))),
        b"".join(
            chunk(b"zTXt", b"%d\0\0" % number + zlib.compress(bytes(MEBIBYTE)))
            for number in range(6)
        ),
        b"".join(chunk(b"tEXt", b"%d\0" % number + bytes(MEBIBYTE)) for number in range(6)),
    ],
    ids=["zTXt", "iTXt", "iCCP", "many zTXt", "many tEXt"],
)
def test_what_unpacks_to_many_times_its_size_is_unreadable(bomb: bytes, at: int) -> None:
    with pytest.raises(UnreadableImage):
        decode(insert(PNG, at, bomb))


def test_texts_and_profiles_of_usual_size_are_passed_over() -> None:
    parts = chunk(b"tEXt", b"Comment\0any") + chunk(b"iCCP", b"any\0\0" + zlib.compress(bytes(9)))
    assert (decode(insert(PNG, AFTER_IHDR, parts)).pixels == 200).all()


@pytest.mark.parametrize("at", [AFTER_IHDR, BEFORE_IEND], ids=["before", "behind"])
@pytest.mark.parametrize(
    ("part", "limit"),
    [
        (chunk(b"iCCP", b"key\0\0" + zlib.compress(bytes(9))), 1),
        (chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(9))[:-1]), MAX_PACKED),
        (chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(9))), MAX_PACKED),
    ],
    ids=["iCCP", "zTXt that breaks off", "iTXt"],
)
def test_a_png_that_unpacks_more_often_than_any_needs_is_not_supported(
    part: bytes, limit: int, at: int
) -> None:
    assert (decode(insert(PNG, at, part * limit)).pixels == 200).all()
    with pytest.raises(UnsupportedImage, match=f"a PNG of at most {limit} .*; received"):
        decode(insert(PNG, at, part * (limit + 1)))


def test_a_png_of_very_many_plain_texts_is_read() -> None:
    texts = b"".join(chunk(b"tEXt", b"Key %d\0any" % number) for number in range(5000))
    assert (decode(insert(PNG, AFTER_IHDR, texts)).pixels == 200).all()


# --- what becomes a Python object a value


def exif(values: int) -> bytes:
    """Write EXIF whose only entry is an orientation of so many fractions, 8 bytes each."""
    entry = struct.pack("<HHII", 0x0112, 5, values, 26)
    head = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return head + struct.pack("<II", 1, 3) * values


def exif_jpeg(data: bytes) -> bytes:
    parts = range(0, len(data), 60_000)
    segments = (segment(0xE1, b"Exif\0\0" + data[at : at + 60_000]) for at in parts)
    return insert(JPEG, AFTER_SOI, b"".join(segments))


@pytest.mark.parametrize(
    "hide",
    [
        exif_jpeg,
        lambda data: insert(PNG, AFTER_IHDR, chunk(b"eXIf", data)),
        lambda data: insert(PNG, BEFORE_IEND, chunk(b"tEXt", b"exif\0" + data)),
        lambda data: insert(
            PNG, BEFORE_IEND, chunk(b"tEXt", b"Raw profile type exif\0" + data.hex().encode())
        ),
    ],
    ids=["JPEG", "eXIf", "text", "hexadecimal text"],
)
def test_exif_that_is_larger_than_any_camera_writes_is_not_supported(
    hide: Callable[[bytes], bytes],
) -> None:
    assert decode(hide(exif(8000))).width == 100
    with pytest.raises(UnsupportedImage, match=f"at most {MAX_EXIF} bytes of EXIF"):
        decode(hide(exif(MAX_EXIF // 8)))


@pytest.mark.parametrize(
    "part",
    [
        segment(0xC0, struct.pack(">BHHB", 8, 80, 100, 1) + b"\1\x11\0" * 9000),
        segment(0xDB, (b"\0" + bytes(64)) * 500),
        segment(0xC4, bytes(30_000)),
    ],
    ids=["SOF", "DQT", "DHT"],
)
def test_a_jpeg_of_far_too_large_tables_is_not_supported(part: bytes) -> None:
    with pytest.raises(UnsupportedImage, match=f"at most {MAX_TABLES} bytes of tables"):
        decode(insert(JPEG, AFTER_SOI, part * 3))


# --- parts without end


@pytest.mark.parametrize("at", [AFTER_IHDR, BEFORE_IEND], ids=["before", "behind"])
@pytest.mark.parametrize("name", [b"prVt", b"IDAT", b"tEXt", b"tIME"])
def test_a_png_of_too_many_chunks_is_not_supported(name: bytes, at: int) -> None:
    with pytest.raises(UnsupportedImage, match="at most 20000 chunks or segments"):
        decode(insert(PNG, at, chunk(name) * MAX_PARTS))


@pytest.mark.parametrize(
    "part",
    [segment(0xE5), segment(0xFE), b"\xff", b"\x00", b"\xff\x00", b"\xff\xd0", b"\xff\xe5\x00\x00"],
    ids=["APP5", "COM", "fill", "junk", "stuffing", "restart", "a length too short"],
)
def test_a_jpeg_of_too_many_segments_is_not_supported(part: bytes) -> None:
    data = insert(JPEG, AFTER_SOI + 18, part * (MAX_PARTS + 1))  # behind JFIF
    with pytest.raises(UnsupportedImage, match="at most 20000 chunks or segments"):
        decode(data)


@pytest.mark.parametrize("marker", [0xC8, 0xF0, 0xFD])
def test_junk_does_not_hide_behind_a_marker_that_the_decoder_does_not_skip(marker: int) -> None:
    with pytest.raises(UnsupportedImage, match="at most 20000 chunks or segments"):
        decode(insert(JPEG, AFTER_SOI, segment(marker, bytes(MAX_PARTS))))


def test_a_thousand_segments_are_read() -> None:
    assert decode(insert(JPEG, AFTER_SOI, segment(0xE5, bytes(100)) * 1000)).pixels.all()
    assert decode(insert(PNG, AFTER_IHDR, chunk(b"prVt", bytes(100)) * 1000)).pixels.all()


def test_the_scans_of_a_jpeg_are_its_passes() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    assert count_passes(PNG, "PNG") == 1
    assert count_passes(encode(pixels, "JPEG"), "JPEG") == 1
    assert count_passes(encode(pixels, "JPEG", progressive=True), "JPEG") == 10
    inside = segment(0xE5, b"\xff\xda" * 50)  # a thumbnail's scans are not decoded
    assert count_passes(insert(JPEG, AFTER_SOI, inside), "JPEG") == 1
    assert count_passes(b"\xff\xd8\xff", "JPEG") == 0


def test_a_progressive_jpeg_of_very_many_scans_is_not_supported() -> None:
    progressive = encode(np.zeros((80, 100), np.uint8), "JPEG", progressive=True)
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x10")
    with pytest.raises(UnsupportedImage, match=r"received 2\d+ of them"):
        decode(progressive[:-2] + scan * 200_000 + progressive[-2:])
    assert decode(progressive, Limits(max_pixels=80 * 100)).width == 100


def test_a_small_image_may_have_more_scans_than_a_large_one() -> None:
    progressive = encode(np.zeros((80, 100), np.uint8), "JPEG", progressive=True)
    passes = count_passes(progressive, "JPEG")
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x10")
    most, more = (
        progressive[:-2] + scan * (count - passes) + progressive[-2:] for count in (16, 17)
    )
    assert decode(more).width == decode(most, Limits(max_pixels=80 * 100)).width == 100
    with pytest.raises(UnsupportedImage, match="received 17 of them"):
        decode(more, Limits(max_pixels=80 * 100))


# --- headers that say something else


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_size_that_is_not_the_images_is_refused(size: int) -> None:
    header = b"IHDR" + struct.pack(">2I5B", size, size, 8, 0, 0, 0, 0)
    data = PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[AFTER_IHDR:]
    with pytest.raises(InputError):
        decode(data)


@pytest.mark.parametrize("length", [2**16, 2**31 - 1, 2**32 - 1])
def test_a_chunk_that_is_longer_than_its_file_is_unreadable(length: int) -> None:
    with pytest.raises(UnreadableImage):
        decode(insert(PNG, AFTER_IHDR, struct.pack(">I", length) + b"prVt"))


def test_a_jpeg_with_two_sizes_is_refused() -> None:
    at = JPEG.index(b"\xff\xc0")
    other = segment(0xC0, struct.pack(">BHHB", 8, 60_000, 60_000, 1) + b"\1\x11\0")
    for data in (insert(JPEG, at, other), insert(JPEG, at + 13, other)):
        with pytest.raises(InputError):
            decode(data)


# --- large images, in strips


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def whole_gray(image: Image.Image) -> NDArray[np.uint8]:
    """Reduce an image to gray at once, as it was before there were strips."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("RGB").convert("L"))


@pytest.mark.parametrize(
    "new",
    [
        lambda: Image.fromarray(noise(1030, 1100)),
        lambda: Image.fromarray(noise(1030, 1100, 3)),
        lambda: Image.fromarray(noise(1030, 1100, 4)),
        lambda: Image.fromarray(noise(1030, 1100)).convert("P"),
    ],
    ids=["L", "RGB", "RGBA", "P"],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_of_several_strips_is_what_it_is_at_once(
    new: Callable[[], Image.Image], orientation: int
) -> None:
    image, buffer, exif = new(), io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, "PNG", exif=exif, compress_level=1)
    with Image.open(buffer) as saved:
        assert (decode(buffer.getvalue()).pixels == whole_gray(saved)).all()


def test_16_bit_gray_of_several_strips_is_scaled_by_its_brightest_pixel() -> None:
    samples = np.zeros((1030, 1100), np.uint16)
    samples[-1, -1] = 4095
    samples[0, 0] = 2048
    pixels = decode(encode(samples)).pixels
    assert (pixels[0, 0], pixels[-1, -1], pixels.sum()) == (128, 255, 128 + 255)
