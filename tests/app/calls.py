"""What tests of the HTTP interface send and expect."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

PREDICTIONS = "/v1/predictions"
BATCH = "/v1/predictions/batch"
HEATMAPS = "/v1/heatmaps"


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] in (f"urn:covid-xray:problem:{code}", "about:blank")
    assert problem["title"]
    assert problem["detail"]
    return problem


def multipart(content: bytes) -> tuple[bytes, dict[str, str]]:
    request = httpx.Request("POST", "http://test", files={"file": content})
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
