"""What a codestream claims of itself, compared with the file's header before its decoder sees it.

A decoder allocates and computes what a codestream's head asks for: some hundred bytes of JPEG 2000
could take gigabytes.
"""

import struct
from collections.abc import Iterator

from app.errors import UnreadableImage, UnsupportedImage
from app.imaging.structure import MAX_PARTS, count_passes

MAX_BITS = 16
"""Of a sample."""

_END = 0xFFD9
_MARKER = struct.Struct(">HH")

SEQUENTIAL = frozenset({0xFFC0, 0xFFC1, 0xFFC3})
"""Frames of a JPEG in baseline, extended and lossless mode, with Huffman coding."""

JPEG_LS = frozenset({0xFFF7})
_FRAMES = {*range(0xFFC0, 0xFFD0), *JPEG_LS} - {0xFFC4, 0xFFC8, 0xFFCC}
_FRAME = struct.Struct(">HHBHHB")
_FILL = 0xFFFF

_SIZE = struct.Struct(">4sHH8LH3B")
_START_AND_SIZE = b"\xff\x4f\xff\x51"
_CODING = 0xFF52
_CODING_STYLE = struct.Struct(">HHBBHBBBBBB")
_COMPONENT_CODING = 0xFF53
_TILE_PART = 0xFF90
_TILE_HEAD = struct.Struct(">HHHLBB")
_TILE_DATA = 0xFF93
_MAX_LEVELS = 32
_WHOLE = 15
"""Exponent of a precinct's side where a codestream gives none."""

MAX_TILES = 4096
MAX_PRECINCTS = 2**15
"""Of all tiles and resolutions. Each takes about 2 kB of the decoder's memory."""

MIN_BLOCK = 8
"""Least sum of the exponents of a code block's sides: 16 by 16 samples."""


def check_jpeg(data: bytes, columns: int, rows: int, modes: frozenset[int]) -> None:
    """Check the frame of a JPEG or JPEG-LS.

    Args:
        data: The codestream.
        columns: That it has to have.
        rows: That it has to have.
        modes: Markers of frames that its transfer syntax allows.

    Raises:
        UnreadableImage: It is another, or truncated.
        UnsupportedImage: It is in too many parts.
    """
    _check_end(data)
    if modes is SEQUENTIAL and count_passes(data, "JPEG") != 1:
        raise UnreadableImage("a JPEG of one scan", "another")
    for at in _segments(data, 2):
        if _MARKER.unpack_from(data, at)[0] in _FRAMES and at + _FRAME.size <= len(data):
            marker, _, bits, height, width, components = _FRAME.unpack_from(data, at)
            _check_side((width, height), (columns, rows))
            if marker in modes and components == 1 and bits <= MAX_BITS:
                return
            break
    raise UnreadableImage("one gray component, coded as the transfer syntax says", "another")


def check_jpeg_2000(data: bytes, columns: int, rows: int) -> None:
    """Check all that decides on the work of decoding a JPEG 2000.

    Args:
        data: The codestream.
        columns: That it has to have.
        rows: That it has to have.

    Raises:
        UnreadableImage: It has another size, is not of one gray component, or truncated.
        UnsupportedImage: It is too finely divided.
    """
    _check_end(data)
    if len(data) < _SIZE.size or not data.startswith(_START_AND_SIZE):
        raise UnreadableImage("a JPEG 2000 codestream", "something else")
    _, _, _, right, bottom, left, top, wide, high, x, y, components, bits, *steps = (
        _SIZE.unpack_from(data)
    )
    _check_side((right - left, bottom - top), (columns, rows))
    is_simple = not (left or top or x or y) and steps == [1, 1]
    if components != 1 or not is_simple or bits & 0x7F >= MAX_BITS or not (wide and high):
        raise UnreadableImage("one gray component, coded as the transfer syntax says", "another")
    tiles = -(-columns // wide) * -(-rows // high)
    if tiles > MAX_TILES:
        raise UnsupportedImage(f"a codestream of at most {MAX_TILES} tiles", "more")
    at = 0
    for at in _segments(data, 2):
        marker = _MARKER.unpack_from(data, at)[0]
        if marker == _CODING:
            _check_coding(data[at:], min(wide, columns), min(high, rows), tiles)
        if marker in (_COMPONENT_CODING, _TILE_PART):
            break
    _check_tile_parts(data, at)


def _check_end(data: bytes) -> None:
    """Check that a codestream ends; decoders make up what a truncated one has not.

    Encoders fill a fragment to an even length with either byte.
    """
    if not data.rstrip(b"\0\xff").endswith(_END.to_bytes(2)):
        raise UnreadableImage("a whole codestream", "a truncated one")


def _check_side(found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        received = "one of {} x {}".format(*found)
        raise UnreadableImage("a codestream of {} x {} samples".format(*wanted), received)


def _segments(data: bytes, at: int) -> Iterator[int]:
    """Walk over marker segments; tell where each begins, up to what is none."""
    for _ in range(MAX_PARTS):
        if at + _MARKER.size > len(data) or data[at] != _FILL >> 8:
            return
        marker, length = _MARKER.unpack_from(data, at)
        if marker == _FILL:
            at += 1
            continue
        yield at
        at += 2 + length


def _check_coding(segment: bytes, width: int, height: int, tiles: int) -> None:
    """Check how finely the wavelet coefficients of a tile are divided."""
    if len(segment) < _CODING_STYLE.size:
        raise UnreadableImage("a whole codestream", "a truncated one")
    _, _, style, _, _, _, levels, block_width, block_height, _, _ = _CODING_STYLE.unpack_from(
        segment
    )
    if levels > _MAX_LEVELS or block_width + block_height + 4 < MIN_BLOCK:
        raise UnsupportedImage("a codestream of code blocks of at least 16 x 16", "smaller ones")
    sizes = segment[_CODING_STYLE.size :] if style & 1 else bytes([_WHOLE * 17]) * (levels + 1)
    precincts = 0
    for level, size in zip(range(levels, -1, -1), sizes, strict=False):
        across = -(-width // (1 << level + (size & 15)))
        down = -(-height // (1 << level + (size >> 4)))
        precincts += across * down * tiles
    if precincts > MAX_PRECINCTS:
        raise UnsupportedImage(f"a codestream of at most {MAX_PRECINCTS} precincts", "more")


def _check_tile_parts(data: bytes, at: int) -> None:
    """Check that tiles change nothing of what holds for all."""
    for _ in range(MAX_PARTS):
        if at + _TILE_HEAD.size > len(data):
            break
        marker, _, _, length, _, _ = _TILE_HEAD.unpack_from(data, at)
        if marker != _TILE_PART:
            break
        for part in _segments(data, at + _TILE_HEAD.size):
            inner = _MARKER.unpack_from(data, part)[0]
            if inner in (_CODING, _COMPONENT_CODING):
                raise UnsupportedImage("tiles that are coded alike", "others")
            if inner == _TILE_DATA:
                break
        if not length:
            return
        at += max(length, _TILE_HEAD.size)
    if data[at : at + 2] != _END.to_bytes(2):
        raise UnreadableImage("whole tiles", "truncated or corrupt ones")
