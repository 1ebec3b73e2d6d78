"""Bulk scoring beside the limit, and a long run of it, killed in the middle.

python -m tests.benchmarks.bulk [--images DIR] [--rounds 3] [--files 20000] [--fake-engine]

Links a few hundred X-rays as many times as files are wanted, into a folder that is removed at the
end. In each round decoding and inference alone are measured on threads of one process, then
`covid-xray bulk` on some files. Then a long run is watched: rows and memory of the whole process
tree over time; it is killed -9 with its whole process group in the middle, and given again. All
rows are checked: each file once. Writes `bulk.json` and `bulk.png`.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import typer

from app.engines import EngineOptions, open_engine
from app.processor import available_cpus
from app.release import open_release
from tests.benchmarks.bulk.process import Run, Sample, command, fake_command
from tests.benchmarks.bulk.report import Rate, Sitting, draw, write_tables
from tests.benchmarks.machine import ROOT, describe, newest_release
from tests.benchmarks.xrays import KINDS, make_file
from tests.fakes import write_fake_release

ORIGINALS = 300
FOLDER_FILES = 1000
SAMPLE_S = 5.0


def main() -> None:
    asked = _parse()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bulk-", dir=asked.temporary) as name:
        sitting = measure(asked, Path(name))
    file = asked.out / asked.name
    file.with_suffix(".json").write_text(json.dumps(asdict(sitting), indent=1, default=str) + "\n")
    draw(file.with_suffix(".png"), sitting)
    typer.echo(write_tables(sitting))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of real files; else made here")
    parser.add_argument("--kind", choices=KINDS, default="png-224", help="of those made here")
    parser.add_argument("--files", type=int, default=20_000, help="of the long run; 0 for none")
    parser.add_argument("--fake-engine", action="store_true", help="leave inference out")
    parser.add_argument("--kill-at", type=float, default=0.5, help="share of files; 0: never")
    parser.add_argument("--kill-workers", type=int, default=0, help="how often one is killed")
    parser.add_argument("--rounds", type=int, default=3, help="beside the limit")
    parser.add_argument("--round-files", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20, help="for which the limit is measured")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1], help="engines; each is tried"
    )
    parser.add_argument("--temporary", type=Path, help="where links are made")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--name", default="bulk")
    return parser.parse_args()


def measure(asked: argparse.Namespace, folder: Path) -> Sitting:
    """Do all that is asked for."""
    machine = describe()
    originals = find_originals(asked, folder / "originals")
    release = newest_release()
    rates: list[Rate] = []
    if not asked.fake_engine:
        few = folder / "few"
        link(originals, few, asked.round_files)
        rates = measure_rounds(asked, folder, few, release)
    watched = Watched([], [], [])
    if asked.files:
        many = folder / "many"
        link(originals, many, asked.files)
        store = folder / "store" if asked.fake_engine else release.parent.parent
        if asked.fake_engine:
            write_fake_release(store)
        watched = watch(asked, many, folder / "out", store)
    return Sitting(
        machine,
        {name: str(value) for name, value in vars(asked).items()},
        len(originals),
        rates,
        watched.samples,
        watched.killed_at_s,
        watched.gone_after_s,
        check(folder / "out", asked.files) if asked.files else {},
    )


def find_originals(asked: argparse.Namespace, folder: Path) -> list[Path]:
    """Copy some real files to where they can be linked, or make some."""
    folder.mkdir()
    if asked.images:
        found = sorted(asked.images.rglob("*.png"))
        for index, path in enumerate(found[:: max(1, len(found) // ORIGINALS)][:ORIGINALS]):
            shutil.copyfile(path, folder / f"{index:03}.png")
    else:
        for seed in range(ORIGINALS // 10):
            content = make_file(*KINDS[asked.kind], seed)
            (folder / f"{seed:03}.{KINDS[asked.kind][0].lower()}").write_bytes(content)
    return sorted(folder.iterdir())


def link(originals: Sequence[Path], folder: Path, count: int) -> None:
    """Link files again and again, a thousand in a folder."""
    for index in range(count):
        original = originals[index % len(originals)]
        place = folder / f"{index // FOLDER_FILES:04}"
        if index % FOLDER_FILES == 0:
            place.mkdir(parents=True)
        os.link(original, place / f"{index:07}{original.suffix}")


def measure_rounds(asked: argparse.Namespace, folder: Path, few: Path, release: Path) -> list[Rate]:
    """Measure the limit and bulk scoring in turn."""
    engine = open_engine(open_release(release), EngineOptions(threads=1))
    precision = engine.precision
    engine.close()
    rates = []
    for number in range(asked.rounds):
        rates.append(_limit(asked, folder / "originals", release, precision, number))
        for workers in asked.workers:
            out = folder / f"round-{number}-{workers}"
            rates.append(_bulk(few, out, release.parent.parent, workers, number))
        typer.echo("\n".join(map(str, rates[-1 - len(asked.workers) :])))
    return rates


def _limit(
    asked: argparse.Namespace, originals: Path, release: Path, precision: str, number: int
) -> Rate:
    alone = [sys.executable, "-m", "tests.benchmarks.bulk.alone", str(release), precision]
    alone += [str(available_cpus()), str(asked.seconds), str(originals)]
    done = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return Rate(number, "limit", found["files_per_s"], found["cpu_ms"])


def _bulk(few: Path, out: Path, store: Path, workers: int, number: int) -> Rate:
    began = time.monotonic()
    run = Run(command(few, out, workers), out, store)
    samples = []
    while run.running:
        samples.append(run.sample(began))
        time.sleep(SAMPLE_S)  # to look takes CPU time too
    steps = [b for a, b in itertools.pairwise(samples) if b.rows > a.rows]
    parts = sorted(out.glob("part-*.parquet"))
    first, last = parts[0].stat().st_mtime, parts[-1].stat().st_mtime
    files = sum(pq.read_metadata(part).num_rows for part in parts[1:])
    # CPU between two parts, from the samples that saw them first.
    seen = [step for step in steps if step.rows]
    end = seen[-1] if seen[-1].rows > seen[0].rows else samples[-1]
    cpu = 1000 * (end.cpu_s - seen[0].cpu_s) / max(1, end.rows - seen[0].rows)
    return Rate(number, f"bulk, {workers} worker(s)", files / (last - first), cpu)


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of the long run."""

    samples: list[Sample]
    killed_at_s: list[float]
    gone_after_s: list[float]


