"""HTTP in and out. Whatever is decided about an image is decided in `app.service`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from app.bodies import DICOM, MULTIPART
from app.dicomweb.delivery import Delivery
from app.dicomweb.outbox import Outbox
from app.dicomweb.routes import make_router, studies
from app.errors import (
    CovidXrayError,
    MalformedRequest,
    NotReady,
    Overloaded,
    UnsupportedEncoding,
)
from app.gate import Gate
from app.inference_protocol.routes import add_inference_protocol, v2
from app.negotiation import Form, describe_forms, read_form
from app.observability import note_problem
from app.openapi import documented
from app.overlay import OPACITY
from app.page import add_page
from app.problems import answer, problems, retry_after_s, to_problem
from app.schemas import (
    AliveSchema,
    PredictionSchema,
    Problem,
    ReadySchema,
    ReleaseDetailSchema,
    ReleaseSchema,
    ReleasesSchema,
)
from app.security import HEADERS
from app.service import InferenceService
from app.uploads import TIMEOUT, Upload, UploadReader
from app.waiting import unless_disconnected

MARKDOWN = "text/markdown"

DESCRIPTION = """Reads a frontal chest X-ray (PNG, JPEG or DICOM), and answers with the
probabilities of COVID-19 and Normal.

**Research software, no medical device.** It must not be used to diagnose or to decide on treatment.
It knows two classes only: a pneumonia that is not COVID-19, and any other finding, is neither of
them, and what it answers for such an X-ray means nothing: the shipped release calls 27% of 200
X-rays with other pneumonia COVID-19. Uploads are kept in memory only."""


async def _read_file(request: Request) -> AsyncIterator[Upload]:
    async with _reader(request).read(request, "file", 1, bare=True) as upload:
        yield upload


async def _read_batch(request: Request) -> AsyncIterator[Upload]:
    reader = _reader(request)
    async with reader.read(request, "files", reader.limits.max_batch) as upload:
        yield upload


def _reader(request: Request) -> UploadReader:
    reader: UploadReader = request.app.state.uploads
    return reader


async def _service(request: Request) -> InferenceService:
    service: InferenceService = request.app.state.service
    return service


Service = Annotated[InferenceService, Depends(_service)]
Wanted = Annotated[Form, Depends(read_form, scope="function")]
File = Annotated[Upload, Depends(_read_file, scope="function")]
Version = Annotated[int, Path(ge=1)]
Opacity = Annotated[
    float, Query(ge=0, le=1, description="Of the hottest point; 0 gives the X-ray alone.")
]
WithLegend = Annotated[
    bool, Query(description="Whether a legend below the X-ray says what is seen.")
]
Batch = Annotated[Upload, Depends(_read_batch, scope="function")]


_VALID = {"opacity": "an opacity from 0 to 1"}
"""What is expected of a parameter, where its name does not say it."""
_BINARY = {"type": "string", "format": "binary"}


def _form(field: str, schema: dict[str, Any], *bare: str) -> dict[str, Any]:
    """Describe a form in OpenAPI; `format: binary` is what Swagger UI shows a file chooser for.

    Args:
        field: Where its files are.
        schema: Of the field.
        bare: Content types of files that may be the whole body instead.
    """
    form = {"type": "object", "required": [field], "properties": {field: schema}}
    content = {MULTIPART: {"schema": form}} | {each: {"schema": _BINARY} for each in bare}
    body = {"required": True, "content": content}
    return {"requestBody": body, "parameters": [TIMEOUT]}


DOCUMENTATION: dict[str, Any] = {
    "title": "COVID-19 chest X-ray inference",
    "version": version("covid-xray"),
    "description": DESCRIPTION,
    "redoc_url": None,
    "swagger_ui_parameters": {"validatorUrl": None},  # which would be asked over the internet
}

_ONE = _form(
    "file", {**_BINARY, "description": "A frontal chest X-ray, as PNG, JPEG or DICOM."}, DICOM
)
_MANY = _form("files", {"type": "array", "items": _BINARY, "minItems": 1})
_ON_UPLOAD = problems(400, 408, 413, 415, 422, 500, 503, 504)

health = APIRouter(prefix="/health", tags=["health"])
v1 = APIRouter(prefix="/v1", responses=problems(401))


@v1.post(
    "/predictions",
    tags=["predictions"],
    openapi_extra=_ONE,
    response_model=PredictionSchema,
    responses={200: describe_forms(), **problems(406), **_ON_UPLOAD},
)
async def predict(
    request: Request, service: Service, wanted: Wanted, upload: File
) -> PredictionSchema | Response:
    """Read one chest X-ray, and answer with the probabilities of COVID-19 and Normal.

    In JSON, or where `Accept` says so as an Observation of FHIR or, of a DICOM file, as a DICOM
    Structured Report.
    """
    (data,) = upload.files
    return await unless_disconnected(request, service.report(data, upload.deadline, wanted.write))


@v1.post(
    "/predictions/batch",
    tags=["predictions"],
    openapi_extra=_MANY,
    responses=problems(400, 408, 413, 415, 500, 503, 504),
)
async def predict_batch(
    request: Request, service: Service, upload: Batch
) -> list[PredictionSchema | Problem]:
    """Read several chest X-rays: for each, in the order sent, a prediction or a problem."""
    work = service.predict_batch(upload.files, upload.deadline)
    return [
        to_problem(item)
        if isinstance(item, CovidXrayError)
        else PredictionSchema.model_validate(item)
        for item in await unless_disconnected(request, work)
    ]


@v1.post(
    "/heatmaps",
    tags=["predictions"],
    openapi_extra=_ONE,
    response_class=Response,
    responses={
        200: {"content": {"image/png": {"schema": _BINARY}}, "description": "The picture"},
        **_ON_UPLOAD,
    },
)
async def draw_heatmap(
    request: Request,
    service: Service,
    upload: File,
    opacity: Opacity = OPACITY,
    *,
    legend: WithLegend = True,
) -> Response:
    """Draw where in the X-ray the model sees COVID-19: the brighter, the more it counted."""
    (data,) = upload.files
    work = service.explain(data, upload.deadline, opacity, legend=legend)
    return Response(await unless_disconnected(request, work), media_type="image/png")


@v1.get("/models", tags=["models"], responses=problems(503))
async def list_models(service: Service) -> ReleasesSchema:
    """List the versions in the model store, the newest first, and what is done with each."""
    registry = service.registry
    serving = registry.serving
    return ReleasesSchema(models=[ReleaseSchema.of(each, serving) for each in registry.entries])


@v1.get("/models/{version}", tags=["models"], responses=problems(503, "4XX"))
async def show_model(service: Service, version: Version) -> ReleaseDetailSchema:
    """Show one version with its manifest: thresholds, metrics by cohort, how it was trained."""
    registry = service.registry
    return ReleaseDetailSchema.of(registry.entry(version), registry.serving)


@v1.get(
    "/models/{version}/card",
    tags=["models"],
    response_class=Response,
    responses={
        200: {"content": {MARKDOWN: {"schema": {"type": "string"}}}, "description": "The card"},
        **problems(503, "4XX"),
    },
)
async def show_card(service: Service, version: Version) -> Response:
    """Show one version's model card: what it is for, how good it is, where it fails (Markdown)."""
    card = await asyncio.to_thread(service.registry.read_card, version)
    return Response(card, media_type=f"{MARKDOWN}; charset=utf-8")


