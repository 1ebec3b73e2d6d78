"""Examples in the OpenAPI document: of every answer in JSON or Markdown, and of every problem.

The problems are made by the errors that the service raises. A test holds every example against its
schema, and those that can be brought about against what the service really answers.
"""

from typing import Any

from app.errors import UnsupportedImageType
from app.problem_examples import problem_examples
from app.schemas import Problem

Json = dict[str, Any]

_PROBLEM = "application/problem+json"

_MODEL: Json = {
    "name": "covid19-resnet50",
    "version": 3,
    "digest": "1b1d8cb75a6c807e207f6b0b1a7c16598a85dd7efc38fa3e57afabc26ef4ad97",
}
_PREDICTION: Json = {
    "id": "ee1fa6b6-34e4-488b-83b8-6b7a6448a652",
    "label": "COVID-19",
    "probabilities": {"COVID-19": 0.9963417649269104, "Normal": 0.0036582350730896},
    "decision_threshold": 0.12572511725609958,
    "prediction_set": {"90%": ["COVID-19"], "95%": ["COVID-19"]},
    "acceptance": {"score": 0.9949732422828674, "threshold": 0.26712753347305485},
    "warnings": [],
    "image": {
        "format": "PNG",
        "width": 640,
        "height": 524,
        "sha256": "7b4d7e24c5ca509736433b86b0af3e3af9acc1b39b1a6e49e92f7bea05dbfa12",
    },
    "model": _MODEL,
    "timings_ms": {"decode": 7.744, "queue": 0.15, "inference": 52.366, "total": 60.259},
}
_UNCERTAIN: Json = _PREDICTION | {
    "id": "0d5c3a4e-6a3f-4b1c-9f0e-5a4d2f7f4f60",
    "probabilities": {"COVID-19": 0.31, "Normal": 0.69},
    "prediction_set": {"90%": [], "95%": []},
    "warnings": [
        {
            "code": "bit-depth-inferred",
            "detail": "A 16-bit image that uses 12 bits only; it was scaled by these.",
        }
    ],
}
_SERVING: Json = _MODEL | {
    "state": "serving",
    "reason": None,
    "created": "2026-11-23T22:28:25Z",
    "engine": "openvino",
    "precision": "f32",
}
_REFUSED: Json = {
    "name": "covid19-resnet50",
    "version": 2,
    "state": "refused",
    "reason": "release-invalid: Expected every file that covid19-resnet50/2/manifest.json lists; "
    "received no MODEL_CARD.md.",
    "digest": None,
    "created": None,
    "engine": None,
    "precision": None,
}
_MANIFEST: Json = {
    "schema_version": 1,
    "name": "covid19-resnet50",
    "version": 3,
    "created": "2026-11-23T22:28:25Z",
    "labels": ["COVID-19", "Normal"],
    "input": {
        "tensor": "image",
        "dtype": "uint8",
        "shape": [None, 224, 224, 1],
        "resize": "stretch-224x224-bilinear-antialias-v1",
    },
    "decision": {
        "threshold": 0.12572511725609958,
        "rule": "the best specificity among thresholds whose sensitivity on the validation split "
        "(684 images, of which those that acceptance refuses count as missed) is at least 0.95",
    },
    "temperature": 0.7404085778288846,
    "bias": 0.16730772465015992,
    "acceptance": {
        "trained": True,
        "threshold": 0.26712753347305485,
        "rule": "halfway between what 99% of X-rays reach and 99% of other images stay below",
        "refused": [{"name": "test: rsna-adult / Normal", "images": 400, "share": 0.005}],
        "accepted_foreign": [{"name": "CT slice", "images": 36, "share": 0.0}],
    },
    "prediction_sets": [
        {
            "confidence": 0.95,
            "least": {"COVID-19": 0.6014749843080972, "Normal": 0.8641189766115189},
            "images": {"COVID-19": 284, "Normal": 400},
        }
    ],
    "metrics": [
        {
            "name": "all",
            "split": "test",
            "images": {"COVID-19": 285, "Normal": 400},
            "metrics": {"auc": {"value": 0.993, "low": 0.987, "high": 0.997}},
        }
    ],
    "controls": [
        {
            "name": "the central two thirds of both sides black",
            "auc": {"value": 0.690, "low": 0.651, "high": 0.728},
        }
    ],
    "mistakes": [{"file": "Normal/1.png", "label": "Normal", "probability": 0.9892621636390686}],
    "precisions": {"openvino": ["f32"], "tensorflow": ["f32"]},
    "golden": {
        "probabilities": [0.41073212027549744, 0.5892678797245026],
        "acceptance": 0.0032985194120556116,
        "heatmap_mean": 0.2800067067146301,
        "tolerance": 0.01,
        "reduced_tolerance": 0.05,
    },
    "training": {
        "command": "python -m training run --data DIR --config training/configs/release.toml",
        "config": {"name": "covid19-resnet50"},
        "seed": 20,
        "continued_from": None,
        "backbone": "none",
        "epochs": 37,
        "packages": {"tensorflow": "2.21.0"},
        "python": "3.11.7",
        "hardware": "x86_64, 2 cores",
        "dataset": {"fingerprint": "0f" * 32, "images": {"test": {"COVID-19": 285, "Normal": 400}}},
    },
    "files": {"saved_model.pb": "0287b42f" * 8, "MODEL_CARD.md": "8fa55b7e" * 8},
}
_SERVER: Json = {"name": "covid-xray", "version": "0.1.0", "extensions": ["binary_tensor_data"]}
_TENSORS: Json = {
    "platform": "tensorflow_savedmodel",
    "inputs": [
        {"name": "image", "datatype": "UINT8", "shape": [-1, 224, 224, 1]},
        {"name": "file", "datatype": "BYTES", "shape": [-1]},
    ],
    "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "heatmap", "datatype": "FP32", "shape": [-1, 7, 7]},
        {"name": "acceptance", "datatype": "FP32", "shape": [-1]},
    ],
}
_CARD = """# Model card: covid19-resnet50, version 3

**Research software, no medical device.** It must not be used to diagnose, to triage or to rule out
COVID-19 in anybody.
"""


