"""How a file is built, looked at before a decoder is: what would take long to be read is refused.

A decoder spends microseconds on every chunk or segment, however empty, and a JPEG's decoder goes
through the whole picture for every scan; a few megabytes of them could keep a thread for minutes.
"""

import struct
from collections.abc import Iterator

from app.errors import UnsupportedImage

MAX_PARTS = 20_000
"""Chunks of a PNG, or segments of a JPEG and bytes between them. In chunks of 8 kB, the smallest
that are usual, this is a PNG of 160 MB."""

_PNG_SIGNATURE = 8
_CHUNK = struct.Struct(">I4s")
_CHECKSUM = 4
_PNG_DEPTH, _PNG_CHECKSUM = 24, 29
"""Where bit depth, color type, compression, filter and interlacing stand in the header."""
_PLAIN = {bytes([8, color, 0, 0, 0]) for color in (0, 2)}
_LENGTH = struct.Struct(">H")
_MARKER = b"\xff"
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA), 0xFF}


def count_passes(data: bytes, kind: str) -> int:
    """Tell how often the decoder will go through the whole picture: a JPEG's scans, else once.

    Args:
        data: The file's bytes, which may be corrupt: what is wrong is left to the decoder to tell.
        kind: `PNG` or `JPEG`.

    Raises:
        UnsupportedImage: It has more than `MAX_PARTS` parts.
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
    names = list(_chunks(data))
    return data[_PNG_DEPTH:_PNG_CHECKSUM] in _PLAIN and names == [
        b"IHDR",
        *[b"IDAT"] * (len(names) - 2),
        b"IEND",
    ]


def _check_chunks(data: bytes) -> None:
    for parts, _ in enumerate(_chunks(data), 1):
        _check_parts(parts)


def _chunks(data: bytes) -> Iterator[bytes]:
    """Walk over a PNG's chunks: the name of each."""
    at, name = _PNG_SIGNATURE, b""
    while at + _CHUNK.size <= len(data) and name != b"IEND":
        length, name = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size + length + _CHECKSUM
        yield name


def _find_first_scan(data: bytes) -> int:
    """Walk over a JPEG's segments to its first scan, or to its end where there is none."""
    at, parts = 0, 0
    while (marker := data.find(_MARKER, at)) >= 0 and marker + 1 < len(data):
        parts += 1 + marker - at  # what is between two segments is read byte by byte
        _check_parts(parts)
        code = data[marker + 1]
        if code == _START_OF_SCAN:
            return marker
        at = marker + (1 if code == _MARKER[0] else 2)
        if code not in _WITHOUT_LENGTH and at + _LENGTH.size <= len(data):
            at += max(_LENGTH.size, *_LENGTH.unpack_from(data, at))
    return len(data)


def _check_parts(parts: int) -> None:
    if parts > MAX_PARTS:
        raise UnsupportedImage(f"a file of at most {MAX_PARTS} chunks or segments", "more")
