import re

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app import observability
from tests.app.calls import PARENT, PREDICTIONS, STAGES, TRACE, Open
from tests.fakes import FakeEngine, gray_png

pytestmark = pytest.mark.anyio


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(observability, "open_tracer", lambda: tracer)
    return exporter


def in_request(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


async def test_a_request_is_a_span_with_one_for_each_stage(
    spans: InMemorySpanExporter, opened: Open
) -> None:
    async with opened() as client:
        headers = {"traceparent": PARENT, "user-agent": "janedoe"}
        path = f"{PREDICTIONS}?name=janedoe"
        response = await client.post(path, files={"file": gray_png()}, headers=headers)
    *stages, request = spans.get_finished_spans()
    assert request.name == f"POST {PREDICTIONS}"
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": PREDICTIONS,
        "http.response.status_code": 200,
    }
    context = request.get_span_context()
    assert context is not None
    assert (f"{context.trace_id:032x}", in_request(request)) == (TRACE, "b7ad6b7169203331")
    own = f"{context.span_id:016x}"
    assert response.headers["traceresponse"] == f"00-{TRACE}-{own}-01"
    assert {stage.name for stage in stages} == STAGES
    assert {in_request(stage) for stage in stages} == {own}
    for stage in stages:
        assert request.start_time is not None
        assert request.end_time is not None
        assert stage.start_time is not None
        assert stage.end_time is not None
        slack = 5_000_000  # nanoseconds, between two clocks
        assert request.start_time - slack <= stage.start_time <= stage.end_time
        assert stage.end_time <= request.end_time + slack


async def test_a_trace_that_its_client_does_not_keep_is_not_kept_here(
    spans: InMemorySpanExporter, opened: Open
) -> None:
    async with opened() as client:
        await client.get("/v1/models", headers={"traceparent": PARENT[:-1] + "0"})
    assert not spans.get_finished_spans()


async def test_a_trace_begins_where_none_was_sent_and_a_failure_is_an_error(
    spans: InMemorySpanExporter, opened: Open, engine: FakeEngine
) -> None:
    async with opened() as client:
        engine.failing = True
        response = await client.post(PREDICTIONS, files={"file": gray_png()})
    request = spans.get_finished_spans()[-1]
    assert request.parent is None
    assert request.status.status_code.name == "ERROR"
    assert not request.events
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", response.headers["traceresponse"])


async def test_without_a_collector_no_span_is_answered_with(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models", headers={"traceparent": PARENT})
    assert "traceresponse" not in response.headers
