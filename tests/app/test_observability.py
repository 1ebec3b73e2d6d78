import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from app import observability
from app.logs import make_formatter
from app.metrics import Metrics
from tests import fakes
from tests.app.calls import (
    BATCH,
    PARENT,
    PREDICTIONS,
    STAGES,
    TRACE,
    Leaver,
    Open,
    asking,
    multipart,
)
from tests.fakes import FakeEngine, gray_png

pytestmark = pytest.mark.anyio

Labels = dict[str, str]


async def scrape(client: httpx.AsyncClient) -> list[tuple[str, Labels, float]]:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return [(s.name, s.labels, s.value) for family in families for s in family.samples]


async def value(client: httpx.AsyncClient, metric: str, /, **labels: str) -> float | None:
    """Read one metric; none where it has no such sample."""
    found = [v for n, have, v in await scrape(client) if n == metric and have == labels]
    return found[0] if found else None


async def requests(client: httpx.AsyncClient) -> dict[tuple[str, str, str], float]:
    return {
        (labels["method"], labels["route"], labels["status"]): count
        for name, labels, count in await scrape(client)
        if name == "covid_xray_http_requests_total"
    }


# --- metrics


async def test_requests_are_counted_by_the_template_of_their_route_and_never_by_their_path(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/v1/models/1", "/v1/models/7", "/v1/models/jane-doe", "/jane-doe", "/docs"):
        await client.get(path)
    await client.request("JANE", "/v1/models")
    await client.post(PREDICTIONS, files={"file": gray_png()})
    found = await requests(client)
    assert found == {
        ("GET", "/v1/models/{version}", "200"): 1,
        ("GET", "/v1/models/{version}", "404"): 1,
        ("GET", "/v1/models/{version}", "400"): 1,
        ("GET", "other", "404"): 1,
        ("GET", "/docs", "200"): 1,
        ("other", "/v1/models", "405"): 1,
        ("POST", PREDICTIONS, "200"): 1,
    }


async def test_no_metric_holds_anything_that_a_client_sent(client: httpx.AsyncClient) -> None:
    headers = {"x-request-id": "janedoe", "user-agent": "janedoe", "traceparent": PARENT}
    file = ("janedoe.png", gray_png())
    await client.post(f"{PREDICTIONS}?janedoe", files={"file": file}, headers=headers)
    await client.post("/janedoe", files={"janedoe": file}, headers=headers)
    page = (await client.get("/metrics")).text
    assert "janedoe" not in page
    assert TRACE not in page


async def test_each_stage_of_a_prediction_is_timed(client: httpx.AsyncClient) -> None:
    await client.post(PREDICTIONS, files={"file": gray_png()})
    for stage in STAGES:
        assert await value(client, "covid_xray_stage_duration_seconds_count", stage=stage) == 1
    labels = {"method": "POST", "route": PREDICTIONS}
    assert await value(client, "covid_xray_http_request_duration_seconds_count", **labels) == 1


async def test_a_batch_is_counted_by_its_files_and_each_problem_in_it(
    client: httpx.AsyncClient,
) -> None:
    files = [("files", content) for content in (gray_png(), b"text", b"text")]
    await client.post(BATCH, files=files)
    assert await value(client, "covid_xray_batch_files_sum") == 3
    assert await value(client, "covid_xray_batch_files_count") == 1
    code = "unsupported-image-type"
    assert await value(client, "covid_xray_refusals_total", code=code) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"files": {"image": b"text"}}, "malformed-request"),
        ({"files": {"file": b"text"}}, "unsupported-image-type"),
        ({"files": {"file": bytes(3_000_000)}}, "payload-too-large"),
    ],
)
async def test_a_refusal_is_counted_by_its_code(
    client: httpx.AsyncClient, arguments: dict[str, Any], code: str
) -> None:
    await client.post(PREDICTIONS, **arguments)
    assert await value(client, "covid_xray_refusals_total", code=code) == 1


async def test_what_never_happened_is_a_zero(client: httpx.AsyncClient) -> None:
    for code in ("internal-error", "overloaded", "not-a-chest-radiograph"):
        assert await value(client, "covid_xray_refusals_total", code=code) == 0
    for stage in STAGES:
        assert await value(client, "covid_xray_stage_duration_seconds_count", stage=stage) == 0


