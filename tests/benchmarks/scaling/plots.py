"""The pictures of docs/scaling.md."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.benchmarks.scaling.fleet import PLANNED

_DPI = 90


def draw(folder: Path, found: dict[str, Any]) -> None:
    """Draw all of them into a folder."""
    folder.mkdir(exist_ok=True)
    _draw_latency(folder / "scaling-latency.png", found["simulated"])
    _draw_validation(folder / "scaling-validation.png", found["measured"]["validation"])


def _draw_latency(file: Path, simulated: dict[str, Any]) -> None:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    curves = {f"{count} x 2 threads": curve for count, curve in simulated["curves"].items()}
    for name, curve in curves.items():
        axis.plot(*_columns(curve, "p99_ms"), marker="o", ms=3, label=name)
    axis.plot(
        *_columns(simulated["random"], "p99_ms"), "k--", lw=1, label="64 x 2, chosen at random"
    )
    axis.set(
        xlabel="requests a second, over what the replicas can do",
        ylabel="99th percentile of latency, ms",
        yscale="log",
        title=f"Simulated: {', '.join(PLANNED)}",
    )
    axis.yaxis.set_major_formatter("{x:.0f}")
    axis.yaxis.set_minor_formatter("{x:.0f}")
    axis.grid(visible=True, which="both", alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(file, dpi=_DPI)


def _columns(points: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [each["load"] for each in points], [each[name] for each in points]


def _draw_validation(file: Path, validation: dict[str, Any]) -> None:
    loads = validation["loads"]
    places = range(len(loads))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    titles = {
        "answers_per_s": "answers a second",
        "p50_ms": "median, ms",
        "p99_ms": "99th percentile, ms",
        "refused": "share refused",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        predicted = [each["predicted"][name] for each in loads]
        middle = [each[0] for each in predicted]
        ends = [[m - low for m, low, _ in predicted], [high - m for m, _, high in predicted]]
        axis.errorbar(places, middle, yerr=ends, fmt="o", capsize=4, label="model, 5% to 95%")
        axis.plot(places, [each["measured"][name] for each in loads], "kx", label="service")
        axis.set_xticks(places, [f"{each['load']:g}" for each in loads])
        axis.set(title=title, xlabel="load", ylim=(0, None))
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.savefig(file, dpi=_DPI)
