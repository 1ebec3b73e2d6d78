"""What the routes of every API take from a request."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from app.service import InferenceService
from app.uploads import SECONDS, TIMEOUT_HEADER, UploadReader

T = TypeVar("T")

TIMEOUT: dict[str, Any] = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "description": "Seconds in which the answer is of use; after them its work is dropped.",
    "schema": {"type": "string", "pattern": f"^{SECONDS}$", "examples": ["2.5"]},
}
"""Of a call that takes an upload, for the documentation."""


def upload_reader(request: Request) -> UploadReader:
    """Give what reads all uploads."""
    reader: UploadReader = request.app.state.uploads
    return reader


def _service(request: Request) -> InferenceService:
    service: InferenceService = request.app.state.service
    return service


Service = Annotated[InferenceService, Depends(_service)]


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for an answer, and cancel it where the client goes away: nobody would read it.

    Raises:
        ClientDisconnect: The client went away.
    """
    answer = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()
        await asyncio.wait({answer, gone})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
