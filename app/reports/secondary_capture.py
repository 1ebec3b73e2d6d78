"""The heatmap over its X-ray as a DICOM Secondary Capture."""

from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from pydicom import Dataset

from app.imaging import DicomInstance
from app.imaging.dicom_samples import LOSSY, MAYBE_LOSSY
from app.overlay import DISCLAIMER
from app.reports import codes
from app.reports.device import MANUFACTURER, OVERLAY_SERIES, report_uid, sign
from app.reports.source import Source, copy_attributes, tell_time
from app.service import Finding

SERIES_NUMBER = 9902

_OF_THE_PIXELS = (
    "PatientOrientation",
    "BurnedInAnnotation",  # the legend names nobody, so what was true of the source still is
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
"""What is true of the source's pixels is true of those of the picture."""


def make_secondary_capture(finding: Finding, source: Source) -> SCImage:
    """Make the picture with its legend, as a series of its own of the image's study.

    Raises:
        UnsupportedImage: The image has attributes that cannot be copied.
    """
    model = finding.prediction.model
    capture = SCImage(
        finding.draw(),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # only to pass the check: the source's is copied below
        study_instance_uid=str(source.uids.study_instance_uid),  # `source_of` refuses None
        series_instance_uid=report_uid(
            model, "secondary-capture-series", source.uids.sop_instance_uid
        ),
        series_number=SERIES_NUMBER,
        series_description=OVERLAY_SERIES,
        sop_instance_uid=report_uid(model, "secondary-capture", source.uids.sop_instance_uid),
        instance_number=1,
        manufacturer=MANUFACTURER,
    )
    capture.PatientOrientation = []
    capture.BodyPartExamined = "CHEST"
    capture.DerivationDescription = _describe(finding)
    capture.ImageComments = DISCLAIMER
    capture.SourceImageSequence = [_reference(source.uids)]
    sign(capture, model)
    copy_attributes(source.header, capture)
    copy_attributes(source.header, capture, _OF_THE_PIXELS)
    tell_time(source.header, capture)
    if _is_lossy(source.header):
        capture.LossyImageCompression = "01"
    return capture


def _is_lossy(header: Dataset) -> bool:
    """Tell whether a source was compressed with loss, by its transfer syntax or its own word."""
    syntax = getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID")
    said = header.get("LossyImageCompression")
    return syntax in LOSSY or said == "01" or (syntax in MAYBE_LOSSY and said != "00")


def _describe(finding: Finding) -> str:
    label, other = finding.prediction.probabilities
    model = finding.prediction.model
    return (
        f"Grad-CAM heatmap, {label} against {other}, by {model.name} {model.version}, over the "
        f"source image, with a legend below it. {DISCLAIMER}"
    )


def _reference(uids: DicomInstance) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = uids.sop_class_uid
    reference.ReferencedSOPInstanceUID = uids.sop_instance_uid
    code = codes.SOURCE_IMAGE
    purpose = CodedConcept(code.value, code.scheme, code.meaning)
    reference.PurposeOfReferenceCodeSequence = [purpose]
    return reference
