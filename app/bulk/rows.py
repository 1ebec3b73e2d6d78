"""One row a file: its schema, field by field, and how it is filled."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from app.decision import Acceptance, Decision
from app.engines import Engine
from app.errors import CovidXrayError
from app.imaging import ImageWarning, Radiograph
from app.release import Manifest, Release

SCHEMA_VERSION = 2
"""Goes up when a column changes its name, type or meaning, or may be null as it could not be."""

Row = dict[str, Any]
"""A file's values, by column; what is not there is null."""

_UID = "of the DICOM object; null where the file is no DICOM, or has no valid one."


def schema_of(manifest: Manifest) -> pa.Schema:
    """Describe the rows that a release gives; each column's metadata tell what it holds.

    Args:
        manifest: Of the release: it names the labels and the confidences.
    """
    strings = pa.list_(pa.string())
    positive, negative = manifest.labels
    threshold = manifest.decision.threshold
    warning = pa.struct([("code", pa.string()), ("detail", pa.string())])
    columns: list[tuple[str, pa.DataType, str]] = [
        ("path", pa.string(), "The file: an absolute path, or an address such as s3://…."),
        ("sha256", pa.string(), "Of the file's bytes, in hexadecimal; null where not read."),
        ("study_instance_uid", pa.string(), f"Study Instance UID {_UID}"),
        ("series_instance_uid", pa.string(), f"Series Instance UID {_UID}"),
        ("sop_instance_uid", pa.string(), f"SOP Instance UID {_UID}"),
        ("format", pa.string(), "PNG, JPEG or DICOM; null where it was not decoded."),
        ("width", pa.int32(), "Columns of the image as shown upright; null where not decoded."),
        ("height", pa.int32(), "Rows of the image as shown upright; null where not decoded."),
        *(
            (f"probability_{label}", pa.float64(), f"Calibrated, of {label}; null without answer.")
            for label in manifest.labels
        ),
        (
            "label",
            pa.string(),
            f"{positive} from a probability of {threshold!r} upwards, else {negative}; or null.",
        ),
        (
            "acceptance_score",
            pa.float64(),
            "How much it looks like a frontal chest X-ray, in [0, 1]; null where not decoded.",
        ),
        (
            "accepted",
            pa.bool_(),
            f"Whether that is at least {manifest.acceptance.threshold!r}; null without a score.",
        ),
        *(
            (
                f"prediction_set_{rule.confidence:.0%}",
                strings,
                f"Labels not ruled out at {rule.confidence:.0%} confidence; null without answer.",
            )
            for rule in manifest.prediction_sets
        ),
        ("warnings", pa.list_(warning), "What its reader should know; empty where nothing."),
        ("release_name", pa.string(), "The model."),
        ("release_version", pa.int32(), "Its version."),
        ("release_digest", pa.string(), "SHA-256 of the release's manifest."),
        ("engine", pa.string(), "What ran it: openvino or tensorflow; null where nothing could."),
        ("precision", pa.string(), "What it computed in: f32, bf16 or int8; null as the engine."),
        ("error_code", pa.string(), "Why there is no answer, for programs; null where there is."),
        ("error", pa.string(), "Why there is no answer, as a sentence; null where there is."),
    ]
    fields = [
        pa.field(name, kind, nullable=name not in _ALWAYS, metadata={"description": text})
        for name, kind, text in columns
    ]
    return pa.schema(fields, metadata={"covid_xray_schema_version": str(SCHEMA_VERSION)})


_ALWAYS = {
    "path",
    "warnings",
    "release_name",
    "release_version",
    "release_digest",
}
"""Columns that are never null."""


def to_batch(rows: Iterable[Row], schema: pa.Schema) -> pa.RecordBatch:
    """Set rows in columns."""
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)


def of_file(path: str, release: Release, engine: Engine | None) -> Row:
    """Begin a file's row; without an engine it is one that no worker outlived."""
    return {
        "path": path,
        "warnings": [],
        "release_name": release.manifest.name,
        "release_version": release.manifest.version,
        "release_digest": release.digest,
        "engine": engine.name if engine else None,
        "precision": engine.precision if engine else None,
    }


def of_radiograph(radiograph: Radiograph) -> Row:
    """Tell what was decoded."""
    dicom = radiograph.dicom
    return {
        "sha256": radiograph.sha256,
        "format": radiograph.format,
        "width": radiograph.width,
        "height": radiograph.height,
        "study_instance_uid": dicom.study_instance_uid if dicom else None,
        "series_instance_uid": dicom.series_instance_uid if dicom else None,
        "sop_instance_uid": dicom.sop_instance_uid if dicom else None,
        "warnings": of_warnings(radiograph.warnings),
    }


def of_acceptance(acceptance: Acceptance) -> Row:
    """Tell whether it is an X-ray that the release was made for."""
    return {
        "acceptance_score": acceptance.score,
        "accepted": acceptance.is_enough,
    }


def of_decision(decision: Decision) -> Row:
    """Tell the answer."""
    sets = decision.prediction_set.items()
    return (
        {"label": decision.label}
        | {f"probability_{label}": value for label, value in decision.probabilities.items()}
        | {f"prediction_set_{confidence}": list(labels) for confidence, labels in sets}
    )


def of_warnings(warnings: Iterable[ImageWarning]) -> list[dict[str, str]]:
    """Tell warnings."""
    return [{"code": each.code, "detail": each.detail} for each in warnings]


def of_error(error: Exception) -> Row:
    """Tell why there is no answer; of an error that is none of ours its type only."""
    if isinstance(error, CovidXrayError):
        return {"error_code": error.code, "error": str(error)}
    said = f"Expected an answer; received {type(error).__name__}."
    return {"error_code": CovidXrayError.code, "error": said}
