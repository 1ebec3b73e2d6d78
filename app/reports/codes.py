"""The codes of reports, and where each comes from.

A concept of DICOM's (DCM), SNOMED CT's (SCT) or LOINC's (LN) own is taken where its definition says
what is meant. What is left is coded in a private scheme of this product, `PRIVATE`, whose codes
never change their meaning; `docs/reports.md` lists them.
"""

from typing import NamedTuple

from app.service import Prediction

PRIVATE = "99COVIDXRAY"
"""Designator of the private scheme; `99` begins those that DICOM leaves to everybody."""

PRIVATE_UID = "2.25.324305769470017767573222614037501624460"
PRIVATE_NAME = "Codes of the COVID-19 chest X-ray inference service"

FHIR_SYSTEMS = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    PRIVATE: f"urn:oid:{PRIVATE_UID}",
}
"""Coding scheme designator in DICOM → code system in FHIR."""

_LONGEST_MEANING = 64
"""Characters of a code's meaning in DICOM (its VR is LO)."""


class Code(NamedTuple):
    """A coded concept.

    Attributes:
        value: Of the code.
        scheme: Designator of the coding scheme, a key of `FHIR_SYSTEMS`.
        meaning: For people; at most 64 characters.
    """

    value: str
    scheme: str
    meaning: str


CHEST_XRAY = Code("399208008", "SCT", "Plain chest X-ray")
CHEST_XRAY_LOINC = Code("36554-4", "LN", "XR Chest Single view")
CHEST = Code("816094009", "SCT", "Chest")
DEVICE = Code("121007", "DCM", "Device")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
COMMENT = Code("121106", "DCM", "Comment")
NO_UNITS = Code("1", "UCUM", "no units")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")

CALLED_LABEL = Code("called-label", PRIVATE, "Label that is said, by the decision threshold")
ACCEPTANCE_SCORE = Code("acceptance", PRIVATE, "Acceptance score: likeness to frontal chest X-rays")
ACCEPTANCE_THRESHOLD = Code("acceptance-limit", PRIVATE, "Acceptance threshold")
NO_LABEL = Code("no-label", PRIVATE, "None of the labels")
SOP_INSTANCE = Code("sop-instance", PRIVATE, "SOP instance UID of the image")

_LABELS = {
    "COVID-19": Code("840539006", "SCT", "COVID-19"),
    "Normal": Code("17621005", "SCT", "Normal"),
}


def label_code(label: str) -> Code:
    """Code a label; one of a release that other labels were trained for, in the private scheme."""
    return _LABELS.get(label) or _private(f"label:{label}", label)


def probability_code(label: str) -> Code:
    """Code the probability of a label."""
    return _private(f"p:{label}", f"Probability of {label}")


def threshold_code(label: str) -> Code:
    """Code the decision threshold of a label."""
    return _private(f"threshold:{label}", f"Probability from which upwards {label} is said")


def prediction_set_code(confidence: str) -> Code:
    """Code the labels that cannot be ruled out at a confidence, such as `95%`."""
    meaning = f"Label that cannot be ruled out at {confidence} confidence"
    return _private(f"set:{confidence}", meaning)


def _private(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE, meaning[:_LONGEST_MEANING])


def numbers(prediction: Prediction) -> dict[Code, float]:
    """Give a prediction's numbers with their codes, in the order in which reports tell them."""
    positive = next(iter(prediction.probabilities))
    return {
        **{probability_code(label): p for label, p in prediction.probabilities.items()},
        threshold_code(positive): prediction.decision_threshold,
        ACCEPTANCE_SCORE: prediction.acceptance.score,
        ACCEPTANCE_THRESHOLD: prediction.acceptance.threshold,
    }
