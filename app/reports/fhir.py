"""A prediction as an Observation of FHIR R4, with no attribute of the patient."""

import html
import json
from datetime import datetime
from typing import Any

from app.reports import codes
from app.reports.codes import FHIR_SYSTEMS, Code
from app.reports.device import MANUFACTURER, PRODUCT, VERSION, computation, device_uid, remarks
from app.service import Finding, ModelInfo, Prediction

_HL7 = "http://terminology.hl7.org/CodeSystem"
_UCUM = "http://unitsofmeasure.org"
_DICOM_UID = "urn:dicom:uid"
_URI = "urn:ietf:rfc:3986"

_Json = dict[str, Any]


def write_observation(finding: Finding, issued: datetime) -> bytes:
    """Write an Observation in JSON.

    Args:
        finding: What it tells.
        issued: The time of it, with its time zone.
    """
    return json.dumps(make_observation(finding, issued), ensure_ascii=False).encode()


def make_observation(finding: Finding, issued: datetime) -> _Json:
    """Make a preliminary Observation.

    It has no subject: who the patient is stays in the study that it is derived from. An image
    that was no DICOM file belongs to no study, and the Observation then tells none.

    Args:
        finding: What it tells.
        issued: The time of it, with its time zone.
    """
    prediction = finding.prediction
    observation = {
        "resourceType": "Observation",
        "id": str(prediction.id),
        "text": _narrative(finding),
        "contained": [_device(prediction.model)],
        "identifier": [{"system": _URI, "value": f"urn:uuid:{prediction.id}"}],
        "status": "preliminary",
        "category": [_concept(f"{_HL7}/observation-category", "imaging", "Imaging")],
        "code": {
            "coding": [_coding(codes.CHEST_XRAY_LOINC), _coding(codes.CHEST_XRAY)],
            "text": "COVID-19 prediction on a frontal chest X-ray",
        },
        "issued": issued.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "valueCodeableConcept": _codeable(codes.label_code(prediction.label)),
        "interpretation": [_interpretation(prediction)],
        "note": [{"text": remark} for remark in remarks(finding)],
        "bodySite": _codeable(codes.CHEST),
        "method": _codeable(codes.ARTIFICIAL_INTELLIGENCE),
        "device": {"reference": "#device"},
        "component": _components(prediction),
    }
    dicom = prediction.image.dicom
    if dicom and dicom.study_instance_uid:
        identifier = {"system": _DICOM_UID, "value": f"urn:oid:{dicom.study_instance_uid}"}
        observation["derivedFrom"] = [{"type": "ImagingStudy", "identifier": identifier}]
    return observation


def _device(model: ModelInfo) -> _Json:
    return {
        "resourceType": "Device",
        "id": "device",
        "identifier": [
            {"system": _URI, "value": f"urn:oid:{device_uid(model)}"},
            {"type": {"text": "SHA-256 of the release's manifest"}, "value": model.digest},
        ],
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": PRODUCT, "type": "user-friendly-name"}],
        "modelNumber": f"{model.name} {model.version}",
        "type": {"text": "Software"},
        "version": [
            {"type": {"text": "model"}, "value": str(model.version)},
            {"type": {"text": "software"}, "value": VERSION},
            {"type": {"text": "computation"}, "value": computation(model)},
        ],
        "note": [{"text": "Research software, no medical device; it has no UDI."}],
    }


def _interpretation(prediction: Prediction) -> _Json:
    system = f"{_HL7}/v3-ObservationInterpretation"
    if prediction.label == next(iter(prediction.probabilities)):
        return _concept(system, "POS", "Positive")
    return _concept(system, "NEG", "Negative")


def _components(prediction: Prediction) -> list[_Json]:
    numbers = codes.numbers(prediction)
    texts = {
        codes.prediction_set_code(confidence): ", ".join(labels) or codes.NO_LABEL.meaning
        for confidence, labels in prediction.prediction_set.items()
    }
    dicom = prediction.image.dicom
    if dicom and dicom.sop_instance_uid:
        texts[codes.SOP_INSTANCE] = f"urn:oid:{dicom.sop_instance_uid}"
    return [
        *({"code": _codeable(c), "valueQuantity": _quantity(v)} for c, v in numbers.items()),
        *({"code": _codeable(c), "valueString": text} for c, text in texts.items()),
    ]


def _quantity(value: float) -> _Json:
    return {"value": value, "system": _UCUM, "code": "1"}


def _narrative(finding: Finding) -> _Json:
    """Tell the same to people, as FHIR wants of every resource."""
    prediction = finding.prediction
    lines = [
        f"{prediction.label} by {prediction.model.name}, version {prediction.model.version}",
        *(f"p({label}) = {p:.3f}" for label, p in prediction.probabilities.items()),
        *remarks(finding),
    ]
    body = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return {
        "status": "generated",
        "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{body}</div>',
    }


def _codeable(code: Code) -> _Json:
    return {"coding": [_coding(code)], "text": code.meaning}


def _concept(system: str, code: str, display: str) -> _Json:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _coding(code: Code) -> _Json:
    return {"system": FHIR_SYSTEMS[code.scheme], "code": code.value, "display": code.meaning}
