"""Spans of requests for OpenTelemetry, sent where the standard `OTEL_…` variables say.

A span tells the method, the route's template, the status and the stages: no path, no address,
nothing that a client sent but the ids of its own trace.
"""

import os
import re
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    SpanContext,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from app.errors import TracingUnavailable

NAME = "covid-xray"

_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-.*)?"
)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


def parse_traceparent(value: str) -> SpanContext | None:
    """Read a `traceparent` header; none where it is not of the form that W3C defines.

    Source: W3C Trace Context, section 3.2. Version 00 has four fields and no more; a later one
    may have more behind them, and ff is none.
    """
    match = _TRACEPARENT.fullmatch(value)
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    context = SpanContext(
        trace_id=int(match["trace"], 16),
        span_id=int(match["span"], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match["flags"], 16) & TraceFlags.SAMPLED),
    )
    return context if context.is_valid else None  # an id of zeros only is none


def format_traceparent(context: SpanContext) -> str:
    """Write the ids of a span as `traceparent` and `traceresponse` hold them."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_context(parent: SpanContext | None) -> Context:
    """Make the context of a span whose parent was read from a request, or that has none."""
    context = Context()
    return context if parent is None else set_span_in_context(NonRecordingSpan(parent), context)


def open_tracer() -> Tracer:
    """Make what starts spans; they go nowhere unless the environment names a collector.

    Raises:
        TracingUnavailable: It names one, but what sends spans is not installed, or it asks for a
            protocol that is not spoken.
    """
    if not _first(_ENDPOINTS) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NoOpTracer()
    if (protocol := _first(_PROTOCOLS) or _PROTOCOL) != _PROTOCOL:
        raise TracingUnavailable(f"{_PROTOCOL} as OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    return _exporting_tracer()


def _exporting_tracer() -> Tracer:
    try:
        # PLC0415: only where spans are sent, and only with the extra `otel`
        from opentelemetry.exporter.otlp.proto.http import trace_exporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise TracingUnavailable(
            "the extra otel to be installed "
            "(pip install --constraint constraints.txt --editable '.[otel]'), "
            "since OTEL_EXPORTER_OTLP_ENDPOINT is set",
            "none that imports",
        ) from error
    ours = {"service.name": NAME, "service.version": version(NAME)}
    chosen = OTELResourceDetector().detect().attributes  # such as OTEL_SERVICE_NAME
    provider = TracerProvider(resource=Resource.create({**ours, **chosen}))
    # Both end with the process, and send what is left.
    provider.add_span_processor(BatchSpanProcessor(trace_exporter.OTLPSpanExporter()))
    return provider.get_tracer(NAME, version(NAME))


def _first(names: tuple[str, ...]) -> str | None:
    """Find the first of some variables that says anything."""
    return next((value for name in names if (value := os.environ.get(name))), None)
