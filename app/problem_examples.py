"""Examples in the OpenAPI document of every problem, made by the errors that the service raises."""

from typing import Any

from app.errors import (
    CardNotFound,
    CovidXrayError,
    DeadlinePassed,
    MalformedRequest,
    NotAcceptable,
    NotAChestRadiograph,
    NotReady,
    OutboxFull,
    Overloaded,
    PayloadTooLarge,
    ReleaseNotFound,
    Unauthorized,
    UnreadableImage,
    UnsupportedEncoding,
    UnsupportedImage,
    UnsupportedImageType,
    UploadStalled,
)
from app.problems import content_of
from app.schemas import Problem

_UNAUTHORIZED = Unauthorized("an API key of this service", "none")
_NOT_READY = NotReady("a loaded release", "a service that is starting or stopping")

_ON_ANY_BODY: tuple[CovidXrayError, ...] = (
    _UNAUTHORIZED,
    UploadStalled("a body without pauses of 10 s", "one"),
    PayloadTooLarge("a body of at most 67108864 bytes", "more"),
    CovidXrayError("", ""),
    Overloaded("1 free of 65 places", "0", retry_after_s=1),
    _NOT_READY,
    DeadlinePassed("an answer before the request's deadline", "none in time"),
)
_ON_ANY_UPLOAD: tuple[CovidXrayError, ...] = (
    *_ON_ANY_BODY,
    UnsupportedImageType("a PNG, JPEG or DICOM file", "a PDF"),
    UnreadableImage("an intact PNG file", "a truncated or corrupt PNG"),
    UnsupportedImage("an image of at least 64 x 64 pixels", "32 x 32"),
    NotAChestRadiograph(
        "a frontal chest X-ray, with an acceptance score of at least 0.5",
        "an image with the score 0.1",
    ),
)
_ON_FORM: tuple[CovidXrayError, ...] = (
    MalformedRequest("seconds above 0 in X-Request-Timeout, such as 2.5", "another value"),
    UnsupportedEncoding("a body without Content-Encoding", "one with it"),
)
_ON_UPLOAD: tuple[CovidXrayError, ...] = (
    *_ON_ANY_UPLOAD,
    *_ON_FORM,
    MalformedRequest("a form with the field file and a closing boundary", "a truncated one"),
    NotAcceptable("an Accept of one of application/json, application/fhir+json", "none of them"),
    UnsupportedImageType(
        "multipart/form-data with the field file, or application/dicom", "another content type"
    ),
)
_ON_BATCH: tuple[CovidXrayError, ...] = (
    *_ON_ANY_BODY,
    *_ON_FORM,
    MalformedRequest("a well-formed form with at most 16 files in the field files", "more parts"),
    MalformedRequest("a form with the field files and a closing boundary", "a truncated one"),
    UnsupportedImageType("multipart/form-data with the field files", "another content type"),
)
_ON_TENSORS: tuple[CovidXrayError, ...] = (
    _UNAUTHORIZED,
    ReleaseNotFound("the model covid19-resnet50", "another"),
    ReleaseNotFound("a version that the service lists", "another"),
    NotReady("version 3, which serves", "2"),
    _NOT_READY,
)
_ON_INFERENCE: tuple[CovidXrayError, ...] = (
    *_ON_TENSORS[1:-1],
    MalformedRequest("one input, image or file", "2"),
    UnsupportedEncoding("a Content-Encoding of gzip, deflate or none", "another"),
    *_ON_ANY_UPLOAD,
)
_STOW = 'multipart/related; type="application/dicom"'
_ON_STORE: tuple[CovidXrayError, ...] = (
    _UNAUTHORIZED,
    MalformedRequest(f"a boundary in {_STOW}", "none"),
    MalformedRequest(f"a well-formed {_STOW}", "another body"),
    MalformedRequest(f"a whole {_STOW}", "a truncated one"),
    MalformedRequest(f"at least one part in {_STOW}", "none"),
    MalformedRequest("a valid study", "another value"),
    NotAcceptable("an Accept of one of application/dicom+json, application/json", "none of them"),
    UploadStalled("a body without pauses of 10 s", "one"),
    PayloadTooLarge("at most 16 instances", "more"),
    UnsupportedImageType(f"{_STOW}, or application/dicom", "another content type"),
    UnsupportedEncoding("a body without Content-Encoding", "one with it"),
    CovidXrayError("", ""),
    Overloaded("1 free of 65 places", "0", retry_after_s=1),
    OutboxFull(
        "room for 1 of at most 1000 results and 268435456 bytes that wait for the DICOMweb server",
        "1000 that wait",
        retry_after_s=30,
    ),
    _NOT_READY,
    DeadlinePassed("an answer before the request's deadline", "none in time"),
)
_ON_MODELS: tuple[CovidXrayError, ...] = (
    _UNAUTHORIZED,
    MalformedRequest("a valid version", "another value"),
    ReleaseNotFound("a version that the service lists", "9"),
    CardNotFound("a MODEL_CARD.md in covid19-resnet50 version 1", "none"),
    _NOT_READY,
)
_ON_HEALTH: tuple[CovidXrayError, ...] = (
    _NOT_READY,
    NotReady("a service that takes requests", "a service that is stopping"),
)


def problem_examples(path: str, status: str) -> dict[str, Any]:
    """Give the problems of a path with a status, or with one of a range such as `4XX`.

    Of a range only those that no status of its own has.
    """
    problems = map(Problem.of, _errors(path))
    found = [each for each in problems if _matches(each.status, status)]
    return {
        f"{each.code}-{number}" if number else each.code: {
            "summary": each.title,
            "value": content_of(each, path),
        }
        for each, number in zip(found, _numbers(found), strict=True)
    }


def _errors(path: str) -> tuple[CovidXrayError, ...]:
    if path.startswith(("/health", "/v2/health")):
        return _ON_HEALTH
    if path.startswith("/v2"):
        return _ON_INFERENCE if path.endswith("/infer") else _ON_TENSORS
    if path.startswith("/dicomweb"):
        return _ON_STORE
    if path.startswith("/v1/models"):
        return _ON_MODELS
    return _ON_BATCH if path.endswith("/batch") else _ON_UPLOAD


def _matches(found: int, status: str) -> bool:
    if status.endswith("XX"):
        return str(found)[0] == status[0] and found != _status_of(_UNAUTHORIZED)
    return str(found) == status


def _status_of(error: CovidXrayError) -> int:
    return Problem.of(error).status


def _numbers(problems: list[Problem]) -> list[int]:
    """Count for each problem how many of the same code come before it."""
    codes = [each.code for each in problems]
    return [codes[:at].count(code) for at, code in enumerate(codes)]
