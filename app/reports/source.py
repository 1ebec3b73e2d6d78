"""The DICOM instance that a report is about: its UIDs, and what files the report beside it."""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import NotAcceptable, UnsupportedImage
from app.imaging import DicomInstance
from app.service import Finding

if TYPE_CHECKING:  # imported where a report is written, and not before
    from pydicom import Dataset

_UID = re.compile(r"(?=.{1,64}\Z)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
"""PS3.5, 9.1."""

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
        if not _UID.fullmatch(getattr(uids, name) or ""):
            raise UnsupportedImage(f"a DICOM file with a valid {keyword}", "one without")
    return Source(header, uids)


def copy_attributes(
    header: "Dataset", report: "Dataset", keywords: tuple[str, ...] = FILED_BY
) -> None:
    """Copy attributes as they are, where there are any.

    Raises:
        UnsupportedImage: One of them is so malformed that it has no value.
    """
    for keyword in keywords:
        try:
            if keyword in header:
                report[keyword] = header[keyword]
        except Exception as error:  # pydicom raises almost anything for a malformed value
            raise UnsupportedImage(
                f"a DICOM file whose {keyword} can be read", "one that is malformed"
            ) from error


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
