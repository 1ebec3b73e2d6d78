"""One process, two behind HAProxy, two on Ray Serve: the same release on the same two cores.

python -m tests.benchmarks.cluster [--rounds 3] [--seconds 5] [--inputs png-224,png-1024]

Prints tables; writes `cluster.json` and `cluster.png` into `--out`. Memory is that of all processes
of a contender, HAProxy's and Ray's own included, and so is the CPU time of a request.
"""

import argparse
import logging
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import typer

from app.release import EngineName, Precision, open_release
from tests.benchmarks.cluster.effort import EffortSitting
from tests.benchmarks.figures import Spread, cell, table
from tests.benchmarks.machine import describe, newest_release
from tests.benchmarks.serving import report
from tests.benchmarks.serving.options import OUT, Options, available_cores, split_cpus
from tests.benchmarks.serving.servers import Contender, choose_precisions
from tests.benchmarks.xrays import KINDS, make_inputs
from tests.integration.balancer import HAPROXY
from tests.integration.server import SERVE

CORES = 2


def parse() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.cluster",
        description="One process, HAProxy and Ray Serve, in one sitting.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--precision", default="auto", help="f32, bf16, int8; auto is the fastest here")
    add("--inputs", default="png-224", help=f"of {','.join(KINDS)}")
    add("--clients", type=int, default=16, help="that ask at the same time")
    add("--seconds", type=float, default=5.0, help="of each case")
    add("--warm-up", type=float, default=3.0, help="seconds before each case that do not count")
    add("--rounds", type=int, default=3, help="how often everything is measured")
    add("--out", type=Path, default=OUT, help="folder of the results")
    asked = parser.parse_args()
    return Options(
        release=newest_release().resolve(),
        servers=("single", "haproxy", "ray"),
        precisions=(asked.precision,),
        kinds=tuple(asked.inputs.split(",")),
        images=None,
        clients=asked.clients,
        seconds=asked.seconds,
        warm_up=asked.warm_up,
        rounds=asked.rounds,
        cpus=CORES,
        load_cpus=0,
        out=asked.out,
    )


def contenders(release: Path, engine: EngineName, precision: Precision) -> list[Contender]:
    """List what is measured; HAProxy only where it is installed."""
    settings = {
        "port": "{port}",
        "model_store": str(release.parents[1]),
        "model_version": release.name,
        "engine": engine,
        "precision": precision,
        "acceptance": "warn",  # a synthetic image is no X-ray
        "threads": "1",
        "log_level": "warning",
    }
    replica = {f"COVID_XRAY_{key.upper()}": value for key, value in settings.items()}
    alone = replica | {"COVID_XRAY_THREADS": str(CORES)}
    start = (sys.executable, "-m")
    balanced = (*start, "tests.benchmarks.cluster.balanced", "{port}")
    on_ray = (*start, "tests.benchmarks.cluster.on_ray", "{port}")
    found = [Contender("one process", tuple(SERVE), alone, "/v1/predictions", engine, precision)]
    if HAPROXY:
        name = f"HAProxy, {CORES} processes"
        found.append(Contender(name, balanced, replica, "/v1/predictions", engine, precision))
    name = f"Ray Serve, {CORES} replicas"
    return [*found, Contender(name, on_ray, replica, "/v1/predictions", engine, precision)]


def main() -> None:
    """Measure, and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parse()
    own_cpus, load_cpus = split_cpus(available_cores(), options.cpus, options.load_cpus)
    os.sched_setaffinity(0, own_cpus)  # and with it, every process that is started here
    machine = describe()
    manifest = open_release(options.release).manifest
    ((engine, precision),) = choose_precisions(manifest, options.precisions)
    servers = contenders(options.release, engine, precision)
    inputs = make_inputs(options.kinds)
    with tempfile.TemporaryDirectory() as folder:
        sitting = EffortSitting(options, servers, inputs, load_cpus, Path(folder))
        results = sitting.run()
    lines = report.summarize(results, servers)
    options.out.mkdir(parents=True, exist_ok=True)
    asked = asdict(options) | {"cpu_ms": sitting.cpu_ms}
    report.write_json(options.out / "cluster.json", machine, asked, results, lines)
    report.draw(options.out / "cluster.png", machine, results, lines)
    effort = [["", "CPU ms of a request"]]
    effort += [[name, cell(Spread.of(found))] for name, found in sitting.cpu_ms.items()]
    typer.echo(f"{report.write_tables(results, lines)}\n\n{table(effort)}")


if __name__ == "__main__":
    main()
