"""The service beside plain servers and the limit, in one sitting on one machine.

python -m tests.benchmarks.serving [--rounds 3] [--cpus 2] [--images DIR] [--precision auto]

Prints tables; writes `serving.json` and `serving.png` into `--out`. LitServe, where it is
installed, is the third of the plain servers.
"""

import logging
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import typer

from app.release import open_release
from tests.benchmarks.machine import describe
from tests.benchmarks.serving import report
from tests.benchmarks.serving.options import available_cores, parse, split_cpus
from tests.benchmarks.serving.servers import choose_precisions, contenders
from tests.benchmarks.serving.sitting import Sitting
from tests.benchmarks.xrays import make_inputs, read_inputs


def main() -> None:
    """Measure, and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parse()
    manifest = open_release(options.release).manifest
    own_cpus, load_cpus = split_cpus(available_cores(), options.cpus, options.load_cpus)
    os.sched_setaffinity(0, own_cpus)  # and with it, every process that is started here
    machine = describe()
    precisions = choose_precisions(manifest, options.precisions)
    servers = contenders(options.servers, options.release, precisions)
    inputs = read_inputs(options.images) if options.images else make_inputs(options.kinds)
    with tempfile.TemporaryDirectory() as folder:
        results = Sitting(options, servers, inputs, load_cpus, Path(folder)).run()
    lines = report.summarize(results, servers)
    asked = asdict(options) | {
        "bytes": {kind: [len(file) for file in files] for kind, files in inputs.items()}
    }
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_json(options.out / "serving.json", machine, asked, results, lines)
    report.draw(options.out / "serving.png", machine, results, lines)
    typer.echo(report.write_tables(results, lines))


if __name__ == "__main__":
    main()
