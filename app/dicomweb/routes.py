"""STOW-RS over HTTP (PS3.18, 10.5): instances come, results go on, and nothing is stored."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response

from app.bodies import DICOM, Chunks, media_type, read_bare
from app.dicomweb.delivery import Delivery, open_outbox
from app.dicomweb.instances import Analyst, Outcome
from app.dicomweb.outbox import Outbox
from app.dicomweb.related import RELATED, read_related
from app.dicomweb.response import status_of, write_response
from app.errors import InputError
from app.examples import STORED
from app.imaging import MAX_UID, UID
from app.negotiation import choose
from app.observability import note_problem
from app.problems import problems, to_problem
from app.service import InferenceService
from app.uploads import TIMEOUT, Upload, UploadReader
from app.waiting import unless_disconnected

DICOM_JSON = "application/dicom+json"
OFFERS = (DICOM_JSON, "application/json")
"""What is answered; both are the same. DICOM's XML is not among them."""


async def _wanted(request: Request) -> str:
    return choose(",".join(request.headers.getlist("accept")), OFFERS)


async def _outbox(request: Request) -> Outbox | None:
    """Find the outbox, and refuse a body that is of no use while it is full."""
    outbox: Outbox | None = request.app.state.outbox
    if outbox:
        outbox.check_room()
    return outbox


Wanted = Annotated[str, Depends(_wanted, scope="function")]
Results = Annotated[Outbox | None, Depends(_outbox, scope="function")]


async def _read_instances(request: Request, _: Wanted, __: Results) -> AsyncIterator[Upload]:
    reader: UploadReader = request.app.state.uploads

    async def take(chunks: Chunks) -> list[bytes]:
        if media_type(request) == DICOM:
            return [await read_bare(chunks)]
        content_type = request.headers.get("content-type", "")
        return await read_related(chunks, content_type, reader.limits.max_batch)

    async with reader.read_by(request, take) as upload:
        yield upload


Instances = Annotated[Upload, Depends(_read_instances, scope="function")]
Study = Annotated[
    str,
    Path(
        description="Study instance UID that all instances have.",
        max_length=MAX_UID,
        pattern=f"^{UID}$",
    ),
]

_BINARY = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            RELATED: {
                "schema": {
                    **_BINARY,
                    "description": f'With `type="{DICOM}"` and a `boundary`: each part a DICOM '
                    "file.",
                }
            },
            DICOM: {"schema": _BINARY},
        },
    },
    "parameters": [TIMEOUT],
}
_MODULE = {
    "schema": {
        "type": "object",
        "description": "The Store Instances Response Module (PS3.18, Annex I).",
        "required": ["00081190"],
    },
    "examples": STORED,
}


def _answers(**descriptions: str) -> dict[int | str, dict[str, Any]]:
    """Describe the statuses that have the module."""
    return {
        int(status.removeprefix("s")): {
            "description": description,
            "content": dict.fromkeys(OFFERS, _MODULE),
        }
        for status, description in descriptions.items()
    }


_ANALYSED = _answers(
    s200="Each instance was analysed.",
    s202="Some were; why the others were not, or what to be wary of, is in the answer.",
    s409="None was: the answer says why.",
)

studies = APIRouter(prefix="/dicomweb", tags=["dicomweb"], responses=problems(401))


@studies.post(
    "/studies",
    openapi_extra=_BODY,
    responses={**_ANALYSED, **problems(400, 406, 408, 413, 415, 500, 503, 504)},
    response_class=Response,
)
async def store(request: Request, upload: Instances, outbox: Results, accepted: Wanted) -> Response:
    """Analyse DICOM instances, as STOW-RS brings them; nothing of them is stored.

    By `COVID_XRAY_DICOMWEB_URL` the result of each, a Structured Report and a Secondary Capture,
    goes to a DICOMweb server. An image that is no frontal chest X-ray fails with the reason
    `A900`, and the others do not with it.
    """
    return await _analyse(request, upload, outbox, accepted)


@studies.post(
    "/studies/{study}",
    openapi_extra=_BODY,
    responses={**_ANALYSED, **problems(500, 503, 504, "4XX")},
    response_class=Response,
)
async def store_of_study(
    request: Request, upload: Instances, outbox: Results, accepted: Wanted, study: Study
) -> Response:
    """Analyse DICOM instances of one study; one of another fails with the reason `A901`."""
    return await _analyse(request, upload, outbox, accepted, study)


def make_router(delivery: Delivery) -> APIRouter:
    """Make the routes; as long as the application runs it has an outbox.

    Args:
        delivery: Where results go.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_outbox(delivery) as app.state.outbox:
            yield

    router = APIRouter(lifespan=lifespan)
    router.include_router(studies)
    return router


async def _analyse(
    request: Request,
    upload: Upload,
    outbox: Outbox | None,
    accepted: str,
    study: str | None = None,
) -> Response:
    service: InferenceService = request.app.state.service
    work = Analyst(service, outbox, study).analyse(upload.files, upload.deadline)
    outcomes = await unless_disconnected(request, work)
    _note(outcomes)
    content = await asyncio.to_thread(write_response, outcomes)
    return Response(content, int(status_of(outcomes)), media_type=accepted)


def _note(outcomes: Sequence[Outcome]) -> None:
    """Count the problems; those that are the service's own are logged."""
    for outcome in outcomes:
        if isinstance(outcome.error, InputError):
            note_problem(outcome.error.code)
        elif outcome.error:
            to_problem(outcome.error)
