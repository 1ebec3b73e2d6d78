import asyncio
import gc
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from app import gate
from app.api_keys import key_line
from app.bodies import DICOM
from app.gate import Pace
from app.server import spare_collector
from tests import fakes
from tests.app.calls import BATCH, HEATMAPS, PREDICTIONS, check_problem
from tests.fakes import gray_png

pytestmark = pytest.mark.anyio

Full = Callable[..., AbstractAsyncContextManager[FastAPI]]


class Exchange:
    """A POST to an application, with a body that comes in three pieces."""

    def __init__(self, path: str = PREDICTIONS, **headers: str) -> None:
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self._sent: list[Message] = []
        self.pieces = 3

    async def through(self, app: FastAPI) -> httpx.Response:
        await app(self._scope, self._receive, self._send)
        head, body = self._sent
        return httpx.Response(head["status"], headers=head["headers"], content=body["body"])

    async def _receive(self) -> Message:
        if not self.pieces:
            await asyncio.Event().wait()
        self.pieces -= 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": self.pieces > 0}

    async def _send(self, message: Message) -> None:
        self._sent.append(message)


@pytest.fixture
def full(app_of: Callable[..., FastAPI]) -> Full:
    """Open a service whose places are all held."""

    @asynccontextmanager
    async def full(**settings: object) -> AsyncIterator[FastAPI]:
        app = app_of(queue_limit=1, max_batch=1, **settings)
        async with app.router.lifespan_context(app):
            with app.state.service.scheduler.admit(math.inf, 2):
                yield app

    return full


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def test_after_a_quiet_second_so_many_go_at_once_and_the_others_wait_longer_and_longer() -> None:
    pace = Pace(per_s=10, longest_s=0.3)
    pauses = [pace.pause_s(now=100.0) for _ in range(15)]
    assert pauses == pytest.approx([0.0] * 10 + [0.1, 0.2, 0.3, 0.3, 0.3], abs=1e-9)
    assert pace.pause_s(now=100.2) == pytest.approx(0.2)
    assert [pace.pause_s(now=102.0) for _ in range(3)] == [0.0] * 3


@pytest.mark.parametrize(
    "path", [PREDICTIONS, BATCH, HEATMAPS, "/dicomweb/studies", "/v2/models/any/infer"]
)
async def test_an_upload_without_a_place_is_refused_before_its_body_is_read(
    full: Full, path: str
) -> None:
    exchange = Exchange(path)
    async with full() as app:
        response = await exchange.through(app)
    problem = check_problem(response, 503, "overloaded")
    assert (problem["expected"], problem["received"]) == ("1 free of 2 places", "0")
    assert int(response.headers["retry-after"]) >= 1
    assert ("error" in problem) == path.startswith("/v2/")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-request-id"]
    assert exchange.pieces == 3


async def test_while_an_upload_arrives_its_place_is_promised_to_nobody_else(
    app_of: Callable[..., FastAPI],
) -> None:
    app = app_of(queue_limit=1, max_batch=1)
    async with app.router.lifespan_context(app):
        stalled = [Exchange(**{"content-type": DICOM}) for _ in range(2)]
        for each in stalled:
            each.pieces = 0
        arriving = [asyncio.create_task(each.through(app)) for each in stalled]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in arriving)
        exchange = Exchange()
        check_problem(await exchange.through(app), 503, "overloaded")
        assert exchange.pieces == 3
        for task in arriving:
            task.cancel()
        await asyncio.wait(arriving)
        check_problem(await Exchange().through(app), 415, "unsupported-image-type")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", PREDICTIONS, {"files": {"file": gray_png()}}),
        ("POST", BATCH, {"files": {"files": gray_png()}}),
        ("POST", HEATMAPS, {"files": {"file": gray_png()}}),
        ("POST", "/dicomweb/studies", {"content": b"", "headers": {"content-type": DICOM}}),
        ("POST", f"/v2/models/{fakes.NAME}/infer", {"content": b"{}"}),
        ("GET", f"/v2/models/{fakes.NAME}/ready", {}),
        ("GET", "/v1/models", {}),
        ("GET", "/health/ready", {}),
        ("GET", "/metrics", {}),
    ],
)
async def test_no_request_waits_for_a_thread_that_the_framework_runs_plain_functions_on(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: Any
) -> None:
    # Under load each such hop takes tens of milliseconds, in which the place is another's.
    monkeypatch.delattr("anyio.to_thread.run_sync")
    response = await client.request(method, path, **body)
    assert response.status_code < 500


async def test_a_refusal_is_counted_and_logged_as_any_other_answer(
    full: Full, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with full() as app, client_of(app) as client:
        await Exchange(PREDICTIONS).through(app)
        metrics = (await client.get("/metrics")).text
    labels = f'{{method="POST",route="{PREDICTIONS}",status="503"}}'
    assert f"covid_xray_http_requests_total{labels} 1.0" in metrics
    assert 'covid_xray_refusals_total{code="overloaded"} 1.0' in metrics
    (event,) = [each for each in caplog.records if each.__dict__.get("status") == 503]
    assert event.__dict__["route"] == PREDICTIONS
    assert event.__dict__["problem"] == "overloaded"


async def test_what_needs_no_place_is_answered_also_then(full: Full) -> None:
    async with full() as app, client_of(app) as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.post("/v1/models")).status_code == 405
        assert (await client.post("/v1/nothing")).status_code == 404


async def test_who_has_no_key_is_told_so_and_nothing_of_places(full: Full, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(key_line("a key"), encoding="utf-8")
    async with full(api_keys_file=keys) as app:
        assert (await Exchange().through(app)).status_code == 401
        assert (await Exchange(**{"x-api-key": "a key"}).through(app)).status_code == 503


class TestManyRefusals:
    @pytest.fixture(autouse=True)
    def one_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gate, "AT_ONCE_PER_S", 1)
        monkeypatch.setattr(gate, "LONGEST_PAUSE_S", 0.1)

    async def test_the_later_ones_wait_and_keep_nothing_of_their_bodies(self, full: Full) -> None:
        async with full() as app:
            await Exchange().through(app)
            exchange = Exchange()
            began = asyncio.get_running_loop().time()
            check_problem(await exchange.through(app), 503, "overloaded")
            assert asyncio.get_running_loop().time() - began >= 0.09
        assert exchange.pieces == 0

    async def test_a_client_that_asks_first_is_not_told_to_send_a_body(self, full: Full) -> None:
        async with full() as app:
            await Exchange().through(app)
            exchange = Exchange(expect="100-continue")
            check_problem(await exchange.through(app), 503, "overloaded")
        assert exchange.pieces == 3


def test_the_collector_passes_over_what_was_there_at_the_start() -> None:
    spare_collector()
    try:
        assert gc.get_freeze_count() > len(gc.get_objects())
    finally:
        gc.unfreeze()
