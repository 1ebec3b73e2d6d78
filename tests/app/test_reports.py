"""DICOM reports: read again by highdicom, by dcmtk and by dicom3tools."""

import dataclasses
import io
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset

from app.errors import NotAcceptable, UnsupportedImage
from app.imaging import DicomInstance, ImageWarning
from app.overlay import DISCLAIMER
from app.reports import codes, write_secondary_capture, write_sr
from app.reports.example import example_finding
from app.reports.source import REQUIRED, UIDS
from app.service import Finding
from tests.fakes import dicom_header

WRITERS = {"sr": write_sr, "sc": write_secondary_capture}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)

HEADERS = {
    "whole": dicom_header(),
    "bare": dicom_header(**dict.fromkeys(REQUIRED), PatientOrientation=None),
    "empty": dicom_header(**dict.fromkeys(REQUIRED, "")),
    "Japanese": dicom_header(
        SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"
    ),
    "lossy": dicom_header(
        LossyImageCompression="01",
        LossyImageCompressionRatio="12",
        LossyImageCompressionMethod="ISO_10918_1",
    ),
}
headers = pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)


def finding_of(header: Dataset | None, **changes: Any) -> Finding:
    """Make the example's finding on another source, or with another prediction."""
    finding = example_finding()
    radiograph = dataclasses.replace(finding.radiograph, header=header)
    if header is not None and "image" not in changes:
        uids = {name: str(header.get(keyword, "")) for keyword, name in UIDS.items()}
        changes["image"] = dataclasses.replace(
            finding.prediction.image, dicom=DicomInstance(**uids)
        )
    prediction = dataclasses.replace(finding.prediction, **changes)
    return dataclasses.replace(finding, prediction=prediction, radiograph=radiograph)


