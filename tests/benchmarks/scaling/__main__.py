"""From one core to ten thousand requests a second: measured, simulated, written down.

python -m tests.benchmarks.scaling [measure] [simulate] [write] [--rounds 3] [--seconds 2.5]

`measure` puts what it measures into `docs/scaling.json`, `simulate` adds what the model says of it,
and `write` makes `docs/scaling.md` and its pictures of both; all three where none is named.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import ROOT
from tests.benchmarks.scaling import fleet, plots, report, sitting

DATA = ROOT / "docs" / "scaling.json"
STEPS = ("measure", "simulate", "write")


def main() -> None:
    """Do the steps that are asked for."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help="all where none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=2.5, help="of what it all is a multiple of"
    )
    parser.add_argument("--data", type=Path, default=DATA)
    asked = parser.parse_args()
    steps = asked.steps or STEPS
    found: dict[str, Any] = {}
    if "measure" in steps:
        found["measured"] = sitting.measure(asked.rounds, asked.seconds)
        _save(asked.data, found)
    else:
        found = json.loads(asked.data.read_text(encoding="utf-8"))
    if "simulate" in steps:
        found["simulated"] = fleet.simulate(found["measured"])
        _save(asked.data, found)
    if "write" in steps:
        plots.draw(asked.data.parent / "images", found)
        text = report.write(found)
        asked.data.with_suffix(".md").write_text(text, encoding="utf-8")


def _save(file: Path, found: dict[str, Any]) -> None:
    """Write JSON: a line for each innermost list."""
    file.write_text(report.compact(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
