"""Stored samples of a DICOM file, from whatever transfer syntax.

All JPEGs, JPEG-LS and JPEG 2000 are decoded by imagecodecs (libjpeg-turbo, CharLS, OpenJPEG). Of
the decoders that pydicom knows, GDCM ends the whole process on some corrupt codestreams.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from app.errors import UnreadableImage, UnsupportedImage, UnsupportedSyntax
from app.imaging.dicom_codestreams import (
    JPEG_LS,
    MAX_BITS,
    SEQUENTIAL,
    check_jpeg,
    check_jpeg_2000,
)
from app.imaging.dicom_file import DicomFile, Header, name
from app.imaging.radiograph import ImageWarning

Samples = NDArray[np.uint16]
"""uint16 `[height, width]`: the bits that are stored of each sample, without its sign's meaning."""

MIN_BITS = 8

_NATIVE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
}
LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless}
"""Transfer syntaxes of compression with loss."""

MAYBE_LOSSY = {uid.JPEG2000, uid.HTJ2K}
"""Of compression with loss or without."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How samples are stored.

    Attributes:
        rows: Of the image.
        columns: Of the image.
        allocated: Bits in which each sample is stored: 8 or 16.
        stored: Bits of it that are used: 8 to 16.
        shift: Bits below them that are not.
        is_signed: They are a two's complement.
    """

    rows: int
    columns: int
    allocated: int
    stored: int
    shift: int
    is_signed: bool

    @property
    def size(self) -> int:
        """Bytes of all samples."""
        return self.rows * self.columns * self.allocated // 8

    @property
    def least_side_size(self) -> int:
        """Bytes of a row or of a column, whichever has fewer samples."""
        return min(self.rows, self.columns) * self.allocated // 8


def read_layout(header: Header) -> Layout:
    """Read how samples are stored.

    Raises:
        UnsupportedImage: In another way than those that are read.
        UnreadableImage: The header contradicts itself.
    """
    allocated = _wanted(header, "BitsAllocated")
    if allocated not in (8, 16):
        raise UnsupportedImage(f"8 or 16 in {name('BitsAllocated')}", str(allocated))
    stored = _wanted(header, "BitsStored")
    if not MIN_BITS <= stored <= MAX_BITS:
        raise UnsupportedImage(f"{MIN_BITS} to {MAX_BITS} in {name('BitsStored')}", str(stored))
    high = header.whole("HighBit")
    high = stored - 1 if high is None else high
    if stored > allocated or not stored <= high + 1 <= allocated:
        wanted = f"samples that fit into {allocated} bits"
        raise UnreadableImage(wanted, f"{stored} bits up to {name('HighBit')} {high}")
    representation = header.whole("PixelRepresentation") or 0
    if representation not in (0, 1):
        raise UnreadableImage(f"0 or 1 in {name('PixelRepresentation')}", str(representation))
    return Layout(
        rows=_wanted(header, "Rows"),
        columns=_wanted(header, "Columns"),
        allocated=allocated,
        stored=stored,
        shift=high + 1 - stored,
        is_signed=representation == 1,
    )


def _wanted(header: Header, keyword: str) -> int:
    value = header.whole(keyword)
    if value is None or value < 1:
        raise UnreadableImage(f"a number in {name(keyword)}", "none" if value is None else "0")
    return value


def read_samples(file: DicomFile, layout: Layout) -> tuple[Samples, tuple[ImageWarning, ...]]:
    """Decode the samples.

    Args:
        file: With pixels, of one gray frame.
        layout: How they are stored.

    Returns:
        uint16 `[height, width]`, each less than `2 ** layout.stored`, and what had to be decided.

    Raises:
        UnsupportedSyntax: The transfer syntax is not read.
        UnreadableImage: There are more or less of them than the header says, or they are truncated
            or corrupt.
    """
    native = file.transfer_syntax in _NATIVE
    decode = _CODECS.get(file.transfer_syntax)
    if not native and decode is None:
        syntax = uid.UID(file.transfer_syntax)
        received = syntax.name if syntax.is_valid and syntax.is_transfer_syntax else "another"
        raise UnsupportedSyntax(f"one that is read in {name('TransferSyntaxUID')}", received)
    if file.pixels.is_encapsulated == native:
        how = "samples" if native else "fragments"
        raise UnreadableImage(f"{how} in {name('PixelData')}, as the transfer syntax says", "none")
    pixels = file.pixels.take()
    if decode is None:
        array, warnings = _read_native(file, pixels, layout)
        return _unpack(array, layout), warnings
    array = decode(bytes(pixels), layout)
    if array.shape != (layout.rows, layout.columns):
        raise UnreadableImage("one gray component", "another picture")
    if file.transfer_syntax != uid.RLELossless:
        array = _fit(array, layout, is_lossy=file.transfer_syntax in LOSSY | MAYBE_LOSSY)
    return _unpack(array, layout), ()


