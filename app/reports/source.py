"""The DICOM instance that a report is about: its UIDs, and what files the report beside it."""

import io
from typing import TYPE_CHECKING

from app.errors import NotAcceptable, UnsupportedImage
from app.imaging import Radiograph

if TYPE_CHECKING:  # imported in `app.reports` where a report is written, and not before
    from pydicom import Dataset

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")

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


def header_of(radiograph: Radiograph) -> "Dataset":
    """Give the header of a radiograph that a DICOM report can refer to.

    Raises:
        NotAcceptable: It was no DICOM file.
        UnsupportedImage: It has not the UIDs that a reference needs.
    """
    header = radiograph.header
    if header is None:
        raise NotAcceptable(
            "a DICOM file, which an answer in application/dicom refers to",
            f"a {radiograph.format} file",
        )
    for keyword in UIDS:
        if not _is_uid(str(header.get(keyword, ""))):
            raise UnsupportedImage(f"a DICOM file with a valid {keyword}", "one without")
    return header


def reference(header: "Dataset") -> "Dataset":
    """Make a dataset of an instance's UIDs, and of nothing that is known of its patient.

    What makes reports looks into it, and may log what it finds wrong.
    """
    from pydicom import Dataset  # noqa: PLC0415 -- only where a report is written

    bare = Dataset()
    for keyword in REQUIRED:
        setattr(bare, keyword, None)
    for keyword in UIDS:
        setattr(bare, keyword, str(header[keyword].value))
    return bare


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


def _is_uid(text: str) -> bool:
    from pydicom.uid import UID  # noqa: PLC0415 -- only where a report is written

    return UID(text).is_valid
