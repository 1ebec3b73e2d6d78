"""What tests of the HTTP interface send and expect."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

PREDICTIONS = "/v1/predictions"
BATCH = "/v1/predictions/batch"
HEATMAPS = "/v1/heatmaps"

STAGES = {"receive", "queue", "decode", "inference", "encode"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@asynccontextmanager
async def asking(app: FastAPI, *, raises: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """Start a service, and give a client of it; whether its failures are raised, or a 500."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] in (f"urn:covid-xray:problem:{code}", "about:blank")
    assert problem["title"]
    assert problem["detail"]
    return problem


def multipart(content: bytes, name: str = "upload") -> tuple[bytes, dict[str, str]]:
    """Write a form with a file: its body, and its headers."""
    request = httpx.Request("POST", "http://test", files={"file": (name, content)})
    return request.read(), {"content-type": request.headers["content-type"]}


class Body:
    """A body that arrives in chunks, and knows how much of it was asked for."""

    def __init__(self, content: bytes, chunk: int = 50_000) -> None:
        self._content = content
        self._chunk = chunk
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._content), self._chunk):
            part = self._content[at : at + self._chunk]
            self.sent += len(part)
            yield part


class Leaver:
    """A client of an ASGI application that sends a form, and leaves before it is answered.

    Args:
        path: That it asks for.
        body: The form.
        headers: The form's.
    """

    def __init__(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        self._messages: Iterator[dict[str, Any]] = iter(
            [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
        )
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        }

    async def receive(self) -> dict[str, Any]:
        return next(self._messages)

    async def send(self, message: object) -> None:
        """Read nothing."""


def related(*parts: bytes, kind: str = "application/dicom") -> tuple[bytes, dict[str, str]]:
    """Write a body of multipart/related: it, and its headers."""
    head = f"--limit\r\nContent-Type: {kind}\r\n\r\n".encode()
    body = b"".join(head + part + b"\r\n" for part in parts) + b"--limit--\r\n"
    return body, {"content-type": f'multipart/related; type="{kind}"; boundary=limit'}
