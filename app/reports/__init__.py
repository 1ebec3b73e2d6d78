"""A prediction in the forms that a clinic files: DICOM and FHIR. It knows no HTTP.

highdicom takes 130 MB and more than half a second when it makes its first report. What imports it
is imported then, so that a service without DICOM does without.
"""

from app.reports.fhir import write_observation
from app.reports.source import source_of, write
from app.service import Finding

__all__ = ["write_observation", "write_secondary_capture", "write_sr"]


def write_sr(finding: Finding) -> bytes:
    """Write a DICOM Structured Report on a DICOM image.

    Raises:
        NotAcceptable: The image was no DICOM file.
        UnsupportedImage: It has not the UIDs to refer to, or attributes that cannot be copied.
    """
    source = source_of(finding)
    from app.reports.sr import make_sr  # noqa: PLC0415 -- see above

    return write(make_sr(finding, source))


def write_secondary_capture(finding: Finding) -> bytes:
    """Write the heatmap over its X-ray, with its legend, as a DICOM Secondary Capture.

    Raises:
        NotAcceptable: The image was no DICOM file.
        UnsupportedImage: It has not the UIDs to refer to, or attributes that cannot be copied.
    """
    source = source_of(finding)
    from app.reports.secondary_capture import make_secondary_capture  # noqa: PLC0415 -- see above

    return write(make_secondary_capture(finding, source))
