"""docs/scaling.md, out of what was measured and simulated: no figure of it is typed by hand."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from tests.benchmarks.scaling import fleet, sitting, sums
from tests.benchmarks.scaling.fleet import Work

TEMPLATE = "scaling.md.j2"
BULK = ((1_000_000, (2, 64)), (100_000_000, (64, 1024, 10_000)))
"""X-rays, and the cores that score them."""

STEPS = (1, 64, 256)
"""Cores, before those of the whole rate."""

PRICES = (0.02, 0.04, 0.08)
NODE_CORES = (4, 16, 64)
FULL = 0.98
"""Of the cores' time, what a large fleet works before anything waits."""

BUSY = 0.5
"""Load average before the measurement, from which others used the cores."""

DOWNTIME_SHARE = 1 / 3
"""Of the replicas that may be lost at once: a zone of three."""


def compact(found: dict[str, Any]) -> str:
    """Write JSON with each list of numbers on one line."""
    text = json.dumps(found, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda each: " ".join(each[0].split()), text)


def write(found: dict[str, Any]) -> str:
    """Write the document.

    Args:
        found: `measured` and `simulated`, as in docs/scaling.json.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=select_autoescape(),  # of HTML, which Markdown is not
    )
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    text = environment.get_template(TEMPLATE).render(**_values(found))
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def _values(found: dict[str, Any]) -> dict[str, Any]:
    measured, simulated = found["measured"], found["simulated"]
    works = fleet.works(measured)
    assumed = sums.Assumptions()
    planned = next(
        each for each in works if (each.processor, each.precision, each.kind) == fleet.PLANNED
    )
    here = min(
        (each for each in works if each.processor == "AVX2" and each.kind == planned.kind),
        key=lambda each: each.image_ms,
    )
    return {
        "ratio": here.image_ms / planned.image_ms,
        "knee": _knees(simulated, planned),
        **_verdict(measured["validation"]),
        "busy": measured["machine"]["load_before"][0] > BUSY,
        "alone_core_ms": _alone_core_ms(works, measured["validation"]["kind"]),
        "measured": measured,
        "simulated": simulated,
        "assumed": asdict(assumed),
        "planned": planned,
        "works": works,
        "needed": [
            {**row, "cores": fleet.THREADS * row["least"]["replicas"]} | _spare(row)
            for row in simulated["needed"]
        ],
        "steps": [
            _step(cores, planned, assumed, measured["weights_mb"][planned.precision])
            for cores in (*STEPS, fleet.RATE * planned.core_s / FULL)
        ],
        "bulk": [_bulk(work, assumed) for work in works],
        "bulk_columns": [(images, cores) for images, counts in BULK for cores in counts],
        "burst": {"calm": fleet.CALM, "peak": fleet.PEAK, "seconds": fleet.BURST},
        "costs": [_costs(work, assumed) for work in works],
        "prices": PRICES,
        "shapes": [_shape(cores, planned, assumed) for cores in NODE_CORES],
        "store": _store(planned, assumed),
        "f32_weights_gb": _weights_gb(works, assumed, measured["weights_mb"]["f32"]),
        "constants": {"rate": fleet.RATE, "bound_ms": fleet.BOUND_MS, "threads": fleet.THREADS},
        "loads": fleet.LOADS,
        "replicas": fleet.REPLICAS,
    }


def _knees(simulated: dict[str, Any], work: Work) -> dict[str, str]:
    """Find up to which load, in percent, the 99th percentile is below three times a request."""

    def last(curve: list[dict[str, float]]) -> str:
        good = [each["load"] for each in curve if each["p99_ms"] <= 3000 * work.core_s]
        return f"{100 * max(good):.0f}"

    curves = simulated["curves"]
    names = {"one": "1", "eight": "8", "many": "512"}
    return {name: last(curves[count]) for name, count in names.items()} | {
        "random": last(simulated["random"])
    }


def _verdict(validation: dict[str, Any]) -> dict[str, Any]:
    """Count how often what was measured lies in the model's range."""
    latencies = ("p50_ms", "p95_ms", "p99_ms")
    names = (*latencies, "refused")
    hits = [
        load["predicted"][name][1] <= load["measured"][name] <= load["predicted"][name][2]
        for load in validation["loads"]
        for name in names
        if load["predicted"][name][2]
        > 0  # that nothing is refused where nothing can be says little
    ]
    off = {
        name: max(
            abs(load["predicted"][name][0] / load["measured"][name] - 1)
            for load in validation["loads"]
        )
        for name in latencies
    }
    return {
        "off": off,
        "off_refused": max(
            abs(load["predicted"]["refused"][0] - load["measured"]["refused"])
            for load in validation["loads"]
        ),
        "longer_tails": sum(
            load["measured"]["p99_ms"] > load["predicted"]["p99_ms"][0]
            for load in validation["loads"]
        ),
        "inside": sum(hits),
        "checked": len(hits),
        "replications": sitting.REPLICATIONS,
        "validation_waiting": sitting.WAITING,
        "parquet_rows": sitting.PARQUET_ROWS,
    }


