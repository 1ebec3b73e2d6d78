"""How a file is built, looked at before a decoder is: what would take long to be read is refused.

A decoder spends microseconds on every chunk or segment, however empty, and a JPEG's decoder goes
through the whole picture for every scan; a few megabytes of them could keep a thread for minutes.
What is beside the picture can cost as much: it is unpacked, or becomes a Python object a value.
"""

import struct
from collections import Counter
from collections.abc import Iterator

from app.errors import UnsupportedImage

MAX_PARTS = 20_000
"""Chunks of a PNG, or segments of a JPEG and bytes between them. In chunks of 8 kB, the smallest
that are usual, this is a PNG of 160 MB."""

MAX_PACKED = 100
"""Compressed texts and color profiles of a PNG: a kilobyte of each unpacks to 1 MiB."""

MAX_EXIF = 2**18
"""Bytes of EXIF, of which a JPEG's standard has 64 KiB at most."""

MAX_TABLES = 2**16
"""Bytes of a JPEG's segments before its first scan but `APPn` and `COM`: about 1 KiB is usual."""

_PNG_SIGNATURE = 8
_CHUNK = struct.Struct(">I4s")
_CHECKSUM = 4
_PNG_DEPTH, _PNG_CHECKSUM = 24, 29
"""Where bit depth, color type, compression, filter and interlacing stand in the header."""
_PLAIN = {bytes([8, color, 0, 0, 0]) for color in (0, 2)}
_PACKED = (b"iCCP", b"iTXt", b"zTXt")
_EXIF_TEXTS = (b"exif\0", b"Raw profile type exif\0")
_LENGTH = struct.Struct(">H")
_MARKER = b"\xff"
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = {0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE), 0xFF}
"""As Pillow sees it; with `0xC8` and from `0xF0` on it reads on behind the marker."""
_BESIDE = {*range(0xE0, 0xF0), 0xFE}
_APP1, _EXIF = 0xE1, b"Exif\0\0"


def count_passes(data: bytes, kind: str) -> int:
    """Tell how often the decoder will go through the whole picture: a JPEG's scans, else once.

    Args:
        data: The file's bytes, which may be corrupt: what is wrong is left to the decoder to tell.
        kind: `PNG` or `JPEG`.

    Raises:
        UnsupportedImage: It has more than `MAX_PARTS` parts, or more than a decoder should unpack.
    """
    if kind == "PNG":
        _check_chunks(data)
        return 1
    return data.count(bytes([0xFF, _START_OF_SCAN]), _find_first_scan(data))


def is_plain_png(data: bytes) -> bool:
    """Tell whether a PNG has nothing but pixels, gray or RGB of 8 bits in the order of their rows.

    Args:
        data: The file's bytes, with as few parts as `count_passes` lets through.
    """
    names = [name for name, _, _ in _chunks(data)]
    return data[_PNG_DEPTH:_PNG_CHECKSUM] in _PLAIN and names == [
        b"IHDR",
        *[b"IDAT"] * (len(names) - 2),
        b"IEND",
    ]


def _check_chunks(data: bytes) -> None:
    names, exif = Counter[bytes](), 0
    for parts, (name, at, length) in enumerate(_chunks(data), 1):
        _check_parts(parts)
        names[name] += 1
        if name == b"eXIf" or data.startswith(_EXIF_TEXTS, at):
            exif += length
    _check_exif(exif)
    if names[b"iCCP"] > 1:
        raise UnsupportedImage("a PNG of at most 1 color profile", f"{names[b'iCCP']}")
    packed = sum(names[name] for name in _PACKED)
    if packed > MAX_PACKED:
        raise UnsupportedImage(f"a PNG of at most {MAX_PACKED} iTXt and zTXt", f"{packed}")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Walk over a PNG's chunks: the name of each, where its content begins, and its length."""
    at, name = _PNG_SIGNATURE, b""
    while at + _CHUNK.size <= len(data) and name != b"IEND":
        length, name = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        yield name, at, length
        at += length + _CHECKSUM


def _find_first_scan(data: bytes) -> int:
    """Walk over a JPEG's segments to its first scan, or to its end where there is none."""
    at, parts, exif, tables = 0, 0, 0, 0
    while (marker := data.find(_MARKER, at)) >= 0 and marker + 1 < len(data):
        parts += 1 + marker - at  # what is between two segments is read byte by byte
        _check_parts(parts)
        code = data[marker + 1]
        if code == _START_OF_SCAN:
            return marker
        at = marker + (1 if code == _MARKER[0] else 2)
        if code not in _WITHOUT_LENGTH and at + _LENGTH.size <= len(data):
            length = max(_LENGTH.size, *_LENGTH.unpack_from(data, at))
            if code == _APP1 and data.startswith(_EXIF, at + _LENGTH.size):
                _check_exif(exif := exif + length)
            elif code not in _BESIDE:
                _check_tables(tables := tables + length)
            at += length
    return len(data)


def _check_exif(size: int) -> None:
    if size > MAX_EXIF:
        raise UnsupportedImage(f"a file of at most {MAX_EXIF} bytes of EXIF", f"{size}")


def _check_tables(size: int) -> None:
    if size > MAX_TABLES:
        raise UnsupportedImage(f"a JPEG of at most {MAX_TABLES} bytes of tables", "more")


def _check_parts(parts: int) -> None:
    if parts > MAX_PARTS:
        raise UnsupportedImage(f"a file of at most {MAX_PARTS} chunks or segments", "more")
