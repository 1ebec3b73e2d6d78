"""DICOM to a radiograph: structure → rules → samples → gray, each in a module of its own.

It is imported when the first DICOM file comes: pydicom takes a third of a second to start.
"""

import hashlib

from app.errors import InputError, UnreadableImage, UnsupportedImage
from app.imaging.contract import Pixels
from app.imaging.dicom_file import DicomFile, Header, name, open_dicom
from app.imaging.dicom_gray import to_gray
from app.imaging.dicom_rules import check
from app.imaging.dicom_samples import Layout, read_layout, read_samples
from app.imaging.radiograph import DicomInstance, ImageWarning, Radiograph
from app.imaging.raster import Limits
from app.imaging.uids import is_uid

_HEADER_BYTES = 2**24
"""That a deflated file may inflate to, beside its pixels."""


def decode_dicom(data: bytes, limits: Limits) -> Radiograph:
    """Read a DICOM file.

    Args:
        data: The file's bytes, with preamble and `DICM`.
        limits: What is decoded at all.

    Raises:
        UnreadableImage: The file is truncated or corrupt.
        UnsupportedImage: It is intact, but not in a form that is read.
        NotAChestRadiograph: Its header says that it is something else.
    """
    try:
        file = _open(data, limits)
        warnings = check(file)
        pixels, others = _read_pixels(file, limits)
        instance = _identify(file.header)
    except InputError:
        raise
    except Exception as error:  # parsers and decoders raise almost anything for broken bytes
        raise UnreadableImage("an intact DICOM file", "a truncated or corrupt one") from error
    return Radiograph(
        pixels,
        "DICOM",
        hashlib.sha256(data).hexdigest(),
        warnings + others,
        header=file.header.dataset,
        dicom=instance,
    )


def identify_dicom(data: bytes, limits: Limits) -> DicomInstance | None:
    """Read which object a DICOM file holds, whatever it is of; none where its header is broken.

    Args:
        data: The file's bytes, with preamble and `DICM`.
        limits: What is decoded at all.
    """
    try:
        return _identify(_open(data, limits).header)
    except Exception:  # noqa: BLE001 -- as above
        return None


def _open(data: bytes, limits: Limits) -> DicomFile:
    return open_dicom(data, 2 * limits.max_pixels + _HEADER_BYTES)


def _read_pixels(file: DicomFile, limits: Limits) -> tuple[Pixels, tuple[ImageWarning, ...]]:
    layout = read_layout(file.header)
    _check_size(layout, limits)
    samples, warnings = read_samples(file, layout)
    little = file.is_little_endian
    pixels, others = to_gray(samples, layout, file.header, is_little_endian=little)
    return pixels, warnings + others


def _check_size(layout: Layout, limits: Limits) -> None:
    where = f"{name('Columns')} and {name('Rows')}"
    size = f"{layout.columns} x {layout.rows}"
    if layout.columns * layout.rows > limits.max_pixels:
        raise UnsupportedImage(f"at most {limits.max_pixels} pixels by {where}", size)
    if min(layout.columns, layout.rows) < limits.min_side:
        least = f"{limits.min_side} x {limits.min_side}"
        raise UnsupportedImage(f"at least {least} pixels by {where}", size)


def _identify(header: Header) -> DicomInstance:
    return DicomInstance(
        study_instance_uid=_read_uid(header, "StudyInstanceUID"),
        series_instance_uid=_read_uid(header, "SeriesInstanceUID"),
        sop_instance_uid=_read_uid(header, "SOPInstanceUID"),
        sop_class_uid=_read_uid(header, "SOPClassUID"),
    )


def _read_uid(header: Header, keyword: str) -> str | None:
    """Read a UID; what has not the form of one is not told."""
    found = header.text(keyword)
    return found if is_uid(found) else None