async def test_scores_are_kept_by_version_and_those_of_refused_images_as_well(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for engine.acceptance in (1, 1, 0.1):
        await client.post(PREDICTIONS, files={"file": gray_png(204)})
    assert await value(client, "covid_xray_acceptance_score_count", version="1") == 3
    assert await value(client, "covid_xray_not_accepted_total", version="1") == 1
    name = "covid_xray_predicted_probability"
    assert await value(client, f"{name}_sum", version="1") == pytest.approx(1.6)
    assert await value(client, f"{name}_bucket", version="1", le="0.75") == 0
    assert await value(client, f"{name}_bucket", version="1", le="0.85") == 2


async def test_images_that_wait_and_that_are_worked_on_are_told_apart(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.started.clear()
    engine.may_answer.clear()
    files = [("files", gray_png())] * 3
    running = asyncio.create_task(client.post(BATCH, files=files))
    assert await asyncio.to_thread(engine.started.wait, 30)
    assert await value(client, "covid_xray_images_working") == 1
    assert await value(client, "covid_xray_images_waiting") == 2
    assert await value(client, "covid_xray_places_held") == 3
    assert await value(client, "covid_xray_places") == 65
    assert await value(client, "covid_xray_http_requests_in_progress") == 2
    engine.may_answer.set()
    await running
    for name in ("images_working", "images_waiting", "places_held"):
        assert await value(client, f"covid_xray_{name}") == 0


async def test_the_release_that_answers_is_named(client: httpx.AsyncClient) -> None:
    (shown,) = (await client.get("/v1/models")).json()["models"]
    assert await value(client, "covid_xray_ready") == 1
    labels = {
        "name": fakes.NAME,
        "version": "1",
        "digest": shown["digest"],
        "engine": "openvino",
        "precision": "f32",
    }
    assert await value(client, "covid_xray_release_info", **labels) == 1


async def test_without_a_release_the_service_is_not_ready(app_of: Callable[..., FastAPI]) -> None:
    app = app_of()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        assert await value(client, "covid_xray_ready") == 0
        async with app.router.lifespan_context(app):
            assert await value(client, "covid_xray_ready") == 1
        assert await value(client, "covid_xray_ready") == 0
        assert "release_info" not in (await client.get("/metrics")).text


async def test_the_process_tells_its_memory_and_its_limit(client: httpx.AsyncClient) -> None:
    used = await value(client, "process_resident_memory_bytes")
    limit = await value(client, "covid_xray_memory_limit_bytes")
    assert used
    assert limit
    assert 0 < used < limit
    assert await value(client, "process_cpu_seconds_total")


async def test_two_applications_in_a_process_count_each_their_own(
    client: httpx.AsyncClient,
) -> None:
    other = Metrics(lambda: None, lambda: None)
    await client.get("/v1/models")
    assert ("GET", "/v1/models", "200") in await requests(client)
    assert not next(iter(other.requests.collect())).samples


@pytest.mark.parametrize(
    "accept", ["text/plain;version=a", "application/openmetrics-text;version=x.y", ";;,="]
)
async def test_metrics_are_told_in_the_usual_format_where_none_can_be_made_out(
    client: httpx.AsyncClient, accept: str
) -> None:
    response = await client.get("/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_metrics_can_be_switched_off(
    opened: Open,
) -> None:
    async with opened(metrics="off") as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_metrics_are_not_part_of_the_documented_api(client: httpx.AsyncClient) -> None:
    assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]


async def test_prometheus_is_answered_in_the_format_that_it_asks_for(
    client: httpx.AsyncClient,
) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    response = await client.get("/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


# --- request ids


async def test_an_answer_carries_its_requests_id(client: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/nothing", "/health/live"):
        response = await client.get(path, headers={"x-request-id": "pacs-7.2_A"})
        assert response.headers["x-request-id"] == "pacs-7.2_A"


@pytest.mark.parametrize(
    "given",
    ["", "a" * 65, "two words", "-dash", "a\tb", "<script>", "ä", "a,b"],
)
async def test_an_id_of_another_form_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    headers = [(b"x-request-id", given.encode())]
    response = await client.get("/v1/models", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


async def test_two_ids_are_none(client: httpx.AsyncClient) -> None:
    headers = [("x-request-id", "one"), ("x-request-id", "two")]
    response = await client.get("/v1/models", headers=headers)
    assert response.headers["x-request-id"] not in {"one", "two", "one, two"}


async def test_a_crash_is_answered_with_the_requests_id_and_counted(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.crashing = True
    headers = {"x-request-id": "crash-1"}
    response = await client.post(PREDICTIONS, files={"file": gray_png()}, headers=headers)
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "crash-1"
    assert await value(client, "covid_xray_refusals_total", code="internal-error") == 1
    assert (await requests(client))["POST", PREDICTIONS, "500"] == 1


# --- the log


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """Give what the service logs, as JSON objects."""
    caplog.handler.setFormatter(make_formatter("json"))
    caplog.set_level(logging.INFO)
    caplog.handler.stream.truncate(0)

    def events() -> list[dict[str, Any]]:
        return [json.loads(line) for line in caplog.text.splitlines() if line.startswith("{")]

    return events


def of_requests(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "request"]


async def test_a_request_is_one_event_with_its_stages_and_ids(
    client: httpx.AsyncClient, events: Callable[[], list[dict[str, Any]]]
) -> None:
    headers = {"x-request-id": "pacs-7", "traceparent": PARENT}
    await client.post(f"{PREDICTIONS}?a=b", files={"file": gray_png()}, headers=headers)
    (event,) = of_requests(events())
    assert event.pop("timestamp").endswith("Z")
    stages, duration = event.pop("stages_ms"), event.pop("duration_ms")
    assert set(stages) == STAGES
    assert 0 < sum(stages.values()) <= duration
    assert event == {
        "event": "request",
        "level": "info",
        "logger": "app.access",
        "method": "POST",
        "route": PREDICTIONS,
        "status": 200,
        "request_id": "pacs-7",
        "trace_id": TRACE,
    }


async def test_a_refused_request_names_its_problem(
    client: httpx.AsyncClient, events: Callable[[], list[dict[str, Any]]]
) -> None:
    await client.post(PREDICTIONS, files={"file": b"text"})
    (event,) = of_requests(events())
    assert (event["status"], event["problem"]) == (415, "unsupported-image-type")
    assert "trace_id" not in event


async def test_probes_are_quiet(
    client: httpx.AsyncClient,
    events: Callable[[], list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/v2/health/ready"):
        await client.get(path)
    assert not of_requests(events())
    caplog.set_level(logging.DEBUG)
    await client.get("/health/live")
    assert [event["level"] for event in of_requests(events())] == ["debug"]


async def test_a_probe_that_fails_is_logged(
    app_of: Callable[..., FastAPI], events: Callable[[], list[dict[str, Any]]]
) -> None:
    app = app_of()
    async with asking(app) as client:
        app.state.service.leave("one that is stopping")
        await client.get("/health/ready")
    (event,) = of_requests(events())
    assert (event["status"], event["level"]) == (503, "info")


async def test_what_fails_within_a_request_is_logged_with_its_id(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    events: Callable[[], list[dict[str, Any]]],
) -> None:
    engine.failing = True
    headers = {"x-request-id": "pacs-8"}
    await client.post(PREDICTIONS, files={"file": gray_png()}, headers=headers)
    (failure,) = [event for event in events() if event["level"] == "error"]
    assert failure["request_id"] == "pacs-8"
    assert "InferenceFailed" in failure["exception"]


async def test_what_the_server_logs_of_a_crash_has_the_requests_id(
    app_of: Callable[..., FastAPI],
    engine: FakeEngine,
    events: Callable[[], list[dict[str, Any]]],
) -> None:
    app = app_of()
    async with asking(app) as client:
        engine.crashing = True
        headers = {"x-request-id": "pacs-9"}
        try:
            await client.post(PREDICTIONS, files={"file": gray_png()}, headers=headers)
        except ZeroDivisionError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    *_, request, crash = events()
    assert (request["status"], request["problem"]) == (500, "internal-error")
    assert request["request_id"] == crash["request_id"] == "pacs-9"
    assert crash["exception"].endswith("builtins.ZeroDivisionError")
    assert "secret" not in crash["exception"].splitlines()[-1]


async def test_a_client_that_leaves_is_counted_as_such_and_gets_no_blame(
    app_of: Callable[..., FastAPI],
    engine: FakeEngine,
    events: Callable[[], list[dict[str, Any]]],
) -> None:
    app = app_of()
    content, headers = multipart(gray_png())
    leaver = Leaver(PREDICTIONS, content, headers)
    async with app.router.lifespan_context(app):
        engine.may_answer.clear()
        await app(leaver.scope, leaver.receive, leaver.send)
        engine.may_answer.set()
    (event,) = of_requests(events())
    assert event["status"] == observability.CLIENT_LEFT
    assert "problem" not in event