def watch(asked: argparse.Namespace, many: Path, out: Path, store: Path) -> Watched:
    """Run to the end, with a kill -9 of the process group in the middle, and of workers."""
    began = time.monotonic()
    watched = Watched([], [], [])
    to_kill = asked.kill_at > 0
    workers_left = asked.kill_workers
    arguments = fake_command(many, out) if asked.fake_engine else command(many, out)
    run = Run(arguments, out, store)
    while run.running:
        sample = run.sample(began)
        watched.samples.append(sample)
        if to_kill and sample.rows >= asked.kill_at * asked.files:
            watched.killed_at_s.append(sample.at_s)
            watched.gone_after_s.append(run.kill())
            to_kill = False
            run = Run(arguments, out, store)
        due = asked.files * (asked.kill_workers - workers_left + 1) / (asked.kill_workers + 1)
        if workers_left and sample.rows >= due and run.kill_worker():
            workers_left -= 1
        time.sleep(SAMPLE_S)
    return watched


def check(out: Path, files: int) -> dict[str, Any]:
    """Count rows, files that have more than one, and those without an answer."""
    table = pq.read_table(out, columns=["path", "error_code"])
    counted = Counter(table.column("path").to_pylist())
    return {
        "files": files,
        "rows": table.num_rows,
        "lost": files - len(counted),
        "repeated": sum(count - 1 for count in counted.values()),
        "without_answer": dict(Counter(table.column("error_code").drop_null().to_pylist())),
        "parts": len(list(out.glob("part-*.parquet"))),
    }


if __name__ == "__main__":
    main()