def _alone_core_ms(works: list[Work], kind: str) -> float:
    """Give what a request of the validation takes a core."""
    wanted = ("AVX2", "int8", kind)
    work = next(each for each in works if (each.processor, each.precision, each.kind) == wanted)
    return 1000 * work.core_s


def _spare(row: dict[str, Any]) -> dict[str, float]:
    """Tell how many replicas there have to be, so that those that are left are enough."""
    return {"with_spare": row["least"]["replicas"] / (1 - DOWNTIME_SHARE)}


def _step(
    cores: float, work: Work, assumed: sums.Assumptions, weights_mb: float
) -> dict[str, float]:
    rate = FULL * cores / work.core_s
    per_node = FULL * min(cores, assumed.node_cores) / work.core_s
    gbit = sums.gbit_per_s(rate, assumed.upload_mb)
    return {
        "cores": cores,
        "nodes": max(1.0, cores / (assumed.node_cores - assumed.node_overhead_cores)),
        "rate": rate,
        "gbit": gbit,
        "node_gbit": sums.gbit_per_s(per_node, assumed.upload_mb),
        "node_weights_gb": per_node * weights_mb / 1000,
        "answers_gbit": sums.gbit_per_s(rate, assumed.answer_kb / 1000),
        "balancers": gbit / assumed.balancer_gbit_per_s,
        "under_way": rate * work.core_s,
    }


def _weights_gb(works: list[Work], assumed: sums.Assumptions, weights_mb: float) -> float:
    """Give the gigabytes a second of weights in f32 on one machine of this one's processor."""
    work = next(each for each in works if (each.precision, each.kind) == ("f32", "png-224"))
    return assumed.node_cores / work.core_s * weights_mb / 1000


def _bulk(work: Work, assumed: sums.Assumptions) -> dict[str, Any]:
    """Give the hours for each of `BULK`."""
    hours = [
        sums.bulk_hours(images, work, cores, assumed.bulk_efficiency)
        for images, counts in BULK
        for cores in counts
    ]
    return {"work": work, "hours": hours}


def _costs(work: Work, assumed: sums.Assumptions) -> dict[str, Any]:
    """Give dollars of a million, in bulk and served, at each price."""
    return {
        "work": work,
        "bulk": [
            sums.cost_per_million(work.image_ms, price, assumed.bulk_efficiency) for price in PRICES
        ],
        "served": [
            sums.cost_per_million(1000 * work.core_s, price, assumed.serving_utilisation)
            for price in PRICES
        ],
    }


def _shape(cores: int, work: Work, assumed: sums.Assumptions) -> dict[str, float]:
    """Give what a machine of a size does, and what a million costs on it, in bulk."""
    usable = cores - assumed.node_overhead_cores
    share = assumed.bulk_efficiency * usable / cores
    return {
        "cores": cores,
        "usable": usable,
        "rate": usable / work.core_s,
        "cost": sums.cost_per_million(work.image_ms, assumed.price, share),
        "nodes": fleet.RATE * work.core_s / FULL / usable,
        "gbit": sums.gbit_per_s(usable / work.core_s, assumed.upload_mb),
    }


def _store(work: Work, assumed: sums.Assumptions) -> dict[str, float]:
    """Give what reading an archive asks for, for a hundred million X-rays on 1024 cores."""
    rate = 1024 * assumed.bulk_efficiency / (work.image_ms / 1000)
    return {
        "rate": rate,
        "hours": 1e8 / rate / 3600,
        "gbit": sums.gbit_per_s(rate, assumed.archive_mb),
        "streams": sums.streams(rate, assumed.archive_mb, assumed),
        "petabytes": 1e8 * assumed.archive_mb / 1e9,
        "pacs_days": 1e8 / assumed.pacs_per_s / 86400,
        "pacs_cores": assumed.pacs_per_s * work.image_ms / 1000,
    }