_REFERENCE: Json = {
    "00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.1.1"]},
    "00081155": {"vr": "UI", "Value": ["2.25.93"]},
}
_STORED_ITEM: Json = {**_REFERENCE, "00081190": {"vr": "UR"}}


def _example(summary: str, value: object) -> Json:
    return {"summary": summary, "value": value}


def _failed(reason: int) -> Json:
    return {**_REFERENCE, "00081197": {"vr": "US", "Value": [reason]}}


STORED: Json = {
    "analysed": _example(
        "An instance was analysed",
        {"00081190": {"vr": "UR"}, "00081199": {"vr": "SQ", "Value": [_STORED_ITEM]}},
    ),
    "lateral": _example(
        "One was, another is a lateral view (A900)",
        {
            "00081190": {"vr": "UR"},
            "00081198": {"vr": "SQ", "Value": [_failed(0xA900)]},
            "00081199": {"vr": "SQ", "Value": [_STORED_ITEM]},
        },
    ),
    "unnamed": _example(
        "One has no header that can be read (C000)",
        {
            "00081190": {"vr": "UR"},
            "0008119A": {
                "vr": "SQ",
                "Value": [{"00081197": {"vr": "US", "Value": [0xC000]}}],
            },
        },
    ),
}
"""Answers to STOW-RS, by name."""


def _answers() -> dict[tuple[str, str], Json]:
    """Path and media type → examples by name."""
    spoiled = Problem.of(UnsupportedImageType("a PNG, JPEG or DICOM file", "a PDF"))
    batch = [_PREDICTION, spoiled.model_dump(exclude_none=True)]
    tensors: Json = {"name": "covid19-resnet50", "versions": ["3"]} | _TENSORS
    inferred: Json = {
        "model_name": "covid19-resnet50",
        "model_version": "3",
        "parameters": {"decision_threshold": 0.125725, "acceptance_threshold": 0.267127},
        "outputs": [
            {
                "name": "probabilities",
                "datatype": "FP32",
                "shape": [1, 2],
                "data": [0.9963417649269104, 0.0036582350730896],
            }
        ],
    }
    ready = {"status": "ready", "name": "covid19-resnet50", "version": 3}
    json, markdown = "application/json", "text/markdown"
    return {
        ("/v1/predictions", json): {
            "sure": _example("One label is left", _PREDICTION),
            "unsure": _example("No label is sure enough, and a warning", _UNCERTAIN),
        },
        ("/v1/predictions/batch", json): {"mixed": _example("One of two is no X-ray", batch)},
        ("/v1/models", json): {
            "two": _example("One serves, one was refused", {"models": [_SERVING, _REFUSED]})
        },
        ("/v1/models/{version}", json): {
            "serving": _example("The version that serves", _SERVING | {"manifest": _MANIFEST})
        },
        ("/v1/models/{version}/card", markdown): {"card": _example("Its beginning", _CARD)},
        ("/health/live", json): {"alive": _example("The process answers", {"status": "alive"})},
        ("/health/ready", json): {"ready": _example("A release is loaded and warm", ready)},
        ("/v2", json): {"server": _example("The server", _SERVER)},
        ("/v2/health/live", json): {"live": _example("The process answers", {"live": True})},
        ("/v2/health/ready", json): {"ready": _example("A release is loaded", {"ready": True})},
        **{
            (f"/v2/models/{{name}}{version}{call}", json): {"example": _example(summary, value)}
            for version in ("", "/versions/{version}")
            for call, summary, value in (
                ("", "The tensors of the model", tensors),
                ("/ready", "It answers", {"ready": True, "name": "covid19-resnet50"}),
                ("/infer", "One output of one image", inferred),
            )
        },
    }


def add_examples(document: Json) -> Json:
    """Add examples to all answers of an OpenAPI document that has the service's paths."""
    answers = _answers()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                for media_type, content in response.get("content", {}).items():
                    examples = (
                        problem_examples(path, status)
                        if media_type == _PROBLEM
                        else answers.get((path, media_type))
                    )
                    if examples:
                        content["examples"] = examples
    return document
