"""A body of multipart/related (RFC 2387), as DICOMweb has it (PS3.18, 8.6.1.2), to DICOM files."""

import io
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from app.errors import MalformedRequest, PayloadTooLarge, UnsupportedImageType

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

RELATED = "multipart/related"
DICOM = "application/dicom"
WANTED = f'{RELATED}; type="{DICOM}"'

_ENCODING_HEADERS = {b"content-encoding", b"content-transfer-encoding"}
_PLAIN = {b"", b"identity", b"binary", b"8bit"}

_MOST_PREAMBLE = 2**16
"""Bytes before the first part, which say nothing."""


async def read_related(chunks: AsyncIterable[bytes], content_type: str, most: int) -> list[bytes]:
    """Take a body apart while it arrives.

    Args:
        chunks: Of the body.
        content_type: The value of its header, with the boundary.
        most: How many files there may be.

    Raises:
        MalformedRequest: It is truncated or corrupt, or has no part.
        UnsupportedImageType: It, or a part of it, is of another type than DICOM.
        PayloadTooLarge: It has more parts.
    """
    parts = _Parts(most)
    try:
        boundary = _boundary(content_type)
        parser = MultipartParser(boundary, parts.callbacks())
        async for chunk in _without_preamble(chunks, b"--" + boundary):
            parser.write(chunk)
    except FormParserError as error:
        raise MalformedRequest(f"a well-formed {WANTED}", "another body") from error
    if not parts.is_whole:
        raise MalformedRequest(f"a whole {WANTED}", "a truncated one")
    if not parts.files:
        raise MalformedRequest(f"at least one part in {WANTED}", "none")
    return [file.getvalue() for file in parts.files]


def _boundary(content_type: str) -> bytes:
    """Find what parts the body.

    Raises:
        UnsupportedImageType: It is said to consist of something else than DICOM.
        MalformedRequest: There is no boundary.
    """
    media_type, parameters = parse_options_header(content_type)
    root = parameters.get(b"type", DICOM.encode()).lower()
    if media_type.lower() != RELATED.encode() or root != DICOM.encode():
        raise UnsupportedImageType(f"{WANTED}, or {DICOM}", "another content type")
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        raise MalformedRequest(f"a boundary in {WANTED}", "none")
    return boundary


async def _without_preamble(chunks: AsyncIterable[bytes], delimiter: bytes) -> AsyncIterator[bytes]:
    """Leave what is before the first part (RFC 2046, 5.1.1), which the parser does not know.

    Where no part begins within the bytes that are looked at, all of them are for the parser to
    refuse.
    """
    head = bytearray()
    has_begun = False
    async for chunk in chunks:
        if has_begun:
            yield chunk
            continue
        seen = max(0, len(head) - len(delimiter) - 2)
        head += chunk
        start = 0 if head.startswith(delimiter) else head.find(b"\r\n" + delimiter, seen)
        if start >= 0 or len(head) > _MOST_PREAMBLE:
            has_begun = True
            yield bytes(head[max(0, start) :])
    if not has_begun:
        yield bytes(head)


class _Parts:
    """What the parser tells, in order.

    Args:
        most: Files that are taken.
    """

    def __init__(self, most: int) -> None:
        self.files: list[io.BytesIO] = []
        self.is_whole = False
        self._most = most
        self._name = bytearray()
        self._value = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        """Name what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._collect,
            "on_header_begin": self._begin_header,
            "on_header_field": lambda *given: self._note(self._name, *given),
            "on_header_value": lambda *given: self._note(self._value, *given),
            "on_header_end": self._end_header,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.files) == self._most:
            raise PayloadTooLarge(f"at most {self._most} instances", "more")
        self.files.append(io.BytesIO())

    def _collect(self, data: bytes, start: int, end: int) -> None:
        self.files[-1].write(memoryview(data)[start:end])

    def _begin_header(self) -> None:
        self._name.clear()
        self._value.clear()

    @staticmethod
    def _note(text: bytearray, data: bytes, start: int, end: int) -> None:
        text += data[start:end]

    def _end_header(self) -> None:
        name = bytes(self._name).strip().lower()
        value = bytes(self._value).split(b";")[0].strip().lower()
        if name == b"content-type" and value != DICOM.encode():
            raise UnsupportedImageType(f"parts of {DICOM}", "a part of another type")
        if name in _ENCODING_HEADERS and value not in _PLAIN:
            raise UnsupportedImageType("parts as they are", "one in another encoding")

    def _end(self) -> None:
        self.is_whole = True