def check_with(program: list[str], data: bytes, folder: Path, *outputs: Path) -> str:
    """Have a program read a file, and give what it says."""
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed (dcmtk, dicom3tools)")
    file = folder / "report.dcm"
    file.write_bytes(data)
    done = subprocess.run([*program, file, *outputs], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


# --- what others say of both


@writers
@headers
def test_dciodvfy_finds_no_error(write: Any, header: Dataset, tmp_path: Path) -> None:
    said = check_with(["dciodvfy"], write(finding_of(header)), tmp_path)
    assert "Error" not in said, said


@writers
@headers
def test_dcmdump_reads_it(write: Any, header: Dataset, tmp_path: Path) -> None:
    said = check_with(["dcmdump"], write(finding_of(header)), tmp_path)
    assert "E: " not in said
    assert "W: " not in said


@headers
def test_dsrdump_reads_the_sr(header: Dataset, tmp_path: Path) -> None:
    said = check_with(["dsrdump"], write_sr(finding_of(header)), tmp_path)
    assert "E: " not in said
    assert '"Probability of COVID-19")="0.91"' in said
    assert "UNVERIFIED" in said


# --- what files both


@writers
def test_it_belongs_to_the_sources_patient_and_study(write: Any) -> None:
    report = pydicom.dcmread(io.BytesIO(write(finding_of(dicom_header()))))
    for keyword in (*REQUIRED, "StudyInstanceUID"):
        assert report[keyword] == dicom_header()[keyword]
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        assert report[keyword] != dicom_header()[keyword]
        assert report[keyword].value.is_valid


@writers
def test_what_the_source_lacks_is_empty(write: Any) -> None:
    report = pydicom.dcmread(io.BytesIO(write(finding_of(HEADERS["bare"]))))
    assert all(report[keyword].is_empty for keyword in REQUIRED)


@writers
def test_names_in_other_scripts_are_kept(write: Any) -> None:
    report = pydicom.dcmread(io.BytesIO(write(finding_of(HEADERS["Japanese"]))))
    assert report.PatientName.ideographic == "山田^太郎"


@writers
def test_it_says_what_made_it_and_what_it_is_not(write: Any) -> None:
    report = pydicom.dcmread(io.BytesIO(write(finding_of(dicom_header()))))
    assert report.ManufacturerModelName == "covid19-resnet50"
    assert report.SoftwareVersions[1] == "covid19-resnet50 3"
    assert report.DeviceSerialNumber == example_finding().prediction.model.digest
    assert report.ContentQualification == "RESEARCH"
    assert DISCLAIMER in report.to_json()


@writers
def test_the_report_on_an_image_by_a_device_is_one_instance_however_often_it_is_made(
    write: Any,
) -> None:
    finding = finding_of(dicom_header())
    model = finding.prediction.model
    changes: list[dict[str, Any]] = [
        {"digest": "0" * 64},
        {"precision": "int8"},
        {"engine": "tensorflow"},
    ]
    others = [finding_of(dicom_header(SOPInstanceUID="2.25.94"))] + [
        finding_of(dicom_header(), model=dataclasses.replace(model, **change)) for change in changes
    ]
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        made, again, *different = (
            pydicom.dcmread(io.BytesIO(write(each)))[keyword].value
            for each in (finding, finding, *others)
        )
        assert made == again
        assert len({made, *different}) == 5


def test_the_tracking_uid_of_a_report_is_the_same_however_often_it_is_made() -> None:
    findings = [finding_of(dicom_header(), id=UUID(int=number)) for number in range(2)]
    findings.append(finding_of(dicom_header(SOPInstanceUID="2.25.94")))
    first, again, other = (read_sr(each)[1].tracking_uid for each in findings)
    assert first == again
    assert first != other


@writers
def test_engine_and_precision_are_told(write: Any) -> None:
    report = pydicom.dcmread(io.BytesIO(write(finding_of(dicom_header()))))
    assert report.SoftwareVersions[2] == "openvino in f32"


def test_reports_of_two_kinds_are_two_instances_of_two_series() -> None:
    finding = finding_of(dicom_header())
    reports = [
        pydicom.dcmread(io.BytesIO(write(finding))) for write in (write_sr, write_secondary_capture)
    ]
    uids = {
        report[key].value for report in reports for key in ("SeriesInstanceUID", "SOPInstanceUID")
    }
    assert len(uids) == 4


@writers
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
@pytest.mark.filterwarnings("ignore:.*:UserWarning:highdicom")
def test_odd_values_are_copied_and_told_to_nobody(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    odd = {
        "PatientName": "Secret^" * 9,
        "PatientSex": "Secret",
        "PatientBirthDate": "Secret",
        "StudyTime": "Secret",
        "PatientID": "Secret" * 20,
    }
    with caplog.at_level(logging.DEBUG):
        header = dicom_header(**odd)
        caplog.clear()
        report = pydicom.dcmread(io.BytesIO(write(finding_of(header))))
    assert {keyword: str(report[keyword].value) for keyword in odd} == odd
    told = [record for record in caplog.records if record.name != "pydicom"]
    assert "Secret" not in "".join(record.getMessage() for record in told)


@writers
def test_a_file_that_is_no_dicom_is_not_acceptable(write: Any) -> None:
    finding = example_finding()
    radiograph = dataclasses.replace(finding.radiograph, format="PNG")
    with pytest.raises(NotAcceptable, match=r"Expected a DICOM file.*; received a PNG file"):
        write(dataclasses.replace(finding, radiograph=radiograph))


@writers
@pytest.mark.parametrize("keyword", UIDS)
def test_a_source_that_cannot_be_referred_to_is_refused(write: Any, keyword: str) -> None:
    header = dicom_header(**{keyword: None})
    with pytest.raises(UnsupportedImage, match=keyword):
        write(finding_of(header))


def test_an_sr_on_an_image_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(UnsupportedImage, match="SOPClassUID"):
        write_sr(finding_of(dicom_header(SOPClassUID="1.2.3")))


# --- SR


def read_sr(finding: Finding) -> Any:
    report: Any = hd.sr.srread(io.BytesIO(write_sr(finding)))
    (group,) = report.content.get_image_measurement_groups()
    return report, group


def values_of(group: Any) -> dict[str, float]:
    return {each.name.meaning: each.value for each in group.get_measurements()}


def evaluations_of(group: Any) -> list[tuple[str, str, str]]:
    return [
        (each.name.value, each.value.scheme_designator, each.value.value)
        for each in group.get_qualitative_evaluations()
        if each.name.scheme_designator == codes.PRIVATE  # not the algorithm's family
    ]


def test_the_sr_is_preliminary_and_unverified() -> None:
    report, _ = read_sr(finding_of(dicom_header()))
    assert isinstance(report, hd.sr.ComprehensiveSR)
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.CompletionFlag == "COMPLETE"
    assert report.PreliminaryFlag == "PRELIMINARY"


def test_the_sr_holds_the_numbers_of_the_prediction() -> None:
    finding = finding_of(dicom_header(), decision_threshold=0.12572511725609958)
    prediction = finding.prediction
    _, group = read_sr(finding)
    assert values_of(group) == {
        "Probability of COVID-19": prediction.probabilities["COVID-19"],
        "Probability of Normal": prediction.probabilities["Normal"],
        codes.threshold_code("COVID-19").meaning: prediction.decision_threshold,
        codes.ACCEPTANCE_SCORE.meaning: prediction.acceptance.score,
        codes.ACCEPTANCE_THRESHOLD.meaning: prediction.acceptance.threshold,
    }


def test_the_sr_codes_the_called_label_and_the_prediction_sets() -> None:
    _, group = read_sr(finding_of(dicom_header()))
    covid, normal = ("SCT", "840539006"), ("SCT", "17621005")
    assert evaluations_of(group) == [
        ("called-label", *covid),
        ("set:90%", *covid),
        ("set:95%", *covid),
        ("set:95%", *normal),
    ]


def test_an_empty_prediction_set_is_told() -> None:
    _, group = read_sr(finding_of(dicom_header(), prediction_set={"90%": ()}))
    assert evaluations_of(group)[1:] == [("set:90%", codes.PRIVATE, "no-label")]


def test_labels_that_have_no_code_of_others_have_a_private_one() -> None:
    label = "A label with a name that is much longer than what a DICOM code's meaning may be"
    changes = {"label": label, "probabilities": {label: 0.6, "Normal": 0.4}, "prediction_set": {}}
    _, group = read_sr(finding_of(dicom_header(), **changes))
    assert evaluations_of(group) == [("called-label", codes.PRIVATE, f"label:{label}")]
    assert max(values_of(group).values()) == 0.98


def test_the_sr_refers_to_its_image() -> None:
    report, group = read_sr(finding_of(dicom_header()))
    (source,) = group.source_images
    assert source.referenced_sop_instance_uid == dicom_header().SOPInstanceUID
    (evidence,) = report.get_evidence()
    assert evidence == tuple(dicom_header()[keyword].value for keyword in UIDS)


def test_the_sr_names_its_device_model_and_private_codes() -> None:
    report, _ = read_sr(finding_of(dicom_header()))
    model = example_finding().prediction.model
    (observer,) = report.content.get_observer_contexts()
    device = observer.observer_identifying_attributes
    assert observer.observer_type.meaning == "Device"
    assert (device.name, device.model_name) == ("covid-xray", "covid19-resnet50 3")
    assert device.serial_number == model.digest
    assert f"manifest SHA-256 {model.digest}" in report.to_json()
    assert report.to_json().count("openvino in f32") == 2  # of the software, and of the algorithm
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert (scheme.CodingSchemeDesignator, scheme.CodingSchemeUID) == (
        codes.PRIVATE,
        codes.PRIVATE_UID,
    )


def test_warnings_are_comments_of_the_sr() -> None:
    warning = ImageWarning("odd", "The image is odd.")
    report, _ = read_sr(finding_of(dicom_header(), warnings=(warning,)))
    assert "The image is odd." in report.to_json()


# --- Secondary Capture


def read_sc(header: Dataset) -> Any:
    return hd.imread(io.BytesIO(write_secondary_capture(finding_of(header))))


def test_the_secondary_capture_holds_the_picture_with_its_legend() -> None:
    capture = read_sc(dicom_header())
    np.testing.assert_array_equal(capture.get_frame(1), example_finding().draw())
    assert capture.PhotometricInterpretation == "RGB"
    assert capture.ImageType[:2] == ["DERIVED", "SECONDARY"]


def test_dcmtk_renders_the_secondary_capture_as_it_was_drawn(tmp_path: Path) -> None:
    rendered = tmp_path / "rendered.ppm"
    data = write_secondary_capture(finding_of(dicom_header()))
    check_with(["dcm2pnm", "--write-raw-pnm"], data, tmp_path, rendered)
    with Image.open(rendered) as image:
        np.testing.assert_array_equal(np.asarray(image), example_finding().draw())


def test_the_secondary_capture_tells_what_it_was_made_of() -> None:
    capture = read_sc(dicom_header())
    (source,) = capture.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == dicom_header().SOPInstanceUID
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert "Grad-CAM" in capture.DerivationDescription
    assert "covid19-resnet50 3" in capture.DerivationDescription


@pytest.mark.parametrize("burned_in", ["YES", "NO", None])
def test_what_is_burned_into_the_source_is_said_of_the_picture(burned_in: str | None) -> None:
    capture = read_sc(dicom_header(BurnedInAnnotation=burned_in))
    assert capture.get("BurnedInAnnotation") == burned_in


def test_lossy_compression_of_the_source_is_not_forgotten() -> None:
    assert read_sc(HEADERS["lossy"]).LossyImageCompression == "01"


# --- cost


def test_neither_starting_nor_fhir_imports_what_writes_dicom() -> None:
    script = """
import sys
import app.main
from app.reports import write_observation
from app.reports.example import ISSUED, example_finding
write_observation(example_finding(), ISSUED)
print(sorted({"pydicom", "highdicom"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
