"""What makes the reports, as they tell it: this software with one release of a model."""

from importlib.metadata import version
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, UUID, uuid5

from app.overlay import DISCLAIMER
from app.service import Finding, ModelInfo

if TYPE_CHECKING:  # imported where a report is written, and not before
    from pydicom import Dataset

PRODUCT = "covid-xray"
MANUFACTURER = "covid-xray project (research software)"
VERSION = version(PRODUCT)
OVERLAY_SERIES = "COVID-19 heatmap (research)"
"""Description of the series that a Secondary Capture is in."""

NOTICE = (
    f"{DISCLAIMER} It must not be used to diagnose or to decide on treatment. It knows two labels "
    "only: any other finding is neither of them."
)


def device_uid(model: ModelInfo) -> str:
    """Name the device: the same for the same software, release, engine and precision.

    Another precision gives other numbers, which a report with the same UID could not have.
    """
    name = f"urn:{PRODUCT}:{VERSION}:{model.digest}:{model.engine}:{model.precision}"
    return uid_of(uuid5(NAMESPACE_URL, name))


def computation(model: ModelInfo) -> str:
    """Tell what computed an answer, such as `openvino in f32`."""
    return f"{model.engine} in {model.precision}"


def report_uid(model: ModelInfo, kind: str, source: str | None) -> str:
    """Name a report or its series: the same for the same image and the same device.

    So an archive that is given the report on an image once more, since whoever sent the image did
    so again, keeps one.

    Args:
        model: What answered.
        kind: Which of the image's reports, or series, or what of them, it is.
        source: The image's SOP instance UID.
    """
    return uid_of(uuid5(NAMESPACE_URL, f"urn:{PRODUCT}:{kind}:{device_uid(model)}:{source}"))


def uid_of(uuid: UUID) -> str:
    """Make a UUID a DICOM UID (PS3.5, B.2)."""
    return f"2.25.{uuid.int}"


def sign(report: "Dataset", model: ModelInfo) -> None:
    """Tell in a DICOM instance what made it, and that it is for research only."""
    report.Manufacturer = MANUFACTURER
    report.ManufacturerModelName = model.name
    report.SoftwareVersions = [
        f"{PRODUCT} {VERSION}",
        f"{model.name} {model.version}",
        computation(model),
    ]
    report.DeviceSerialNumber = model.digest
    report.ContentQualification = "RESEARCH"


def remarks(finding: Finding) -> tuple[str, ...]:
    """Tell what a report's reader should know: what the software is not, and its warnings."""
    return (NOTICE, *(warning.detail for warning in finding.prediction.warnings))
