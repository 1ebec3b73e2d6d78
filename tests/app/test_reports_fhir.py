"""The FHIR Observation: read again by the models of `fhir.resources`."""

import dataclasses
import json
from typing import Any

from fhir.resources.R4B.observation import Observation

from app.overlay import DISCLAIMER
from app.reports import write_observation
from app.reports.example import ISSUED, example_finding
from app.service import Finding
from tests.app.test_reports import finding_of
from tests.fakes import dicom_header


def observation_of(finding: Finding) -> tuple[dict[str, Any], Any]:
    text = write_observation(finding, ISSUED)
    return json.loads(text), Observation.model_validate_json(text)


def test_the_observation_is_one_of_fhir_r4() -> None:
    content, observation = observation_of(finding_of(dicom_header()))
    assert observation.status == "preliminary"
    assert observation.valueCodeableConcept.coding[0].code == "840539006"
    assert observation.interpretation[0].coding[0].code == "POS"
    assert json.loads(observation.model_dump_json()) == content


def test_the_observation_is_derived_from_the_study_and_tells_no_patient() -> None:
    content, observation = observation_of(finding_of(dicom_header()))
    (source,) = observation.derivedFrom
    assert source.type == "ImagingStudy"
    assert (source.identifier.system, source.identifier.value) == (
        "urn:dicom:uid",
        f"urn:oid:{dicom_header().StudyInstanceUID}",
    )
    assert "subject" not in content
    told = json.dumps(content)
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "PatientBirthDate"):
        assert str(dicom_header()[keyword].value) not in told


def test_an_image_without_a_study_is_derived_from_none() -> None:
    finding = example_finding()
    image = dataclasses.replace(finding.prediction.image, format="PNG", dicom=None)
    content, _ = observation_of(finding_of(None, image=image))
    assert "derivedFrom" not in content
    assert "urn:oid:2.25.9" not in json.dumps(content)


def test_the_second_label_is_negative() -> None:
    _, observation = observation_of(finding_of(None, label="Normal"))
    assert observation.valueCodeableConcept.coding[0].code == "17621005"
    assert observation.interpretation[0].coding[0].code == "NEG"


def test_the_components_hold_numbers_without_unit_and_prediction_sets() -> None:
    _, observation = observation_of(finding_of(None))
    components = {each.code.coding[0].code: each for each in observation.component}
    covid = components["p:COVID-19"].valueQuantity
    assert (float(covid.value), covid.system, covid.code) == (
        0.91,
        "http://unitsofmeasure.org",
        "1",
    )
    assert float(components["threshold:COVID-19"].valueQuantity.value) == 0.13
    assert float(components["acceptance"].valueQuantity.value) == 0.98
    assert components["set:95%"].valueString == "COVID-19, Normal"


def test_the_observation_names_its_device_and_says_what_it_is_not() -> None:
    _, observation = observation_of(finding_of(None))
    (device,) = observation.contained
    assert observation.device.reference == f"#{device.id}"
    assert device.deviceName[0].name == "covid-xray"
    assert "no medical device" in device.note[0].text
    assert observation.note[0].text.startswith(DISCLAIMER)
