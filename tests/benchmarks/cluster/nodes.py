"""Ray nodes that die at random times under load: what becomes of requests, and how long it takes.

python -m tests.benchmarks.cluster.nodes [--kills 5] [--clients 32] [--seed 0]

Serves the newest release of `model_store` on three nodes, kills one after another without warning,
and adds another for it. Prints the statuses that clients met, how many requests had no answer in
the end, and the seconds from each death until all replicas ran again.
"""

import argparse
import random
import time
from functools import partial

import typer

from tests.benchmarks.machine import newest_release
from tests.integration.load import Load, until
from tests.integration.ray_nodes import RayServer

NODES = 3
MOST_S = 5.0
"""That pass at most before the next one dies, and before another takes its place."""


def main() -> None:
    """Kill, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)  # noqa: S311 -- no secret
    store = newest_release().parents[1]
    settings = {"model_store": str(store), "acceptance": "warn", "log_level": "warning"}
    server = RayServer(NODES, settings, health_check_period_s=0.5)
    took = []
    try:
        server.replica["autoscaling_config"] |= {"min_replicas": NODES, "max_replicas": NODES}
        server.wait_until_ready()
        server.deploy()
        server.wait_for("RUNNING", NODES)
        with Load(server.client.base_url, asked.clients) as load:
            for _ in range(asked.kills):
                time.sleep(chance.uniform(0, MOST_S))
                died = time.monotonic()
                answered = load.met[200]
                server.call("kill")
                time.sleep(chance.uniform(0, MOST_S))
                server.call("add")
                server.wait_for("RUNNING", NODES)
                took.append(round(time.monotonic() - died, 1))
                until(partial(_has_answered, load, answered))
    finally:
        server.stop()
    typer.echo(f"met {dict(load.met)}, lost {load.lost}, seconds to all replicas {took}")


def _has_answered(load: Load, more_than: int) -> bool:
    return load.met[200] > more_than


if __name__ == "__main__":
    main()
