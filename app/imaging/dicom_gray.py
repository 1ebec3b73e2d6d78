"""From stored samples to gray: one table, with an entry for each value that can be stored.

Modality LUT or rescale → VOI LUT or window → inversion → padding black, as PS3.3 C.11.1, C.11.2 and
C.7.6.3 have it. Samples have 16 bits at most, so that every step is computed for each value that
there can be, and an image is one look-up.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.errors import UnreadableImage
from app.imaging.contract import Pixels
from app.imaging.dicom_file import Header, name
from app.imaging.dicom_samples import Layout, Samples
from app.imaging.radiograph import ImageWarning

Values = NDArray[np.float64]
"""float64 `[2 ** bits stored]`: by what is stored."""

Warnings = tuple[ImageWarning, ...]

PERCENTILES = (0.5, 99.5)
"""Of the values that are no padding: black and white where the file has no window."""

_LUT_BITS = range(8, 17)
_MAX_ENTRIES = 1 << 16
_SIGN = 1 << 15
_STRIP_ROWS = 256


@np.errstate(over="ignore", invalid="ignore")  # judged by what comes out
def to_gray(
    samples: Samples, layout: Layout, header: Header, *, is_little_endian: bool
) -> tuple[Pixels, Warnings]:
    """Give each stored value its gray.

    Args:
        samples: uint16 `[height, width]`, each less than `2 ** layout.stored`.
        layout: How they are stored.
        header: Says what they mean.
        is_little_endian: How bytes in tables are ordered.

    Returns:
        uint8 `[height, width]`, 0 black to 255 white, and what had to be decided.

    Raises:
        UnreadableImage: A step that the header asks for is not defined by it.
    """
    stored = _meanings(layout)
    padding, odd = _find_padding(stored, header, layout)
    values = _apply_modality(stored, header, is_little_endian=is_little_endian)
    shown = _Shown(samples, padding)
    shades, warnings = _apply_voi(values, shown, header, is_little_endian=is_little_endian)
    if np.isnan(shades).any():
        raise UnreadableImage("a rescaling and a window that give numbers", "others")
    is_inverse, conflict = _read_polarity(header)
    if is_inverse:
        shades = 1 - shades
    table = np.floor(np.clip(shades, 0, 1) * 255 + 0.5).astype(np.uint8)
    table[padding] = 0
    return table[samples], odd + warnings + conflict


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """What an image shows.

    Args:
        samples: uint16 `[height, width]`.
        padding: bool `[2 ** bits stored]`: what is no part of it.
    """

    samples: Samples
    padding: NDArray[np.bool_]

    def count(self) -> NDArray[np.int64]:
        """Count how often each value is stored, by strips: counting takes 8 bytes a sample."""
        counts = np.zeros(self.padding.size, np.int64)
        for top in range(0, len(self.samples), _STRIP_ROWS):
            strip = self.samples[top : top + _STRIP_ROWS].ravel()
            counts += np.bincount(strip, minlength=counts.size)
        counts[self.padding] = 0
        return counts


def _meanings(layout: Layout) -> Values:
    """Tell what each pattern of bits means as a number."""
    patterns = np.arange(1 << layout.stored, dtype=np.float64)
    if layout.is_signed:
        patterns[patterns.size // 2 :] -= patterns.size
    return patterns


def _find_padding(
    stored: Values, header: Header, layout: Layout
) -> tuple[NDArray[np.bool_], Warnings]:
    """Find the values that are no part of the image: one, or a range with both its ends."""
    first, is_odd = _read_end(header, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, np.bool_), _warn_of_padding(is_odd=is_odd)
    last, is_limit_odd = _read_end(header, "PixelPaddingRangeLimit")
    ends = [_as_word(end, is_signed=layout.is_signed) for end in (first, last) if end is not None]
    padding = (stored >= min(ends)) & (stored <= max(ends))
    return padding, _warn_of_padding(is_odd=is_odd or is_limit_odd)


def _read_end(header: Header, keyword: str) -> tuple[int | None, bool]:
    """Read the first of what should be one number, and tell whether it is not."""
    try:
        numbers = header.wholes(keyword)
    except UnreadableImage:
        return None, True
    return (numbers[0] if numbers else None), len(numbers) > 1


def _warn_of_padding(*, is_odd: bool) -> Warnings:
    if not is_odd:
        return ()
    detail = (
        f"{name('PixelPaddingValue')} or its limit is not one number; the first was taken, where "
        "there is one."
    )
    return (ImageWarning("padding-inferred", detail),)


def _as_word(number: int, *, is_signed: bool) -> int:
    """Read 16 bits as they are meant, since the way they are declared is often the other."""
    word = number & (2 * _SIGN - 1)
    return word - 2 * _SIGN if is_signed and word >= _SIGN else word


def _apply_modality(stored: Values, header: Header, *, is_little_endian: bool) -> Values:
    item = header.first("ModalityLUTSequence")
    if item:
        is_signed = bool(stored.min() < 0)
        return _look_up(stored, item, is_signed=is_signed, is_little_endian=is_little_endian)[0]
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    values: Values = stored * slope + intercept
    if slope == 0 or not np.isfinite(values).all():
        raise UnreadableImage(f"a number in {name('RescaleSlope')}, and not 0", "another")
    return values


def _apply_voi(
    values: Values, shown: _Shown, header: Header, *, is_little_endian: bool
) -> tuple[Values, Warnings]:
    """Spread the values of interest from 0 to 1."""
    item = header.first("VOILUTSequence")
    if item:
        is_signed = bool(values.min() < 0)
        table, bits = _look_up(
            np.floor(values + 0.5), item, is_signed=is_signed, is_little_endian=is_little_endian
        )
        return table / ((1 << bits) - 1), ()
    try:
        center, width = header.number("WindowCenter"), header.number("WindowWidth")
        function = header.text("VOILUTFunction").upper() or "LINEAR"
    except UnreadableImage:
        return _apply_percentiles(values, shown, "The file's window is not valid")
    if center is None or width is None:
        return _apply_percentiles(values, shown, "The file has no window")
    window = _WINDOWS.get(function)
    least = 1 if window is _linear else 0
    is_valid = np.isfinite([center, width]).all() and width >= least and width > 0
    if window is None or not is_valid:
        return _apply_percentiles(values, shown, "The file's window is not valid")
    return window(values, center, width), ()


def _apply_percentiles(values: Values, shown: _Shown, why: str) -> tuple[Values, Warnings]:
    """Take black and white from the image itself; they are values that it has."""
    order = np.argsort(values, kind="stable")
    ranks = np.cumsum(shown.count()[order])
    wanted = [max(1, np.ceil(ranks[-1] * percentile / 100)) for percentile in PERCENTILES]
    places = np.minimum(np.searchsorted(ranks, wanted), values.size - 1)
    black, white = values[order][places]
    low, high = PERCENTILES
    detail = f"{why}; its gray is spread from the {low}th to the {high}th percentile."
    warning = ImageWarning("window-inferred", detail)
    if white == black:
        return np.where(values > black, 1.0, 0.0), (warning,)
    return (values - black) / (white - black), (warning,)


def _linear(x: Values, center: float, width: float) -> Values:
    """PS3.3 C.11.2.1.2.1; a width of 1 is a threshold."""
    middle = center - 0.5
    if width == 1:
        return np.where(x > middle, 1.0, 0.0)
    shades: Values = (x - middle) / (width - 1) + 0.5
    return shades


def _linear_exact(x: Values, center: float, width: float) -> Values:
    """PS3.3 C.11.2.1.3.2."""
    shades: Values = (x - center) / width + 0.5
    return shades


def _sigmoid(x: Values, center: float, width: float) -> Values:
    """PS3.3 C.11.2.1.3.1, by the hyperbolic tangent, which does not overflow."""
    shades: Values = 0.5 + 0.5 * np.tanh(2 * (x - center) / width)
    return shades


_WINDOWS: dict[str, Callable[[Values, float, float], Values]] = {
    "LINEAR": _linear,
    "LINEAR_EXACT": _linear_exact,
    "SIGMOID": _sigmoid,
}


def _read_polarity(header: Header) -> tuple[bool, Warnings]:
    """Tell whether the least value is white; where two elements differ, the later step decides."""
    is_inverse = header.text("PhotometricInterpretation").upper() == "MONOCHROME1"
    shape = header.text("PresentationLUTShape").upper()
    if shape not in ("IDENTITY", "INVERSE") or is_inverse == (shape == "INVERSE"):
        return is_inverse, ()
    detail = (
        f"{name('PhotometricInterpretation')} and {name('PresentationLUTShape')} contradict each "
        "other about what is black; the latter was followed."
    )
    return shape == "INVERSE", (ImageWarning("polarity-conflict", detail),)


def _look_up(
    inputs: Values, item: Header, *, is_signed: bool, is_little_endian: bool
) -> tuple[Values, int]:
    """Look values up in a LUT; what is below or above it gets its first or last entry.

    Returns:
        Entries, and the bits that they have.
    """
    descriptor = item.wholes("LUTDescriptor")
    try:
        entries, first, bits = descriptor
    except ValueError as error:
        found = str(len(descriptor))
        raise UnreadableImage(f"three numbers in {name('LUTDescriptor')}", found) from error
    entries = (entries & (_MAX_ENTRIES - 1)) or _MAX_ENTRIES
    table = _read_table(item.words("LUTData"), entries, is_little_endian=is_little_endian)
    if bits not in _LUT_BITS:
        raise UnreadableImage(f"8 to 16 bits in {name('LUTDescriptor')}", "another number")
    places = np.clip(inputs - _as_word(first, is_signed=is_signed), 0, entries - 1)
    return table[places.astype(np.int64)], max(bits, int(table.max()).bit_length())


def _read_table(words: list[int] | bytes, entries: int, *, is_little_endian: bool) -> Values:
    if isinstance(words, bytes):
        kind = "u1" if len(words) in (entries, entries + entries % 2) else "u2"
        order = "<" if is_little_endian else ">"
        words = np.frombuffer(words[: len(words) // 2 * 2], order + kind).tolist()
    table = np.array(words, np.float64)
    if len(table) not in (entries, entries + entries % 2) or table.size == 0 or table.min() < 0:
        raise UnreadableImage(f"{entries} entries in {name('LUTData')}", str(len(table)))
    return table[:entries]
