"""A DICOM file's structure: its header, and where its pixels are, without decoding any of them.

What is read here was sent by anybody: how many elements there may be, how long one may be that is
looked at, and what a deflated file may inflate to is bounded, and no text of a header is in any
error but the codes that `shown` lets pass.
"""

import logging
import struct
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from pydicom import Dataset, config
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_sequence_item
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from app.errors import UnreadableImage, UnsupportedImage
from app.imaging.dicom_stream import MAX_READS, Counted

MAX_VALUE = 2**16
"""Bytes of an element that is looked at: pydicom makes an object of each value in it."""
MAX_TABLE = 2**17
"""Bytes of a table: 65,536 entries of 16 bits, as many as there can be."""

_PREAMBLE = 132
"""Bytes: 128 of anything, and `DICM`."""

_UNDEFINED = 0xFFFFFFFF
_PIXEL_TAGS = range(0x7FE00008, 0x7FE00011)
"""Float, Double Float and plain Pixel Data."""
_PIXEL_DATA = 0x7FE00010
_ITEM = struct.Struct("<HHL")
_ITEM_TAG = (0xFFFE, 0xE000)
_DELIMITER_TAG = (0xFFFE, 0xE0DD)
_META_GROUP = 2
_OFFSET_BYTES = 4
"""Of one frame's offset in the table before the fragments."""
_SEQUENCE_VRS = (None, "SQ")
"""As a sequence is declared whose length is known; without a VR where that is implicit."""
_OVERLAY_GROUPS = range(0x6000, 0x6100)
_WORDS = range(-(2**15), 2**16)
"""What 16 bits can hold, with a sign or without."""


# What pydicom says of a file quotes its values. `app.logs` and the tests turn off its warnings too.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
config.settings.reading_validation_mode = config.IGNORE


def name(keyword: str) -> str:
    """Name an element for people, such as `Modality (0008,0060)`."""
    tag = _tag(keyword)
    return f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X})"


