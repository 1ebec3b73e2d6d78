"""A prediction as a DICOM Structured Report: a measurement report after TID 1500."""

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset

from app.errors import UnsupportedImage
from app.imaging import DicomInstance
from app.reports import codes
from app.reports.codes import Code
from app.reports.device import (
    MANUFACTURER,
    PRODUCT,
    computation,
    device_uid,
    remarks,
    report_uid,
    sign,
)
from app.reports.source import REQUIRED, UIDS, Source, copy_attributes, tell_time
from app.service import Finding, Prediction

SERIES_NUMBER = 9901
SERIES_DESCRIPTION = "COVID-19 prediction (research)"


def make_sr(finding: Finding, source: Source) -> sr.ComprehensiveSR:
    """Make a measurement report on a DICOM image: unverified and preliminary.

    It belongs to the image's patient and study, and is a series of its own.

    Raises:
        UnsupportedImage: The image is of a class that is not known, or has attributes that cannot
            be copied.
    """
    image = _bare(source.uids)
    model = finding.prediction.model
    content = _content(finding, image)
    try:
        report = sr.ComprehensiveSR(
            evidence=[image],
            content=content,
            series_instance_uid=report_uid(model, "sr-series", source.uids.sop_instance_uid),
            series_number=SERIES_NUMBER,
            series_description=SERIES_DESCRIPTION,
            sop_instance_uid=report_uid(model, "sr", source.uids.sop_instance_uid),
            instance_number=1,
            manufacturer=MANUFACTURER,
            coding_schemes=[_private_scheme()],
            is_complete=True,
            is_final=False,
            is_verified=False,
        )
    except KeyError as error:  # highdicom looks up which attributes an image of its class has
        raise UnsupportedImage(
            "a DICOM image of a class that the standard has", "another SOPClassUID"
        ) from error
    sign(report, model)
    copy_attributes(source.header, report)
    tell_time(source.header, report)
    return report


def _bare(uids: DicomInstance) -> Dataset:
    """Make a dataset of an image's UIDs, and of nothing that is known of its patient.

    highdicom looks into it, and may log what it finds wrong.
    """
    image = Dataset()
    for keyword in REQUIRED:
        setattr(image, keyword, None)
    for keyword, name in UIDS.items():
        setattr(image, keyword, getattr(uids, name))
    return image


def _private_scheme() -> CodingSchemeIdentificationItem:
    scheme = CodingSchemeIdentificationItem(codes.PRIVATE, name=codes.PRIVATE_NAME)
    scheme.CodingSchemeUID = codes.PRIVATE_UID  # which highdicom leaves out without a registry
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    return scheme


def _content(finding: Finding, image: Dataset) -> sr.MeasurementReport:
    model = finding.prediction.model
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(model),
        name=PRODUCT,
        manufacturer_name=MANUFACTURER,
        model_name=f"{model.name} {model.version}",
        serial_number=model.digest,
    )
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(_concept(codes.DEVICE), device)
    )
    return sr.MeasurementReport(
        observation_context=context,
        procedure_reported=_concept(codes.CHEST_XRAY),
        imaging_measurements=[_group(finding, image)],
    )


def _group(finding: Finding, image: Dataset) -> sr.MeasurementsAndQualitativeEvaluations:
    prediction = finding.prediction
    model = prediction.model
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=report_uid(model, "sr-tracking", image.SOPInstanceUID),
            identifier=f"prediction {prediction.id}",
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name=model.name,
            version=str(model.version),
            parameters=[f"manifest SHA-256 {model.digest}", computation(model)],
            family=_concept(codes.ARTIFICIAL_INTELLIGENCE),
            manufacturer=MANUFACTURER,
        ),
        finding_sites=[sr.FindingSite(_concept(codes.CHEST))],
        source_images=[sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
        measurements=_measurements(prediction),
        qualitative_evaluations=_evaluations(prediction),
    )
    contains = sr.RelationshipTypeValues.CONTAINS
    group[0].ContentSequence.extend(
        sr.TextContentItem(_concept(codes.COMMENT), remark, contains) for remark in remarks(finding)
    )
    return group


def _measurements(prediction: Prediction) -> list[sr.Measurement]:
    unit = _concept(codes.NO_UNITS)
    return [
        sr.Measurement(_concept(code), value, unit)
        for code, value in codes.numbers(prediction).items()
    ]


def _evaluations(prediction: Prediction) -> list[sr.QualitativeEvaluation]:
    pairs = [(codes.CALLED_LABEL, codes.label_code(prediction.label))]
    for confidence, labels in prediction.prediction_set.items():
        name = codes.prediction_set_code(confidence)
        values = [codes.label_code(label) for label in labels] or [codes.NO_LABEL]
        pairs.extend((name, value) for value in values)
    return [sr.QualitativeEvaluation(_concept(name), _concept(value)) for name, value in pairs]


def _concept(code: Code) -> sr.CodedConcept:
    return sr.CodedConcept(code.value, code.scheme, code.meaning)
