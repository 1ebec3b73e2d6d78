"""The DICOM instance that a report is about: its UIDs, and what files the report beside it."""

import io
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from app.errors import NotAcceptable, UnsupportedImage
from app.imaging import DicomInstance, is_uid
from app.service import Finding

if TYPE_CHECKING:  # imported where a report is written, and not before
    from pydicom import DataElement, Dataset

UIDS = {
    "StudyInstanceUID": "study_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "SOPInstanceUID": "sop_instance_uid",
    "SOPClassUID": "sop_class_uid",
}
"""DICOM's keyword → name in `DicomInstance`, of what refers to an instance."""

REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""What every instance has, if only empty (type 2 of the Patient and General Study modules)."""

FILED_BY = (
    *REQUIRED,
    "SpecificCharacterSet",
    "IssuerOfPatientID",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PatientAge",
)
"""What is copied: by it an archive files the report with its patient and study."""

_MOST_BYTES = 0xFFFE
"""Of an attribute that is copied: what fits into an element of its kind."""

_ZONE = re.compile(r"(?!-0000)[+-](0[0-9]|1[0-4])[0-5][0-9]")
_TIMES = {
    "ContentDate": "ContentTime",
    "InstanceCreationDate": "InstanceCreationTime",
    "DateOfSecondaryCapture": "TimeOfSecondaryCapture",
}
"""Dates and times of a report's making."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A DICOM instance that a report can refer to.

    Attributes:
        header: Its attributes, as they came: any but the UIDs may be malformed.
        uids: Its valid UIDs.
    """

    header: "Dataset"
    uids: DicomInstance


def source_of(finding: Finding) -> Source:
    """Give what a report on a finding refers to.

    Raises:
        NotAcceptable: It was no DICOM file.
        UnsupportedImage: It has not the UIDs that a reference needs.
    """
    header, uids = finding.radiograph.header, finding.prediction.image.dicom
    if header is None or uids is None:
        raise NotAcceptable(
            "a DICOM file, which an answer in application/dicom refers to",
            f"a {finding.radiograph.format} file",
        )
    for keyword, name in UIDS.items():
        if not is_uid(getattr(uids, name) or ""):
            raise UnsupportedImage(f"a DICOM file with a valid {keyword}", "one without")
    return Source(header, uids)


def copy_attributes(
    header: "Dataset", report: "Dataset", keywords: tuple[str, ...] = FILED_BY
) -> None:
    """Copy attributes as they are, where there are any.

    Raises:
        UnsupportedImage: One of them is too long, or so malformed that it has no value.
    """
    for keyword in keywords:
        try:
            if keyword in header:
                report[keyword] = _as_it_is(header, keyword)
        except Exception as error:  # pydicom raises almost anything for a malformed value
            raise UnsupportedImage(
                f"a DICOM file whose {keyword} can be read", "one that is malformed"
            ) from error


class _Text(bytes):
    """A text that is written byte by byte, whether or not it fits its character set."""

    def encode(self, _: object = None) -> bytes:
        """Stand for pydicom's names, which are written by this method."""
        return bytes(self)


def _as_it_is(header: "Dataset", keyword: str) -> "DataElement":
    """Give an element to write; what pydicom would decode and encode again might become another."""
    from pydicom import DataElement  # noqa: PLC0415 -- see above
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415
    from pydicom.dataelem import RawDataElement  # noqa: PLC0415

    found = header.get_item(keyword)
    if not isinstance(found, RawDataElement):
        return header[keyword]
    value = found.value or b""
    if len(value) > _MOST_BYTES:
        raise ValueError(keyword)
    vr = dictionary_VR(found.tag)
    if vr == "SQ" or keyword == "SpecificCharacterSet":
        return header[keyword]
    value += b" " * (len(value) % 2)
    is_encoded = vr in ("PN", "LO", "SH")
    written = _Text(value) if is_encoded else value.decode("iso8859")
    return DataElement(found.tag, vr, written, already_converted=True)


def tell_time(header: "Dataset", report: "Dataset") -> None:
    """Tell when a report was made, in the source's time zone, in which its copied times are too.

    Where the source names none, so does the report; its own times are in this machine's then.
    """
    try:
        _as_it_is(header, "TimezoneOffsetFromUTC")  # raises where it is too long to be looked at
        zone = str(header.get("TimezoneOffsetFromUTC", "")).strip()
    except Exception:  # noqa: BLE001 -- pydicom raises almost anything for a malformed value
        return
    if not _ZONE.fullmatch(zone):
        return
    now = datetime.now(datetime.strptime(zone, "%z").tzinfo)
    report.TimezoneOffsetFromUTC = zone
    for date, time in _TIMES.items():
        if date in report:
            setattr(report, date, f"{now:%Y%m%d}")
            setattr(report, time, f"{now:%H%M%S.%f}")


def write(report: "Dataset") -> bytes:
    """Write a DICOM file.

    Raises:
        UnsupportedImage: An attribute that was copied from the source cannot be written.
    """
    buffer = io.BytesIO()
    try:
        report.save_as(buffer, enforce_file_format=True)
    except Exception as error:  # pydicom raises almost anything for a malformed value
        raise UnsupportedImage(
            "a DICOM file whose patient and study attributes can be written again", "others"
        ) from error
    return buffer.getvalue()
