"""What a sitting of bulk scoring found: tables and a plot."""

import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.benchmarks.bulk.process import Sample
from tests.benchmarks.figures import Spread, cell, table

SETTLED = 0.1
"""Share of a run's rows after which memory is compared: what is allocated once has been."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast files went in a round.

    Attributes:
        cpu_ms: Milliseconds of CPU for a file, of all processes: what load by others changes least.
    """

    round: int
    what: str
    files_per_s: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Sitting:
    """All that was measured."""

    machine: dict[str, Any]
    options: dict[str, str]
    originals: int
    rates: list[Rate]
    samples: list[Sample]
    killed_at_s: list[float]
    gone_after_s: list[float]
    checked: dict[str, Any]


def write_tables(sitting: Sitting) -> str:
    """Write all figures for a terminal: median, and minimum to maximum of the rounds."""
    parts = []
    if sitting.rates:
        parts.append(table(_rate_rows(sitting.rates)))
    if sitting.samples:
        parts.append("\n".join(f"{name}: {value}" for name, value in sitting.checked.items()))
        parts.append(table(_memory_rows(sitting)))
    return "\n\n".join(parts)


def _rate_rows(rates: list[Rate]) -> list[list[str]]:
    limits = {each.round: each for each in rates if each.what == "limit"}
    rows = [["", "files/s", "CPU ms a file", "of the limit", "limit's CPU / its"]]
    for what in dict.fromkeys(each.what for each in rates):
        found = [each for each in rates if each.what == what]
        shares = Spread.of(each.files_per_s / limits[each.round].files_per_s for each in found)
        costs = Spread.of(limits[each.round].cpu_ms / each.cpu_ms for each in found)
        rate = Spread.of(each.files_per_s for each in found)
        cpu = Spread.of(each.cpu_ms for each in found)
        rows.append([what, cell(rate), cell(cpu), cell(shares, 2), cell(costs, 2)])
    return rows


def _memory_rows(sitting: Sitting) -> list[list[str]]:
    """Compare the medians of tenths of each run, from one start to the next."""
    rows = [["PSS MiB, median", "early", "late", "most", "files/s"]]
    ends = [*sitting.killed_at_s, sitting.samples[-1].at_s]
    begin = 0.0
    for number, end in enumerate(ends, 1):
        run = [each for each in sitting.samples if begin <= each.at_s <= end]
        begin = end + 1e-6
        low, high = run[0].rows, run[-1].rows
        scoring = [each for each in run if low < each.rows < high] or run
        early = scoring[len(scoring) // 10 : len(scoring) // 5 + 1]
        late = scoring[-(len(scoring) // 10 + 1) :]
        seconds = scoring[-1].at_s - scoring[0].at_s
        rate = (scoring[-1].rows - scoring[0].rows) / seconds if seconds else 0
        rows.append(
            [
                f"run {number}",
                f"{statistics.median(each.pss_mib for each in early):.0f}",
                f"{statistics.median(each.pss_mib for each in late):.0f}",
                f"{max(each.pss_mib for each in run):.0f}",
                f"{rate:.1f}",
            ]
        )
    return rows


def draw(file: Path, sitting: Sitting) -> None:
    """Draw rows, files per second and memory over time."""
    if not sitting.samples:
        return
    figure = Figure(figsize=(9, 9), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    minutes = [each.at_s / 60 for each in sitting.samples]
    axes[0].plot(minutes, [each.rows for each in sitting.samples])
    axes[0].set_ylabel("rows in finished parts")
    _draw_rate(axes[1], sitting.samples)
    for name, label in (
        ("pss_mib", "all processes"),
        ("worker_mib", "engines' process"),
        ("driver_mib", "command's process"),
    ):
        axes[2].plot(minutes, [getattr(each, name) for each in sitting.samples], label=label)
    axes[2].set_ylabel("PSS, MiB")
    axes[2].set_ylim(bottom=0)
    axes[2].set_xlabel("minutes")
    axes[2].legend(fontsize="small")
    for axis in axes:
        axis.grid(alpha=0.3)
        for at_s in sitting.killed_at_s:
            axis.axvline(at_s / 60, color="red", ls="--", lw=1)
    engine = "no inference (a fake engine)" if sitting.options["fake_engine"] == "True" else "real"
    machine = sitting.machine
    figure.suptitle(
        f"{sitting.checked['rows']} files of {sitting.originals} X-rays; engine: {engine}; "
        f"dashed: kill -9 and the same command again\n{machine['processor']}, cores: "
        f"{machine['cores_used']}, load before: {machine['load_before'][0]}, "
        f"{machine['date'][:10]}",
        fontsize="medium",
    )
    figure.savefig(file, dpi=110)


def _draw_rate(axis: Any, samples: list[Sample]) -> None:
    """Draw the rate between the moments at which parts came, each run for itself."""
    steps = [b for a, b in itertools.pairwise(samples) if b.rows != a.rows]
    pairs = [(a, b) for a, b in itertools.pairwise(steps) if b.at_s - a.at_s > 1]
    axis.step(
        [b.at_s / 60 for _, b in pairs],
        [(b.rows - a.rows) / (b.at_s - a.at_s) for a, b in pairs],
        where="pre",
    )
    axis.set_ylabel("files/s")
    axis.set_ylim(bottom=0)
