"""The Store Instances Response Module: which reason is given for which failure."""

import json
from dataclasses import replace
from http import HTTPStatus

import pytest
from pydicom import Dataset

from app import errors
from app.dicomweb.instances import Outcome
from app.dicomweb.response import failure_reason, status_of, write_response
from app.errors import CovidXrayError
from app.imaging import DicomInstance

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
UIDS = DicomInstance("2.25.1", "2.25.2", "2.25.3", DX)
NO_UID = DicomInstance("2.25.1", "2.25.2", None, DX)
GOOD = Outcome(UIDS)
LATERAL = errors.NotAChestRadiograph("AP or PA", "LL")
BROKEN = errors.UnreadableImage("an intact file", "another")
NOT_AS_ITS_CLASS = Outcome(UIDS, warnings=("window-inferred", "polarity-conflict"))


@pytest.mark.parametrize(
    ("error", "sop_class", "reason"),
    [
        (LATERAL, DX, 0xA900),
        (LATERAL, CR, 0xA900),
        (LATERAL, CAPTURE, 0xA900),
        (LATERAL, CT, 0x0122),
        (errors.UnsupportedImage("1 frame", "2"), DX, 0xC000),
        (errors.UnsupportedImage("1 frame", "2"), f"{CAPTURE}.2", 0xC000),
        (errors.UnsupportedImage("for presentation", "not"), DX_FOR_PROCESSING, 0x0122),
        (errors.UnsupportedImage("a SOP class", "none"), None, 0xC000),
        (errors.UnsupportedSyntax("one that is read", "MPEG2"), DX, 0xC122),
        (BROKEN, DX, 0xC000),
        (BROKEN, CT, 0xC000),
        (errors.UnsupportedImageType("DICOM", "another"), DX, 0xC000),
        (errors.OtherStudy("this", "another"), DX, 0xA901),
        (errors.PayloadTooLarge("1000 bytes", "1001"), DX, 0xA700),
        (errors.InferenceFailed("an answer", "none"), DX, 0x0110),
        (errors.EngineUnavailable("an engine", "none"), DX, 0x0110),
    ],
)
def test_each_failure_has_its_reason(
    error: CovidXrayError, sop_class: str | None, reason: int
) -> None:
    assert failure_reason(error, replace(UIDS, sop_class_uid=sop_class)) == reason


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([GOOD, GOOD], HTTPStatus.OK),
        ([GOOD, Outcome(UIDS, LATERAL)], HTTPStatus.ACCEPTED),
        ([NOT_AS_ITS_CLASS], HTTPStatus.ACCEPTED),
        ([Outcome(UIDS, warnings=("window-inferred",))], HTTPStatus.OK),
        ([Outcome(UIDS, LATERAL), Outcome(None, BROKEN)], HTTPStatus.CONFLICT),
    ],
)
def test_the_status_tells_whether_all_some_or_none_were_analysed(
    outcomes: list[Outcome], status: HTTPStatus
) -> None:
    assert status_of(outcomes) == status


def test_each_instance_is_where_the_standard_wants_it() -> None:
    outcomes = [
        GOOD,
        NOT_AS_ITS_CLASS,
        Outcome(UIDS, LATERAL),
        Outcome(NO_UID, BROKEN),
        Outcome(None, BROKEN),
    ]
    module = Dataset.from_json(write_response(outcomes))
    assert module.RetrieveURL == ""
    good, warned = module.ReferencedSOPSequence
    assert (good.ReferencedSOPClassUID, good.ReferencedSOPInstanceUID) == (DX, "2.25.3")
    assert good.RetrieveURL == ""
    assert "WarningReason" not in good
    assert warned.WarningReason == 0xB007
    (lateral,) = module.FailedSOPSequence
    assert (lateral.ReferencedSOPInstanceUID, lateral.FailureReason) == ("2.25.3", 0xA900)
    unnamed = module.OtherFailuresSequence
    assert [item.FailureReason for item in unnamed] == [0xC000] * 2
    assert not any("ReferencedSOPInstanceUID" in item for item in unnamed)


def test_a_sequence_without_items_is_left_out() -> None:
    assert json.loads(write_response([GOOD])).keys() == {"00081190", "00081199"}
    assert json.loads(write_response([Outcome(UIDS, LATERAL)])).keys() == {"00081190", "00081198"}
