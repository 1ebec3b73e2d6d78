"""What is measured for Prometheus. No label holds anything that a client sent.

A label's values are few and known beforehand: route templates, stages, error codes, versions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.dicomweb.outbox import Outbox, OutboxState
from app.errors import CovidXrayError, NotReady
from app.registry import Serving
from app.service import InferenceService, Stage

Registry = CollectorRegistry
"""What can be shown as Prometheus wants it."""
Measured = list[Metric]
"""What one application measured; it can be sent to another process."""

_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30),
)
_SHARES = tuple(step / 20 for step in range(1, 21))
_FILES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one application, in a registry of its own.

    Args:
        find_service: Gives the service, or none while it is starting.
        find_outbox: Gives the outbox, or none where results go nowhere.
    """

    def __init__(
        self,
        find_service: Callable[[], InferenceService | None],
        find_outbox: Callable[[], Outbox | None],
    ) -> None:
        # They double the series of counters, and nothing asks for them. (It has no types.)
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "covid_xray_http_requests",
            "Answered requests; status 499: the client left before its answer.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            "covid_xray_http_request_duration_seconds",
            "From a request's head to the end of its answer.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "covid_xray_http_requests_in_progress",
            "Requests that are being answered now.",
            registry=registry,
        )
        self.stages = Histogram(
            "covid_xray_stage_duration_seconds",
            "receive and encode: of a request; queue, decode and inference: of an image.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_files = Histogram(
            "covid_xray_batch_files", "Files in a batch request.", buckets=_FILES, registry=registry
        )
        self.refusals = Counter(
            "covid_xray_refusals",
            "Requests, and images of a batch, that got a problem, by its code.",
            ["code"],
            registry=registry,
        )
        self.probability = Histogram(
            "covid_xray_predicted_probability",
            "Of the positive label, for every image that got a prediction.",
            ["version"],
            buckets=_SHARES,
            registry=registry,
        )
        self.acceptance = Histogram(
            "covid_xray_acceptance_score",
            "Of every image that reached the model, refused ones included.",
            ["version"],
            buckets=_SHARES,
            registry=registry,
        )
        self.not_accepted = Counter(
            "covid_xray_not_accepted",
            "Images that reached the model, with a score below the release's threshold.",
            ["version"],
            registry=registry,
        )
        registry.register(_ServiceCollector(find_service))
        registry.register(_OutboxCollector(find_outbox))
        ProcessCollector(registry=registry)
        self._begin_at_zero()

    async def gather(self) -> Registry:
        """Give all that is measured."""
        return self.registry

    def _begin_at_zero(self) -> None:
        """Show what is known beforehand: how much a series grew is not seen when it appears."""
        for stage in get_args(Stage):
            self.stages.labels(stage)
        for code in _codes(CovidXrayError):
            self.refusals.labels(code)


def merge(measured: Mapping[str, Measured]) -> Registry:
    """Put what several replicas measured side by side, by a label `replica`.

    Args:
        measured: Name of a replica → its metrics.
    """
    families: dict[str, Metric] = {}
    for replica, metrics in measured.items():
        for metric in metrics:
            family = families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
            )
            family.samples += [
                sample._replace(labels=sample.labels | {"replica": replica})
                for sample in metric.samples
            ]
    registry = CollectorRegistry()
    registry.register(_Given(families.values()))
    return registry


class _Given(Collector):
    """Tells what it was given."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        return self._metrics


class _ServiceCollector(Collector):
    """Asks the service when Prometheus asks, so that the service need not know of it."""

    def __init__(self, find_service: Callable[[], InferenceService | None]) -> None:
        self._find_service = find_service

    def describe(self) -> Iterable[Metric]:
        """Tell nothing beforehand: nothing is asked before the service is there."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the release, the places and the memory limit."""
        service = self._find_service()
        serving = _serving(service) if service else None
        refused = service.registry.passed_over if service else 0
        yield _gauge("ready", "1 while the service says so by /health/ready.", _is_ready(service))
        yield _gauge(
            "releases_refused", "Versions that should be served, and are refused.", refused
        )
        yield _gauge("memory_limit_bytes", "What the process may use.", memory_limit())
        if serving is not None:
            yield _release_info(serving)
        if service is not None:
            yield from _places(service)


class _OutboxCollector(Collector):
    """Asks the outbox when Prometheus asks."""

    def __init__(self, find_outbox: Callable[[], Outbox | None]) -> None:
        self._find_outbox = find_outbox

    def describe(self) -> Iterable[Metric]:
        """Tell nothing beforehand, as above."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read what waits and what came of the rest; zeros where results go nowhere."""
        outbox = self._find_outbox()
        state = outbox.state if outbox else OutboxState()
        yield _gauge("outbox_results", "Results that wait for the DICOMweb server.", state.items)
        yield _gauge("outbox_bytes", "Bytes of the results that wait.", state.bytes)
        yield _gauge("outbox_oldest_seconds", "For which the oldest has waited.", state.oldest_s)
        yield _count("outbox_sent", "Results that the DICOMweb server has.", state.sent)
        yield _count("outbox_retries", "Deliveries that failed and are repeated.", state.retries)
        given_up = CounterMetricFamily(
            "covid_xray_outbox_given_up", "Results that nobody will get.", labels=["reason"]
        )
        for reason, count in state.given_up.items():
            given_up.add_metric([reason], count)
        yield given_up


def memory_limit(
    cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")
) -> int:
    """Tell the bytes of memory that this process may use: its cgroup's limit, or all there is.

    Args:
        cgroup: Where the control groups are mounted, version 2 (`memory.max`) or 1.
        meminfo: Where Linux tells how much there is, in its first line and in KiB.
    """
    limit = int(meminfo.read_text().split(maxsplit=2)[1]) * 1024
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # `max`, or no such file: there is no limit
            limit = min(limit, int((cgroup / name).read_text()))
    return limit


def _codes(error: type[CovidXrayError]) -> set[str]:
    """Name the codes of a class of errors, and of all that are under it."""
    return {error.code}.union(*map(_codes, error.__subclasses__()))


def _is_ready(service: InferenceService | None) -> bool:
    if service is None:
        return False
    with suppress(NotReady):
        service.check_ready()
        return True
    return False


def _serving(service: InferenceService) -> Serving | None:
    try:
        return service.registry.serving
    except NotReady:
        return None


def _places(service: InferenceService) -> Iterator[Metric]:
    scheduler = service.scheduler
    yield _gauge("images_waiting", "Images that wait for a thread.", scheduler.waiting)
    yield _gauge("images_working", "Images that threads work on.", scheduler.working)
    yield _gauge("places_held", "Images that hold a place.", scheduler.held)
    yield _gauge("places", "Images that may hold a place; one more gets a 503.", scheduler.capacity)


def _release_info(serving: Serving) -> Metric:
    manifest = serving.release.manifest
    labels = {
        "name": manifest.name,
        "version": str(manifest.version),
        "digest": serving.release.digest,
        "engine": serving.engine.name,
        "precision": serving.engine.precision,
    }
    family = GaugeMetricFamily(
        "covid_xray_release_info", "The release that answers; always 1.", labels=list(labels)
    )
    family.add_metric(list(labels.values()), 1)
    return family


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"covid_xray_{name}", meaning, value=value)


def _count(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(f"covid_xray_{name}", meaning, value=value)
