"""What an operator sees of each request: metrics, one event in the log, one span.

It wraps the whole application, so that what fails anywhere within is seen as well. Nothing that a
client sent is in a label, an event or a span, but the ids of its own request and trace.
"""

import logging
import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPMethod, HTTPStatus
from uuid import uuid4

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from prometheus_client.exposition import choose_encoder
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars

from app.metrics import Metrics
from app.service import Recorder, Stage
from app.tracing import format_traceparent, open_tracer, parent_context, parse_traceparent

# FastAPI's own telemetry would tell paths, queries and what exceptions say.
NO_OTHER_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)

METRICS_PATH = "/metrics"
OTHER = "other"
"""Method or route that is none of the API's: a page of the documentation, a wrong path."""
CLIENT_LEFT = 499
"""Status in metrics and log of a request whose client left before its answer (as nginx has it)."""

_log = logging.getLogger("app.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_METHODS = frozenset(HTTPMethod)
_PROBES = frozenset(
    {METRICS_PATH, "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
)


@dataclass(slots=True, eq=False)
class _Observed:
    """What is known of the request that a task works for; threads append to its lists.

    Attributes:
        request_id: The client's, or a new one.
        span: Ends with the request; records nothing where there is no collector.
        started: When its head was there, by `time.monotonic`.
        stages: Name, start and end of each stage that was passed, for each image.
        problems: Codes of the problems that it or its images got.
        status: Of the answer; none before its head is sent.
        has_body: Some of its body is there.
        left: The client went away before its answer.
    """

    request_id: str
    span: Span
    started: float
    stages: list[tuple[Stage, float, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    status: int | None = None
    has_body: bool = False
    left: bool = False


_current: ContextVar[_Observed | None] = ContextVar("observed", default=None)


def observe(app: FastAPI, *, show_metrics: bool) -> None:
    """Put all that is in an application under observation; nothing can be added to it later.

    Args:
        app: Gets `state.recorder`, for its service, and `state.gather`, which gives what
            `GET /metrics` shows; where this is one of several replicas, another may take its place.
        show_metrics: Let it answer `GET /metrics`.

    Raises:
        TracingUnavailable: The environment names a collector that nothing here can send to.
    """
    metrics = Metrics(
        lambda: getattr(app.state, "service", None), lambda: getattr(app.state, "outbox", None)
    )
    app.state.recorder = MetricsRecorder(metrics)
    app.state.gather = metrics.gather
    if show_metrics:
        _add_metrics_page(app)
    app.middleware_stack = Observer(app.build_middleware_stack(), metrics, open_tracer())


def note_problem(code: str) -> None:
    """Note that the request which is worked on, or one of its images, gets a problem."""
    if observed := _current.get():
        observed.problems.append(code)


def _add_metrics_page(app: FastAPI) -> None:
    @app.get(METRICS_PATH, include_in_schema=False)
    async def _metrics(request: Request) -> Response:
        try:
            encode, media_type = choose_encoder(request.headers.get("accept", ""))
        except TypeError:  # raised by a version that is no number
            encode, media_type = choose_encoder("")
        return Response(encode(await app.state.gather()), media_type=media_type)


class MetricsRecorder(Recorder):
    """Puts what the service tells into metrics, and into the request that it works for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def record_stage(self, stage: Stage, start: float, end: float) -> None:
        """See `Recorder`."""
        self._metrics.stages.labels(stage).observe(end - start)
        if observed := _current.get():
            observed.stages.append((stage, start, end))

    def record_acceptance(self, version: int, score: float, *, accepted: bool) -> None:
        """See `Recorder`."""
        self._metrics.acceptance.labels(str(version)).observe(score)
        self._metrics.not_accepted.labels(str(version)).inc(not accepted)  # begins at zero, too

    def record_probability(self, version: int, probability: float) -> None:
        """See `Recorder`."""
        self._metrics.probability.labels(str(version)).observe(probability)

    def record_batch(self, files: int) -> None:
        """See `Recorder`."""
        self._metrics.batch_files.observe(files)


class Observer:
    """The middleware around everything.

    Args:
        app: What is observed.
        metrics: Where requests are counted.
        tracer: Starts their spans.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer) -> None:
        self._app = app
        self._metrics = metrics
        self._recorder = MetricsRecorder(metrics)
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as the application does; what is no request is passed through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        observed = self._begin(Headers(scope=scope))
        try:
            with self._metrics.in_progress.track_inprogress():
                await self._app(
                    scope, self._receiving(observed, receive), self._sending(observed, send)
                )
        finally:
            self._end(observed, scope)

    def _begin(self, headers: Headers) -> _Observed:
        parent = _parent(headers)
        span = self._tracer.start_span("HTTP", context=parent_context(parent), kind=SpanKind.SERVER)
        observed = _Observed(read_request_id(headers), span, time.monotonic())
        _current.set(observed)
        # They are left bound: uvicorn logs an exception after this task has left the application.
        clear_contextvars()
        bind_contextvars(request_id=observed.request_id, **_ids(span.get_span_context()))
        return observed

    def _receiving(self, observed: _Observed, receive: Receive) -> Receive:
        async def _receive() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                observed.left |= observed.status is None
                return message
            observed.has_body |= bool(message.get("body"))
            if observed.has_body and not message.get("more_body", False):
                self._recorder.record_stage("receive", observed.started, time.monotonic())
            return message

        return _receive

    def _sending(self, observed: _Observed, send: Send) -> Send:
        async def _send(message: Message) -> None:
            if message["type"] == "http.response.start":
                observed.status = message["status"]
                self._record_encoding(observed)
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = observed.request_id
                if observed.span.is_recording():
                    context = observed.span.get_span_context()
                    headers["traceresponse"] = format_traceparent(context)
            await send(message)

        return _send

    def _record_encoding(self, observed: _Observed) -> None:
        inferred = [end for stage, _, end in observed.stages if stage == "inference"]
        if inferred and observed.status == HTTPStatus.OK:
            self._recorder.record_stage("encode", max(inferred), time.monotonic())

    def _end(self, observed: _Observed, scope: Scope) -> None:
        ended = time.monotonic()
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        route = _route(scope)
        status = CLIENT_LEFT if observed.left else observed.status or 500
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.duration.labels(method, route).observe(ended - observed.started)
        for code in observed.problems:
            self._metrics.refusals.labels(code).inc()
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": _milliseconds(ended - observed.started),
            "stages_ms": _stages_ms(observed.stages),
        }
        if observed.problems:
            fields["problem"] = observed.problems[0]
        quiet = route in _PROBES and status < HTTPStatus.BAD_REQUEST
        _log.log(logging.DEBUG if quiet else logging.INFO, "request", extra=fields)
        self._end_span(observed, method, route, status)

    def _end_span(self, observed: _Observed, method: str, route: str, status: int) -> None:
        span = observed.span
        if not span.is_recording():
            return
        span.update_name(f"{method} {route}")
        span.set_attribute("http.request.method", method)
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
        wall = time.time_ns() - round(time.monotonic() * 1e9)  # from one clock to the other
        for stage, start, end in observed.stages:
            child = self._tracer.start_span(
                stage, set_span_in_context(span), start_time=wall + round(start * 1e9)
            )
            child.end(wall + round(end * 1e9))
        span.end()


def _route(scope: Scope) -> str:
    """Name what answered by its template; a path may hold anything."""
    route = scope.get("route")
    template: str | None = getattr(route, "path_format", None) or getattr(route, "path", None)
    return template or OTHER


def read_request_id(headers: Headers) -> str:
    """Take a client's id where it is one word of 64 characters at most, else a new one."""
    given = headers.getlist("x-request-id")
    return given[0] if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) else uuid4().hex


def log_unread(status: int) -> str:
    """Log what was refused before its head was read, and give it an id."""
    request_id = uuid4().hex
    with bound_contextvars(request_id=request_id):
        _log.info("request", extra={"method": OTHER, "route": OTHER, "status": status})
    return request_id


def _parent(headers: Headers) -> SpanContext | None:
    given = headers.getlist("traceparent")
    return parse_traceparent(given[0]) if len(given) == 1 else None


def _ids(context: SpanContext) -> dict[str, str]:
    return {"trace_id": f"{context.trace_id:032x}"} if context.is_valid else {}


def _stages_ms(stages: Iterable[tuple[Stage, float, float]]) -> dict[str, float]:
    """Add up the milliseconds of each stage, over all images of a request."""
    sums: dict[str, float] = {}
    for stage, start, end in list(stages):  # a thread may still append
        sums[stage] = sums.get(stage, 0) + end - start
    return {stage: _milliseconds(seconds) for stage, seconds in sums.items()}


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