def shown(code: str, known: Container[str]) -> str:
    """Give a coded value such as `CT` as it is; what is no code of the standard is not told."""
    if not code:
        return "none"
    return code if code in known else "another value"


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """A header or an item of it, whose values may be of any type or broken.

    Args:
        dataset: Without pixels.
    """

    dataset: Dataset = field(repr=False)

    def text(self, keyword: str) -> str:
        """Read a text; several are joined by backslashes. Empty where there is none.

        Raises:
            UnreadableImage: There is something else.
        """
        value = self._value(keyword)
        if value is None:
            return ""
        parts = list(value) if isinstance(value, MultiValue) else [value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise _invalid(keyword)
        return "\\".join(texts).strip(" \0")

    def whole(self, keyword: str) -> int | None:
        """Read a whole number of 16 bits; none where there is none.

        Raises:
            UnreadableImage: There is something else, or several.
        """
        value = self._value(keyword)
        if value is None or value == "":
            return None
        if not isinstance(value, int) or value not in _WORDS:
            raise _invalid(keyword)
        return int(value)

    def number(self, keyword: str) -> float | None:
        """Read a number, the first of several; none where there is none.

        Raises:
            UnreadableImage: There is something else.
        """
        value = self._value(keyword)
        if isinstance(value, MultiValue):
            value = value[0] if value else None
        if value is None or value == "":
            return None
        if not isinstance(value, (int, float)):
            raise _invalid(keyword)
        return float(value)

    def wholes(self, keyword: str) -> list[int]:
        """Read whole numbers; none where there are none.

        Raises:
            UnreadableImage: There is something else.
        """
        return self._wholes(keyword, MAX_VALUE)

    def _wholes(self, keyword: str, most: int) -> list[int]:
        value = self._value(keyword, most)
        if value is None:
            return []
        parts = list(value) if isinstance(value, (MultiValue, list)) else [value]
        numbers = [int(part) for part in parts if isinstance(part, int)]
        if len(numbers) < len(parts):
            raise _invalid(keyword)
        return numbers

    def words(self, keyword: str) -> list[int] | bytes:
        """Read a table that is stored as numbers, or as bytes in the file's order.

        Raises:
            UnreadableImage: There is something else.
        """
        value = self._value(keyword, MAX_TABLE)
        return value if isinstance(value, bytes) else self._wholes(keyword, MAX_TABLE)

    def first(self, keyword: str) -> "Header | None":
        """Give the first item of a sequence; none where there is none.

        Raises:
            UnreadableImage: There is something else, or too much.
        """
        raw, most = self.dataset.get_item(_tag(keyword)), MAX_VALUE
        if isinstance(raw, RawDataElement) and raw.VR in _SEQUENCE_VRS:
            self.dataset[raw.tag] = raw = _cut_to_first(raw, keyword)
            most = len(raw.value or b"")
        value = self._value(keyword, most)
        if value is None:
            return None
        if not isinstance(value, Sequence):
            raise _invalid(keyword)
        return Header(value[0]) if value else None

    def has(self, keyword: str) -> bool:
        """Tell whether there is such an element, however empty."""
        return _tag(keyword) in self.dataset

    def _value(self, keyword: str, most: int = MAX_VALUE) -> object:
        self._check_length(keyword, most)
        self._check_length("PixelRepresentation", MAX_VALUE)  # pydicom may look at it for another
        try:
            return self.dataset[_tag(keyword)].value if self.has(keyword) else None
        except Exception as error:  # pydicom converts here, and raises almost anything
            raise _invalid(keyword) from error

    def _check_length(self, keyword: str, most: int) -> None:
        raw = self.dataset.get_item(_tag(keyword))
        size = len(raw.value or b"") if isinstance(raw, RawDataElement) else 0
        if size > most:
            raise UnreadableImage(f"at most {most} bytes of {name(keyword)}", f"{size}")


def _tag(keyword: str) -> BaseTag:
    return BaseTag(tag_for_keyword(keyword) or 0)


def _invalid(keyword: str) -> UnreadableImage:
    return UnreadableImage(f"a valid {name(keyword)}", "another value")


@dataclass(slots=True, eq=False)
class PixelElement:
    """Where Pixel Data is in a file; it is not looked at before it is taken.

    Args:
        data: The file's bytes, inflated.

    Attributes:
        vr: How it is declared.
    """

    data: memoryview = field(repr=False)
    vr: str | None = None
    _tag: int = 0
    _length: int = 0
    _at: int = 0

    def note(self, tag: int, vr: str | None, length: int, at: int) -> None:
        """Remember the last element that was seen; `at` is where its value begins."""
        self._tag, self.vr, self._length, self._at = tag, vr, length, at

    @property
    def is_empty(self) -> bool:
        """Whether there is none, or nothing in it."""
        return self._tag != _PIXEL_DATA or not self._length

    @property
    def is_encapsulated(self) -> bool:
        """Whether it is a codestream."""
        return self._length == _UNDEFINED

    def take(self) -> bytes | memoryview:
        """Give what it holds: samples, or the codestream of the one frame.

        Raises:
            UnreadableImage: It is truncated, or its fragments are of several frames.
        """
        if not self.is_encapsulated:
            self.check_end()
            return self.data[self._at : self._at + self._length]
        offsets, *fragments = _fragments(self.data, self._at)
        if len(offsets) > _OFFSET_BYTES:
            raise UnreadableImage("one frame, as the header says", "offsets of several")
        return fragments[0] if len(fragments) == 1 else b"".join(fragments)

    def check_header(self) -> None:
        """Check that the header is there as a whole; pydicom takes what there is of it.

        Raises:
            UnreadableImage: It is truncated.
        """
        if self._tag not in _PIXEL_TAGS and not self.is_encapsulated:
            self.check_end()

    def check_end(self) -> None:
        """Check that the last element is there as a whole.

        Raises:
            UnreadableImage: It is truncated.
        """
        if self._at + self._length > len(self.data):
            raise UnreadableImage("an intact DICOM file", "a truncated one")


@dataclass(frozen=True, slots=True, eq=False)
class DicomFile:
    """A file that is taken apart.

    Attributes:
        header: All but pixels and overlays, with the file's meta information.
        transfer_syntax: Its UID, as the file gives it.
        pixels: Where they are; they may be truncated or corrupt.
        is_little_endian: The order of bytes in header and samples.
    """

    header: Header
    transfer_syntax: str
    pixels: PixelElement
    is_little_endian: bool


def open_dicom(data: bytes, max_inflated: int) -> DicomFile:
    """Take a file apart, up to its pixels.

    Args:
        data: The file's bytes, with its preamble.
        max_inflated: Bytes that a deflated file may inflate to.

    Raises:
        UnreadableImage: Its header is truncated or corrupt, or where it is deflated all of it.
        UnsupportedImage: It has too many elements, or inflates to too much.
    """
    stream = Counted(data)
    stream.seek(_PREAMBLE)
    meta = read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=_is_after_meta
    )
    syntax = Header(meta).text("TransferSyntaxUID")
    if not syntax:
        raise UnreadableImage(f"a UID in {name('TransferSyntaxUID')}", "none")
    if syntax == DeflatedExplicitVRLittleEndian:
        data = _inflate(data[stream.tell() :], max_inflated)
        stream = Counted(data)
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pixels = PixelElement(memoryview(data))

    def _is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        pixels.note(tag, vr, length, stream.tell())
        return tag in _PIXEL_TAGS

    dataset = read_dataset(stream, implicit, little, stop_when=_is_pixels)
    pixels.check_header()
    dataset.file_meta = FileMetaDataset(meta)
    _drop_overlays(dataset)
    return DicomFile(
        header=Header(dataset),
        transfer_syntax=syntax,
        pixels=pixels,
        is_little_endian=little,
    )