def _read_native(
    file: DicomFile, pixels: bytes | memoryview, layout: Layout
) -> tuple[NDArray[np.integer], tuple[ImageWarning, ...]]:
    surplus = len(pixels) - layout.size
    if not 0 <= surplus < layout.least_side_size:
        raise UnreadableImage(f"{layout.size} bytes in {name('PixelData')}", f"{len(pixels)}")
    order = "<" if file.is_little_endian else ">"
    if layout.allocated == MAX_BITS:
        flat = np.frombuffer(pixels, f"{order}u2", layout.rows * layout.columns)
    elif file.is_little_endian or file.pixels.vr != "OW":
        flat = np.frombuffer(pixels, np.uint8, layout.size)
    else:  # words of two samples, the first of them in the low byte
        words = np.frombuffer(pixels, ">u2", -(-layout.size // 2))
        flat = words.astype("<u2").view(np.uint8)[: layout.size]
    array = flat.reshape(layout.rows, layout.columns)
    if surplus <= layout.size % 2:
        return array, ()
    detail = f"{name('PixelData')} is longer than the header says; what is too much was left."
    return array, (ImageWarning("surplus-pixel-data", detail),)


def _unpack(array: NDArray[np.integer], layout: Layout) -> Samples:
    """Take the stored bits out of what they are allocated in; others may hold an old overlay."""
    samples = array.astype(np.uint16)
    samples >>= layout.shift
    samples &= (1 << layout.stored) - 1
    return samples


def _decode_jpeg(data: bytes, layout: Layout) -> NDArray[np.integer]:
    check_jpeg(data, layout.columns, layout.rows, SEQUENTIAL)
    return imagecodecs.jpeg8_decode(data)


def _decode_jpeg_ls(data: bytes, layout: Layout) -> NDArray[np.integer]:
    check_jpeg(data, layout.columns, layout.rows, JPEG_LS)
    return imagecodecs.jpegls_decode(data)


def _decode_jpeg_2000(data: bytes, layout: Layout) -> NDArray[np.integer]:
    check_jpeg_2000(data, layout.columns, layout.rows)
    return imagecodecs.jpeg2k_decode(data)


def _fit(array: NDArray[np.integer], layout: Layout, *, is_lossy: bool) -> NDArray[np.integer]:
    """Check that no decoded sample needs more bits than are stored.

    Signed ones come as such, or as their two's complement, in 16 bits or in those that are stored.
    Compression with loss may go past what it was given; that is cut off.
    """
    if layout.shift:
        wanted = f"{name('HighBit')} {layout.stored - 1} in a compressed file"
        raise UnsupportedImage(wanted, str(layout.stored - 1 + layout.shift))
    most = (1 << layout.stored) - 1
    if is_lossy and not layout.is_signed and np.iinfo(array.dtype).max > most:
        array = np.minimum(array, most)
    is_signed = array.dtype.kind == "i"
    above = array >> (layout.stored - (is_signed and layout.is_signed))
    fitting = above == 0
    if layout.is_signed:
        ones = -1 if is_signed else np.iinfo(array.dtype).max >> layout.stored
        fitting |= above == ones
    if not fitting.all():
        raise UnreadableImage(f"samples of {layout.stored} bits, as the header says", "others")
    return array


_RLE_HEADER = struct.Struct("<16L")
_RLE_RUN = 128
"""Bytes that a run gives at most."""


def _decode_rle(data: bytes, layout: Layout) -> NDArray[np.integer]:
    """Decode RLE, whose segments hold the bytes of all samples, the high ones first.

    Its own but for the runs, since the libraries' decoders of RLE as DICOM has it overrun their
    buffers on corrupt segments.
    """
    if len(data) < _RLE_HEADER.size:
        raise UnreadableImage("an RLE header", "a truncated one")
    count, *offsets = _RLE_HEADER.unpack_from(data)
    if count != layout.allocated // 8:
        raise UnreadableImage(f"{layout.allocated // 8} RLE segments", str(count))
    ends = [*offsets[1:count], len(data)]
    samples = np.zeros((layout.rows, layout.columns), np.uint16)
    for start, end in zip(offsets, ends, strict=False):
        samples <<= 8
        samples |= _decode_segment(data[start:end], samples.size).reshape(samples.shape)
    return samples


def _decode_segment(data: bytes, wanted: int) -> NDArray[np.uint8]:
    """Decode PackBits, and leave what is there beyond what is wanted.

    Not in Python, where 64 MiB of runs of one byte, or of none, would keep all threads for long.
    """
    decoded = bytearray(wanted + _RLE_RUN - 1)
    try:
        found = len(imagecodecs.packbits_decode(data, out=decoded))
    except imagecodecs.PackbitsError as error:
        if "OUTPUT_TOO_SMALL" not in str(error):
            raise UnreadableImage("an RLE segment of whole runs", "a truncated one") from error
        found = wanted  # or more: the run that finds no room begins behind it
    if found < wanted:
        raise UnreadableImage(f"{wanted} bytes in an RLE segment", f"{found}")
    return np.frombuffer(decoded, np.uint8, wanted)


_CODECS: dict[str, Callable[[bytes, Layout], NDArray[np.integer]]] = {
    uid.JPEGBaseline8Bit: _decode_jpeg,
    uid.JPEGExtended12Bit: _decode_jpeg,
    uid.JPEGLossless: _decode_jpeg,
    uid.JPEGLosslessSV1: _decode_jpeg,
    uid.JPEGLSLossless: _decode_jpeg_ls,
    uid.JPEGLSNearLossless: _decode_jpeg_ls,
    uid.JPEG2000Lossless: _decode_jpeg_2000,
    uid.JPEG2000: _decode_jpeg_2000,
    uid.HTJ2KLossless: _decode_jpeg_2000,
    uid.HTJ2KLosslessRPCL: _decode_jpeg_2000,
    uid.HTJ2K: _decode_jpeg_2000,
    uid.RLELossless: _decode_rle,
}
