"""What a sitting found: as tables, as JSON and as a plot."""

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.benchmarks.figures import Spread, cell, ratio, table
from tests.benchmarks.serving.servers import Contender
from tests.benchmarks.serving.sitting import Case, Limit, Results


@dataclass(frozen=True, slots=True)
class Line:
    """A server under one load, over all rounds.

    Attributes:
        limit_share: Its requests per second over the limit's of the same engine and round.
        beyond_alone_ms: Its median latency less decoding and inference alone; of one client only.
        errors: Of all rounds.
    """

    server: str
    kind: str
    clients: int
    requests_per_s: Spread | None
    p50_ms: Spread | None
    p99_ms: Spread | None
    p99_over_p50: Spread | None
    limit_share: Spread | None
    beyond_alone_ms: Spread | None
    errors: int


def summarize(results: Results, contenders: list[Contender]) -> list[Line]:
    """Sum up the rounds; a share is taken within each round, whose noise is the same for both."""
    by_name = {contender.name: contender for contender in contenders}
    limits = {(each.round, each.engine, each.precision, each.kind): each for each in results.limits}

    def limit_of(case: Case) -> Limit:
        contender = by_name[case.server]
        return limits[case.round, contender.engine, contender.precision, case.kind]

    keys = dict.fromkeys((case.kind, case.clients, case.server) for case in results.cases)
    return [
        _line(
            [case for case in results.cases if key == (case.kind, case.clients, case.server)],
            limit_of,
        )
        for key in keys
    ]


def _line(cases: list[Case], limit_of: Callable[[Case], Limit]) -> Line:
    one = cases[0]
    return Line(
        server=one.server,
        kind=one.kind,
        clients=one.clients,
        requests_per_s=Spread.of(case.requests_per_s for case in cases),
        p50_ms=Spread.of(case.p50_ms for case in cases),
        p99_ms=Spread.of(case.p99_ms for case in cases),
        p99_over_p50=Spread.of(ratio(case.p99_ms, case.p50_ms) for case in cases),
        limit_share=Spread.of(ratio(case.requests_per_s, best(limit_of(case))) for case in cases),
        beyond_alone_ms=Spread.of(
            _less(case.p50_ms, limit_of(case).alone_ms) for case in cases if case.clients == 1
        ),
        errors=sum(sum(case.errors.values()) for case in cases),
    )


def best(limit: Limit) -> float:
    """Files per second with the number of threads that gave most."""
    return max(limit.requests_per_s.values())


def write_tables(results: Results, lines: list[Line]) -> str:
    """Write all figures for a terminal: median, and minimum to maximum of the rounds.

    A server's limit, and what it takes alone, are of its own engine and precision.
    """
    parts = []
    for kind, clients in dict.fromkeys((line.kind, line.clients) for line in lines):
        chosen = [line for line in lines if (line.kind, line.clients) == (kind, clients)]
        title = f"{kind}, {clients} client{'s' * (clients > 1)}"
        parts.append(f"{title}\n{table(_rows(chosen, results, kind))}")
    parts.append(f"processes\n{table(list(_process_rows(results)))}")
    return "\n\n".join(parts)


def _rows(lines: list[Line], results: Results, kind: str) -> list[list[str]]:
    alone = lines[0].clients == 1
    last = "ms beyond alone" if alone else "of its limit"
    rows = [["", "requests/s", "p50 ms", "p99 ms", "p99/p50", "errors", last]]
    for line in lines:
        figures = [cell(each) for each in (line.requests_per_s, line.p50_ms, line.p99_ms)]
        end = cell(line.beyond_alone_ms) if alone else cell(line.limit_share, 2)
        errors = str(line.errors)
        rows.append([line.server, *figures, cell(line.p99_over_p50, 2), errors, end])
    for name, limits in _grouped(results, kind):
        if alone:
            latency = Spread.of(limit.alone_ms for limit in limits)
            rows.append([f"alone: {name}", "", cell(latency), "", "", "", ""])
        else:
            rate = Spread.of(map(best, limits))
            rows.append([f"limit: {name}", cell(rate), "", "", "", "", ""])
    return rows


