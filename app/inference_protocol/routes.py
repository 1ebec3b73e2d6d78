"""The protocol's calls. Where servers and specification differ, the status codes decide."""

import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as version_of
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response, params

from app.errors import ReleaseNotFound
from app.inference_protocol.inference import check_version, infer
from app.inference_protocol.schemas import (
    REQUEST,
    InferenceSchema,
    ModelMetadataSchema,
    ModelReadySchema,
    ServerLiveSchema,
    ServerMetadataSchema,
    ServerReadySchema,
)
from app.inference_protocol.tensors import (
    OUTPUTS,
    Answered,
    Inference,
    json_length,
    parsing_bytes,
    read_inference,
    write_answer,
)
from app.problems import INFERENCE_PROTOCOL, PROBLEM_SCHEMA, problems
from app.service import InferenceService
from app.uploads import TIMEOUT, UploadReader
from app.waiting import unless_disconnected

JSON = "application/json"
BINARY = "application/octet-stream"
LENGTH_HEADER = "Inference-Header-Content-Length"
_PACKAGE = "covid-xray"

_ERROR: dict[str, Any] = {
    "allOf": [
        PROBLEM_SCHEMA,
        {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {"type": "string", "description": "`detail`, as the protocol calls it."}
            },
        },
    ]
}


def _problems(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    return problems(*statuses, schema=_ERROR)


_BINARY_SCHEMA = {"type": "string", "format": "binary"}
_INFERENCE: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": REQUEST}, BINARY: {"schema": _BINARY_SCHEMA}},
        },
        "parameters": [
            TIMEOUT,
            {
                "name": LENGTH_HEADER,
                "in": "header",
                "description": "Bytes of JSON, where tensors are behind it in binary.",
                "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"},
            },
        ],
    },
    "response_model": InferenceSchema,
    "responses": {
        200: {
            "content": {BINARY: {"schema": _BINARY_SCHEMA}},
            "headers": {
                LENGTH_HEADER: {
                    "description": "Bytes of JSON, where tensors are behind it in binary.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            },
        },
        **_problems(400, 404, 408, 413, 415, 422, 500, 503, 504),
    },
}

health = APIRouter(prefix=f"{INFERENCE_PROTOCOL}/health", tags=["Open Inference Protocol"])
v2 = APIRouter(
    prefix=INFERENCE_PROTOCOL, tags=["Open Inference Protocol"], responses=_problems(401)
)
_KNOWN = _problems(503, "4XX")


@dataclass(frozen=True, slots=True, eq=False)
class _Upload:
    """What is asked for, and when its answer must be ready (`time.monotonic`)."""

    inference: Inference
    deadline: float


async def _service(request: Request) -> InferenceService:
    service: InferenceService = request.app.state.service
    return service


Service = Annotated[InferenceService, Depends(_service)]


async def _read(request: Request, service: Service) -> AsyncIterator[_Upload]:
    reader: UploadReader = request.app.state.uploads
    async with reader.read_body(request) as upload:
        (body,) = upload.files
        length = json_length(request.headers.get(LENGTH_HEADER), len(body))
        read = partial(read_inference, body, length, reader.limits.max_batch)
        cost = parsing_bytes(body, length)
        retry_after_s = service.scheduler.retry_after_s
        async with reader.parse(upload, cost, read, retry_after_s) as inference:
            waits_s = math.inf if inference.timeout_s is None else inference.timeout_s
            yield _Upload(inference, min(upload.deadline, time.monotonic() + waits_s))


@dataclass(frozen=True, slots=True)
class _Target:
    """The model in a path: its name, and which version is meant where one is."""

    name: str
    version: int | None
    serving: int


async def _find_model(request: Request, service: Service, name: str) -> _Target:
    """Look up what a path names; it may not be what serves.

    Raises:
        ReleaseNotFound: There is no such model, or no such version of it.
    """
    serving = service.registry.serving.release.manifest
    if name != serving.name:
        raise ReleaseNotFound(f"the model {serving.name}", "another")
    version = request.path_params.get("version")  # as an argument it would be of the query, too
    if version is None:
        return _Target(name, None, serving.version)
    known = {str(entry.version): entry.version for entry in service.registry.entries}
    if version not in known:
        raise ReleaseNotFound("a version that the service lists", "another")
    return _Target(name, known[version], serving.version)


async def _name_version(version: str) -> None:
    """Let the OpenAPI document know what `_find_model` takes from the path."""
    del version


_VERSIONED = [Depends(_name_version)]
Body = Annotated[_Upload, Depends(_read, scope="function")]


@health.get("/live")
async def is_live() -> ServerLiveSchema:
    """Tell that the process answers."""
    return ServerLiveSchema()


@health.get("/ready", responses=_problems(503))
async def is_ready(service: Service) -> ServerReadySchema:
    """Tell that a release is loaded and warm, and that the service is not about to stop."""
    service.check_ready()
    return ServerReadySchema()


@v2.get("")
async def describe_server() -> ServerMetadataSchema:
    """Name the server, and the extensions that it knows."""
    return ServerMetadataSchema(name=_PACKAGE, version=version_of(_PACKAGE))


@v2.get("/models/{name}", responses=_KNOWN)
@v2.get("/models/{name}/versions/{version}", responses=_KNOWN, dependencies=_VERSIONED)
async def describe_model(target: Annotated[_Target, Depends(_find_model)]) -> ModelMetadataSchema:
    """Tell the tensors that a model takes and gives."""
    return ModelMetadataSchema.of(target.name, target.serving)


@v2.get("/models/{name}/ready", responses=_KNOWN)
@v2.get("/models/{name}/versions/{version}/ready", responses=_KNOWN, dependencies=_VERSIONED)
async def is_model_ready(
    service: Service, target: Annotated[_Target, Depends(_find_model)]
) -> ModelReadySchema:
    """Tell that a model answers, or a version of it."""
    service.check_ready()
    check_version(service, target.version)
    return ModelReadySchema(name=target.name)


@v2.post("/models/{name}/infer", **_INFERENCE)
@v2.post("/models/{name}/versions/{version}/infer", **_INFERENCE, dependencies=_VERSIONED)
async def run_model(
    request: Request,
    service: Service,
    target: Annotated[_Target, Depends(_find_model)],
    upload: Body,
) -> Response:
    """Give what the model says of images, row by row: of `image`, or of `file`.

    `image`: UINT8 `[N, 224, 224, 1]`. `file`: BYTES `[N]`, each a PNG, JPEG or DICOM file; in JSON
    in base64. No row is refused by its acceptance score: that is an output.
    """
    work = infer(service, upload.inference.rows, upload.deadline, target.version)
    manifest, predictions = await unless_disconnected(request, work)
    thresholds = {
        "decision_threshold": manifest.decision.threshold,
        "acceptance_threshold": manifest.acceptance.threshold,
    }
    body, length = write_answer(
        upload.inference,
        Answered(manifest.name, manifest.version, thresholds),
        {name: getattr(predictions, name) for name in OUTPUTS},
    )
    if length is None:
        return Response(body, media_type=JSON)
    return Response(body, headers={LENGTH_HEADER: str(length)}, media_type=BINARY)


def add_inference_protocol(app: FastAPI, schemes: Sequence[params.Depends]) -> None:
    """Add the protocol's routes.

    Args:
        app: What gets them.
        schemes: How a client may say who it is, for the documentation.
    """
    app.include_router(health)
    app.include_router(v2, dependencies=schemes)
