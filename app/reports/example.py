"""One prediction with made-up numbers, for the documentation and its tests."""

from datetime import UTC, datetime
from uuid import UUID

import numpy as np

from app.decision import Acceptance
from app.imaging import DicomInstance, Radiograph, phantom
from app.service import Finding, ImageInfo, ModelInfo, Prediction

ISSUED = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)

_DIGEST = "6b23c0d5f35d1b11" * 4
_SHA256 = "5f70bf18a0860070" * 4
_DICOM = DicomInstance("2.25.91", "2.25.92", "2.25.93", sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1")


def example_finding() -> Finding:
    """Make a finding on the synthetic chest, as if it had come as DICOM."""
    pixels = phantom()[..., 0]
    height, width = pixels.shape
    prediction = Prediction(
        id=UUID("0b9c1ec5-7a52-4cf5-9e5a-6f4b1e6a2d31"),
        label="COVID-19",
        probabilities={"COVID-19": 0.91, "Normal": 0.09},
        decision_threshold=0.13,
        prediction_set={"90%": ("COVID-19",), "95%": ("COVID-19", "Normal")},
        acceptance=Acceptance(0.98, 0.27),
        warnings=(),
        image=ImageInfo("DICOM", width, height, _SHA256, _DICOM),
        model=ModelInfo("covid19-resnet50", 3, _DIGEST, "openvino", "f32"),
        timings_ms={"decode": 11.2, "queue": 0.1, "inference": 16.8, "total": 28.1},
    )
    y, x = np.mgrid[0:7, 0:7].astype(np.float32)
    heatmap = np.exp(-((x - 2) ** 2 + (y - 4) ** 2) / 3)
    radiograph = Radiograph(pixels, "DICOM", _SHA256)
    return Finding(prediction, radiograph, heatmap, lambda: radiograph)