@health.get("/live")
async def is_alive() -> AliveSchema:
    """Tell that the process answers."""
    return AliveSchema()


@health.get("/ready", responses=problems(503))
async def is_ready(request: Request, service: Service) -> ReadySchema:
    """Tell that a release is loaded and warm, and that the service is not about to stop."""
    manifest = service.check_ready()
    outbox: Outbox | None = request.app.state.outbox
    waiting = outbox.state.items if outbox else None
    return ReadySchema(name=manifest.name, version=manifest.version, waiting_results=waiting)


def add_routes(app: FastAPI, schemes: Sequence[params.Depends], delivery: Delivery) -> None:
    """Add all routes, and answer every error with a problem.

    Args:
        app: What gets them.
        schemes: How a client of `/v1` may say who it is, for the documentation.
        delivery: Where results of DICOMweb go.
    """
    app.include_router(v1, dependencies=schemes)
    app.include_router(make_router(delivery), dependencies=schemes)
    app.include_router(health)
    add_inference_protocol(app, schemes)
    app.add_middleware(Gate, routes=_uploads(v1, studies, v2))
    add_page(app)
    max_batch = app.state.uploads.limits.max_batch
    app.openapi = documented(app.openapi, max_batch)  # type: ignore[method-assign]  # as FastAPI has it extended

    @app.exception_handler(CovidXrayError)
    async def _known(request: Request, error: CovidXrayError) -> JSONResponse:
        return answer(to_problem(error), _headers(error), path=request.scope["path"])

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        problem = Problem.of_status(error.status_code)
        return answer(problem, error.headers, path=request.scope["path"])

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = first["loc"][1]
        values = first.get("ctx", {}).get("expected")
        expected = f"{where} of {values}" if values else _VALID.get(where, f"a valid {where}")
        return answer(to_problem(MalformedRequest(expected, "another value")))

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it

    @app.exception_handler(Exception)
    async def _unknown(request: Request, _: Exception) -> JSONResponse:  # outside of all middleware
        note_problem(CovidXrayError.code)
        return answer(Problem.internal(), HEADERS, path=request.scope["path"])


def _uploads(*routers: APIRouter) -> list[Route]:
    routes = [each for router in routers for each in router.routes if isinstance(each, Route)]
    return [each for each in routes if "POST" in (each.methods or ())]


def _headers(error: CovidXrayError) -> dict[str, str]:
    """Tell when to try again, or in which coding (RFC 9110, 12.5.3)."""
    if isinstance(error, Overloaded):
        return {"Retry-After": str(retry_after_s(error))}
    if isinstance(error, UnsupportedEncoding):
        return {"Accept-Encoding": ", ".join(error.read)}
    return {"Retry-After": "1"} if isinstance(error, NotReady) else {}
