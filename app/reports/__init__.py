"""A prediction in the forms that a clinic files: DICOM and FHIR. It knows no HTTP."""

from app.reports.fhir import write_observation
from app.reports.secondary_capture import write_secondary_capture
from app.reports.sr import write_sr

__all__ = ["write_observation", "write_secondary_capture", "write_sr"]
