"""The answer to STOW-RS: the Store Instances Response Module (PS3.18, Annex I).

Its codes are those of Table I.2-2 and, as the standard leaves to us, of their ranges:

| failure reason | |
| --- | --- |
| `A900` | the image is no frontal chest X-ray: another view, body part, or not like one |
| `A901` | it belongs to another study than the request's |
| `A700` | its result is larger than all that may wait to be sent |
| `C000` | broken, or of a kind that is not read; one that cannot be named is in Other Failures |
| `C122` | the transfer syntax is not read |
| `0110` | the service failed on it |
| `0122` | the SOP class is none of X-rays |
| warning reason | |
| `B007` | there is a result, but the image does not look like a frontal chest X-ray, or contradicts
itself in its polarity |
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from app.dicomweb.instances import Outcome
from app.errors import (
    CovidXrayError,
    InputError,
    NotAChestRadiograph,
    OtherStudy,
    PayloadTooLarge,
    UnsupportedImage,
    UnsupportedSyntax,
)
from app.imaging import DicomInstance

if TYPE_CHECKING:  # imported when the first instance was read
    from pydicom import Dataset

NO_CHEST_XRAY = 0xA900
OTHER_STUDY = 0xA901
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
SYNTAX_NOT_SUPPORTED = 0xC122
PROCESSING_FAILURE = 0x0110
CLASS_NOT_SUPPORTED = 0x0122
NOT_AS_ITS_CLASS = 0xB007

_XRAY_CLASSES = {"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"}
"""Computed Radiography, and Digital X-Ray for presentation."""
_SECONDARY_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
"""The class, and the beginning of those with several frames."""

_WARNINGS = {NotAChestRadiograph.code, "polarity-conflict"}
"""Of a prediction: those that say that the image is not what its class says."""


def failure_reason(error: CovidXrayError, uids: DicomInstance | None) -> int:
    """Give the failure reason (0008,1197) of an instance without a result."""
    if isinstance(error, (NotAChestRadiograph, UnsupportedImage)) and not _is_of_xrays(uids):
        return CLASS_NOT_SUPPORTED
    if not isinstance(error, InputError):
        return PROCESSING_FAILURE
    reasons = {
        NotAChestRadiograph: NO_CHEST_XRAY,
        OtherStudy: OTHER_STUDY,
        PayloadTooLarge: OUT_OF_RESOURCES,
        UnsupportedSyntax: SYNTAX_NOT_SUPPORTED,
    }
    return reasons.get(type(error), CANNOT_UNDERSTAND)


def status_of(outcomes: Sequence[Outcome]) -> HTTPStatus:
    """Give the status of the answer (PS3.18, Table 10.5.3-1)."""
    failed = [outcome for outcome in outcomes if outcome.error]
    if len(failed) == len(outcomes):
        return HTTPStatus.CONFLICT
    if failed or any(_warns(outcome) for outcome in outcomes):
        return HTTPStatus.ACCEPTED
    return HTTPStatus.OK


def write_response(outcomes: Sequence[Outcome]) -> str:
    """Write the module in DICOM's JSON (PS3.18, F.2).

    Nothing is kept, so that there is no URL to retrieve it from: Retrieve URL (type 2) is empty.
    """
    from pydicom import Dataset  # noqa: PLC0415 -- see above

    module = Dataset()
    module.RetrieveURL = None
    sequences = {
        "ReferencedSOPSequence": [_referenced(each) for each in outcomes if not each.error],
        "FailedSOPSequence": [
            _failed(each, each.error) for each in outcomes if each.error and _has_name(each)
        ],
        "OtherFailuresSequence": [
            _failed(each, each.error) for each in outcomes if each.error and not _has_name(each)
        ],
    }
    for keyword, items in sequences.items():
        if items:
            setattr(module, keyword, items)
    return module.to_json()


def _is_of_xrays(uids: DicomInstance | None) -> bool:
    sop_class = (uids and uids.sop_class_uid) or ""
    # Where there is none, its class is not what is wrong with it.
    return not sop_class or sop_class in _XRAY_CLASSES or sop_class.startswith(_SECONDARY_CAPTURES)


def _has_name(outcome: Outcome) -> bool:
    uids = outcome.uids
    return uids is not None and bool(uids.sop_class_uid and uids.sop_instance_uid)


def _warns(outcome: Outcome) -> bool:
    return not _WARNINGS.isdisjoint(outcome.warnings)


def _referenced(outcome: Outcome) -> "Dataset":
    item = _item(outcome)
    item.RetrieveURL = None
    if _warns(outcome):
        item.WarningReason = NOT_AS_ITS_CLASS
    return item


def _failed(outcome: Outcome, error: CovidXrayError) -> "Dataset":
    item = _item(outcome)
    item.FailureReason = failure_reason(error, outcome.uids)
    return item


def _item(outcome: Outcome) -> "Dataset":
    from pydicom import Dataset  # noqa: PLC0415 -- see above

    item = Dataset()
    if outcome.uids and _has_name(outcome):
        item.ReferencedSOPClassUID = outcome.uids.sop_class_uid
        item.ReferencedSOPInstanceUID = outcome.uids.sop_instance_uid
    return item