def _grouped(results: Results, kind: str) -> Iterable[tuple[str, list[Limit]]]:
    found: dict[str, list[Limit]] = {}
    for limit in results.limits:
        if limit.kind == kind:
            found.setdefault(f"{limit.engine} {limit.precision}", []).append(limit)
    return sorted(found.items())


def _process_rows(results: Results) -> Iterable[list[str]]:
    yield ["", "first answer s", "RSS MiB", "PSS MiB"]
    for name in dict.fromkeys(each.server for each in results.processes):
        found = [each for each in results.processes if each.server == name]
        yield [
            name,
            cell(Spread.of(each.first_answer_s for each in found)),
            cell(Spread.of(each.rss_mib for each in found), 0),
            cell(Spread.of(each.pss_mib for each in found), 0),
        ]


def write_json(
    file: Path, machine: dict[str, Any], asked: dict[str, Any], results: Results, lines: list[Line]
) -> None:
    """Write everything: the machine, what was asked, the rounds, and what they sum up to."""
    content = {
        "machine": machine,
        "options": asked,
        "summary": [asdict(line) for line in lines],
        "rounds": asdict(results),
    }
    file.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def draw(file: Path, machine: dict[str, Any], results: Results, lines: list[Line]) -> None:
    """Draw requests per second and latency under the most clients, a panel for each kind."""
    clients = max(line.clients for line in lines)
    kinds = list(dict.fromkeys(line.kind for line in lines))
    figure = Figure(figsize=(max(6, 4.5 * len(kinds)), 7), layout="constrained")
    axes = figure.subplots(2, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        chosen = [line for line in lines if (line.kind, line.clients) == (kind, clients)]
        _draw_rates(axes[0][column], chosen, _grouped(results, kind))
        _draw_latencies(axes[1][column], chosen)
        axes[0][column].set_title(kind)
    cores = machine["cores_used"]
    figure.suptitle(
        f"{clients} clients; median of the rounds, with minimum and maximum\n"
        f"{machine['processor']}, cores: {cores}, {machine['date'][:10]}",
        fontsize="medium",
    )
    figure.savefig(file, dpi=120)


def _draw_rates(axis: Any, lines: list[Line], limits: Iterable[tuple[str, list[Limit]]]) -> None:
    _draw_bars(axis, 0, 0.7, [line.requests_per_s for line in lines])
    for style, (name, found) in zip(("-", "--", ":", "-."), limits, strict=False):
        rate = statistics.median(map(best, found))
        axis.axhline(rate, color="black", ls=style, lw=1, label=f"limit: {name}")
    axis.set_ylabel("requests/s")
    _name_bars(axis, lines)


def _draw_latencies(axis: Any, lines: list[Line]) -> None:
    _draw_bars(axis, -0.18, 0.34, [line.p50_ms for line in lines], label="p50")
    _draw_bars(axis, 0.18, 0.34, [line.p99_ms for line in lines], label="p99")
    axis.set_ylabel("latency, ms")
    _name_bars(axis, lines)


def _draw_bars(
    axis: Any, shift: float, width: float, spreads: list[Spread | None], **options: str
) -> None:
    known = [(place + shift, spread) for place, spread in enumerate(spreads) if spread]
    heights = [spread.median for _, spread in known]
    ends = [
        [spread.median - spread.low for _, spread in known],
        [spread.high - spread.median for _, spread in known],
    ]
    places = [place for place, _ in known]
    axis.bar(places, heights, width, yerr=ends if known else None, capsize=3, **options)


def _name_bars(axis: Any, lines: list[Line]) -> None:
    axis.set_xticks(range(len(lines)), [line.server for line in lines], fontsize="small")
    axis.tick_params(axis="x", rotation=25)
    axis.legend(fontsize="small", loc="upper left")


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
