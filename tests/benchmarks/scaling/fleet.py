"""What the model says of fleets: latency by load, replicas for a rate, a burst."""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from typing import Any

from tests.benchmarks.machine import ROOT
from tests.benchmarks.scaling.queueing import (
    Balancing,
    Draw,
    Fleet,
    Seen,
    Simulation,
    drawn_from,
    poisson,
)

REPLICAS = (1, 2, 8, 64, 512)
LOADS = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
THREADS = 2
"""Of a replica, as deploy/kubernetes has it."""

RATE = 10_000
BOUND_MS = 500.0
"""For 99 of 100 answers at that rate."""

UTILISATIONS = (0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""That are tried, from the fewest replicas upwards."""

BURST = (30.0, 10.0, 60.0)
"""Seconds before, in and after a burst."""

CALM, PEAK = 0.6, 2.0
"""Loads around and in the burst."""

PLANNED = ("AVX-512", "int8", "png-1024")
"""What curves and burst are drawn for."""

_REQUESTS = 20_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """What a request costs a core.

    Attributes:
        processor: `AVX2`: measured in the sitting; `AVX-512`: of docs/operations.md.
        precision: Of the network.
        kind: Of the file.
        image_ms: Decoding and inference.
        http_ms: The rest.
        quantiles_ms: How `image_ms` is spread.
    """

    processor: str
    precision: str
    kind: str
    image_ms: float
    http_ms: float
    quantiles_ms: tuple[float, ...]

    @property
    def core_s(self) -> float:
        """Seconds of a core for a request."""
        return (self.image_ms + self.http_ms) / 1000

    def draw(self) -> Draw:
        """Draw requests' seconds."""
        return drawn_from(self.quantiles_ms, self.http_ms)


def works(measured: dict[str, Any]) -> list[Work]:
    """List what is measured here, and what docs/operations.md has of a processor with AVX-512.

    The latter are means: they are spread as those that were measured here.
    """
    http = measured["http"]
    here = [
        Work(
            "AVX2",
            precision,
            kind,
            found["decode_ms"] + found["inference_ms"],
            http[kind],
            tuple(found["quantiles_ms"]),
        )
        for precision, kinds in measured["core"].items()
        for kind, found in kinds.items()
    ]
    spread = {work.kind: work for work in here if work.precision == "int8"}
    elsewhere = [
        Work(
            "AVX-512",
            precision,
            kind,
            milliseconds,
            http[kind],
            tuple(
                each * milliseconds / spread[kind].image_ms for each in spread[kind].quantiles_ms
            ),
        )
        for precision, kind, milliseconds in documented()
    ]
    return here + elsewhere


def documented() -> Iterator[tuple[str, str, float]]:
    """Read the table of `Size it` in docs/operations.md: precision, kind, milliseconds."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    pattern = r"^\| (PNG|JPEG) (\d+) x (\d+) \| (\d+) \| (\d+) \|$"
    for form, width, height, int8, bf16 in re.findall(pattern, text, re.MULTILINE):
        size = width if width == height else f"{width}x{height}"
        yield "int8", f"{form.lower()}-{size}", float(int8)
        yield "bf16", f"{form.lower()}-{size}", float(bf16)


def simulate(measured: dict[str, Any]) -> dict[str, Any]:
    """Simulate everything that docs/scaling.md shows."""
    known = works(measured)
    planned = next(each for each in known if (each.processor, each.precision, each.kind) == PLANNED)
    return {
        "curves": {str(count): _curve(planned, Fleet(count, THREADS)) for count in REPLICAS},
        "random": _curve(planned, Fleet(64, THREADS, balancing="random")),
        "needed": [
            {
                "processor": work.processor,
                "precision": work.precision,
                "kind": work.kind,
                **{name: needed(work, name) for name in ("least", "random")},
            }
            for work in known
        ],
        "burst": {str(tries): _burst(planned, tries) for tries in (1, 6)},
    }


def _curve(work: Work, fleet: Fleet) -> list[dict[str, float]]:
    _log.info("%d replicas, %s", fleet.replicas, fleet.balancing)
    return [_point(work, fleet, load) for load in LOADS]


def _point(work: Work, fleet: Fleet, load: float) -> dict[str, float]:
    seen = steady(work, fleet, load * fleet.replicas * fleet.threads / work.core_s)
    return {
        "load": load,
        "p50_ms": round(seen.latency_ms(0.5), 1),
        "p99_ms": round(seen.latency_ms(0.99), 1),
        "refused": round(seen.refused_share, 5),
    }


def steady(work: Work, fleet: Fleet, rate: float) -> Seen:
    """Simulate a rate until `_REQUESTS` have been seen, after half as many."""
    seconds = _REQUESTS / rate
    return Simulation(fleet, work.draw(), poisson(rate), (seconds / 2, 1.5 * seconds)).run()


def needed(work: Work, balancing: Balancing) -> dict[str, float]:
    """Find the fewest replicas that answer `RATE` within `BOUND_MS`, and refuse nothing."""
    _log.info("%s %s %s %s", work.processor, work.precision, work.kind, balancing)
    for utilisation in UTILISATIONS:
        count = math.ceil(RATE * work.core_s / THREADS / utilisation)
        # Chance splits what arrives into streams that know nothing of each other: one tells of all.
        alike = count if balancing == "least" else 1
        seen = steady(work, Fleet(alike, THREADS), RATE * alike / count)
        if not seen.refusals and seen.latency_ms(0.99) <= BOUND_MS:
            return {
                "replicas": count,
                "utilisation": utilisation,
                "p99_ms": round(seen.latency_ms(0.99), 1),
            }
    raise ValueError(f"Expected {BOUND_MS:g} ms to be reached; received {seen.latency_ms(0.99)}.")


def _burst(work: Work, tries: int) -> dict[str, float]:
    """Let the load rise for some seconds to twice what the replicas can do."""
    fleet = replace(Fleet(8, THREADS), tries=tries)
    capacity = fleet.replicas * fleet.threads / work.core_s
    parts = [
        _for(seconds, load * capacity, seed)
        for seed, (seconds, load) in enumerate(zip(BURST, (CALM, PEAK, CALM), strict=True))
    ]
    seen = Simulation(fleet, work.draw(), chain(*parts), (0.0, sum(BURST))).run()
    total = len(seen.latencies_s) + seen.lost
    return {
        "requests": total,
        "lost": round(seen.lost / total, 4),
        "p50_ms": round(seen.latency_ms(0.5), 1),
        "p99_ms": round(seen.latency_ms(0.99), 1),
        "max_ms": round(seen.latency_ms(1.0), 1),
    }


def _for(seconds: float, rate: float, seed: int) -> Iterator[float]:
    """Give the pauses of some seconds at a rate."""
    left = seconds

    def within(pause: float) -> bool:
        nonlocal left
        left -= pause
        return left > 0

    return takewhile(within, poisson(rate, seed))
