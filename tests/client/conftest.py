import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from covid_xray import AsyncClient, Client

Answer = httpx.Response | Exception
Asked = Callable[..., Awaitable[Any]]

PREDICTION: dict[str, Any] = {
    "id": str(uuid4()),
    "label": "Normal",
    "probabilities": {"COVID-19": 0.2, "Normal": 0.8},
    "decision_threshold": 0.5,
    "prediction_set": {"90%": ["Normal"], "95%": []},
    "acceptance": {"score": 0.9, "threshold": 0.5},
    "warnings": [{"code": "bit-depth-inferred", "detail": "It was scaled."}],
    "image": {"format": "PNG", "width": 640, "height": 524, "sha256": "5f" * 32},
    "model": {"name": "covid19-resnet50", "version": 3, "digest": "6b" * 32},
    "timings_ms": {"total": 28.1},
}
PROBLEM: dict[str, Any] = {
    "type": "urn:covid-xray:problem:overloaded",
    "title": "The service is overloaded",
    "status": 503,
    "detail": "Expected a place; received none.",
    "code": "overloaded",
    "expected": "a place",
    "received": "none",
}


def problem(status: int = 503, **headers: str) -> httpx.Response:
    """Make the answer that carries a problem."""
    content = json.dumps(PROBLEM | {"status": status}).encode()
    headers = {"content-type": "application/problem+json"} | headers
    return httpx.Response(status, content=content, headers=headers)


def prediction() -> httpx.Response:
    return httpx.Response(200, json=PREDICTION)


class Service:
    """Stands for the service: gives answers in their order, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: Iterator[Answer] = iter(())
        self.requests: list[httpx.Request] = []

    def will(self, *answers: Answer) -> None:
        self.answers = iter(answers)

    def handle(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    async def handle_async(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self.handle(request)


class Sleeps(list[float]):
    """What was slept, in seconds, without sleeping."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)

    async def sleep_async(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    sleeps = Sleeps()
    monkeypatch.setattr("covid_xray.client.time.sleep", sleeps.sleep)
    monkeypatch.setattr("covid_xray.client.anyio.sleep", sleeps.sleep_async)
    return sleeps


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, service: Service) -> Asked:
    """Call a method of either client: `await ask("predict", image, retries=...)`."""

    async def ask_sync(method: str, *arguments: object, **options: Any) -> object:
        call = options.pop("call", {})
        transport = httpx.MockTransport(service.handle)
        with Client("http://test", transport=transport, **options) as client:
            return getattr(client, method)(*arguments, **call)

    async def ask_async(method: str, *arguments: object, **options: Any) -> object:
        call = options.pop("call", {})
        transport = httpx.MockTransport(service.handle_async)
        async with AsyncClient("http://test", transport=transport, **options) as client:
            return await getattr(client, method)(*arguments, **call)

    return ask_sync if request.param == "sync" else ask_async