def _is_after_meta(tag: BaseTag, _: str | None, __: int) -> bool:
    return tag >> 16 != _META_GROUP


def _cut_to_first(raw: RawDataElement, keyword: str) -> RawDataElement:
    """Leave the first item of a sequence: pydicom makes objects of all that there are.

    Raises:
        UnreadableImage: It is corrupt.
        UnsupportedImage: It has too many elements.
    """
    value = raw.value or b""
    stream = Counted(value)
    try:
        if value:
            read_sequence_item(stream, raw.is_implicit_VR, raw.is_little_endian, "iso8859")
    except UnsupportedImage:
        raise
    except Exception as error:  # pydicom raises almost anything for broken bytes
        raise _invalid(keyword) from error
    return raw._replace(value=value[: stream.tell()])


def _fragments(data: memoryview, at: int) -> Iterator[memoryview]:
    """Walk over the items of an encapsulation: the table of offsets, then the fragments."""
    parts = 0
    while at + _ITEM.size <= len(data):
        *tag, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        parts += 1
        if tuple(tag) == _DELIMITER_TAG and parts > 1:
            return
        if tuple(tag) != _ITEM_TAG or at + length > len(data) or parts > MAX_READS:
            break
        yield data[at : at + length]
        at += length
    raise UnreadableImage("whole fragments of pixel data", "truncated or corrupt ones")


def _inflate(data: bytes, most: int) -> bytes:
    """Inflate, and stop as soon as it is too much.

    Raises:
        UnreadableImage: It is truncated or corrupt.
        UnsupportedImage: It is too much.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, most + 1)
    if len(inflated) > most:
        raise UnsupportedImage(f"a file that inflates to at most {most} bytes", "more")
    if not inflater.eof:
        raise UnreadableImage("an intact deflated DICOM file", "a truncated one")
    return inflated


def _drop_overlays(dataset: Dataset) -> None:
    """Let go of pictures in the header, which may be as large as the X-ray itself."""
    tags = dataset.keys()  # a Dataset itself iterates over its converted elements
    for tag in [tag for tag in tags if tag.group in _OVERLAY_GROUPS]:
        del dataset[tag]
