"""What becomes of requests where a server is overloaded, or given new releases, for long.

python -m tests.benchmarks.endurance [--overload-seconds 60] [--reloads 50]

Starts the service with the newest release of `model_store`, and prints what was seen: ten times as
many clients as it has places, which ask again at once when they are refused or, the patient ones,
when `Retry-After` says; then new versions under load, each in the place of the one before. The load
takes its share of the same cores: CPU times are in percent of one core, of the whole of a row.
"""

import argparse
import asyncio
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import typer

from tests.benchmarks.figures import percentile, table
from tests.benchmarks.machine import ROOT, newest_release
from tests.benchmarks.serving.load import Load, Tally, run_client
from tests.benchmarks.serving.requests import build_request
from tests.benchmarks.xrays import make_inputs
from tests.integration.server import Server

MEGABYTE = 2**20
QUEUE = 16
TIMES = 10
WARM_UP_S = 2.0
SETTLED = 4
"""Versions after which memory is measured first: what is allocated once has been."""
SETTLES_S = 5.0
"""After a reload, in which the older release is closed by its last user."""


HEAD = [
    *("", "accepted/s", "p50 ms", "p99 ms", "refused", "other failures", "RSS MiB"),
    *("service CPU", "load CPU"),
]


def rss(server: Server) -> float:
    """Resident memory of the server, in MiB."""
    return float(psutil.Process(server.process.pid).memory_info().rss / MEGABYTE)


def cpu_s(server: Server) -> float:
    """Seconds of CPU time that the server has taken."""
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


async def run_load(server: Server, requests: list[Path], load: Load) -> tuple[Tally, list[str]]:
    """Run clients in a process of their own.

    Returns:
        What they saw, and the CPU that the server and they took.
    """
    port = server.client.base_url.port
    options = {
        "port": port,
        "clients": load.clients,
        "warm-up": load.warm_up_s,
        "seconds": load.seconds,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    words += ["--patient"] if load.patient else []
    began, before_s = time.perf_counter(), cpu_s(server)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.serving.load", *words, *map(str, requests)),
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    passed_s = time.perf_counter() - began
    found = json.loads(out)
    tally = Tally(0, load.seconds, found["latencies_ms"], Counter(found["errors"]))
    shares = ((cpu_s(server) - before_s) / passed_s, found["cpu_s"] / passed_s)
    return tally, [f"{share:.0%}" for share in shares]


def row(name: str, tally: Tally, server: Server, seconds: float) -> list[str]:
    """Tell a tally: accepted, the spread of their latency, refusals, anything else, memory."""
    middle, late = (percentile(tally.latencies_ms, share) for share in (0.5, 0.99))
    others = {kind: count for kind, count in tally.errors.items() if kind != "503"}
    return [
        name,
        f"{len(tally.latencies_ms) / seconds:.1f}",
        f"{middle or 0:.0f}",
        f"{late or 0:.0f}",
        str(tally.errors["503"]),
        str(others or "none"),
        f"{rss(server):.0f}",
    ]


async def overload(store: Path, requests: list[Path], seconds: float) -> list[list[str]]:
    """Fill every place, then ask with ten times as many clients."""
    server = Server(
        {
            "model_store": str(store),
            "queue_limit": str(QUEUE),
            "log_level": "error",
            "acceptance": "warn",
        }
    )
    await asyncio.to_thread(server.wait_until_ready)
    places = QUEUE + len(os.sched_getaffinity(0))
    rows = []
    for name, load in {
        "all places": Load(places, WARM_UP_S, seconds),
        f"{TIMES} times": Load(TIMES * places, WARM_UP_S, seconds),
        f"{TIMES} times, patient": Load(TIMES * places, WARM_UP_S, seconds, patient=True),
    }.items():
        tally, shares = await run_load(server, requests, load)
        told = f"{name}: {load.clients} clients"
        rows.append([*row(told, tally, server, seconds), *shares])
    server.stop()
    return rows


async def reload(release: Path, requests: list[bytes], times: int) -> list[list[str]]:
    """Put version after version into a store that is served."""
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        family = Path(folder) / release.parent.name
        family.mkdir()
        put(release, family, 1)
        server = Server(
            {"model_store": folder, "follow_s": "0.2", "log_level": "error", "acceptance": "warn"}
        )
        await asyncio.to_thread(server.wait_until_ready)
        port = server.client.base_url.port or 0
        began = time.perf_counter()
        tally = Tally(began, math.inf)
        clients = [asyncio.create_task(run_client(port, requests, i, tally)) for i in range(4)]
        rows = []
        for version in range(2, times + 2):
            put(release, family, version)
            await asyncio.to_thread(wait_until_served, server, version)
            shutil.rmtree(family / str(version - 1))
            if version in {SETTLED + 1, times + 1}:
                await asyncio.sleep(SETTLES_S)
                seconds = time.perf_counter() - began
                rows.append([*row(f"{version - 1} reloads", tally, server, seconds), "-", "-"])
        tally.closes = time.perf_counter()  # the clients stop after their next answer
        await asyncio.gather(*clients)
        server.stop()
    return rows


def wait_until_served(server: Server, version: int) -> None:
    """Ask which version answers until it is this one."""
    while server.client.get("/health/ready").json()["version"] != version:
        time.sleep(0.1)


def put(release: Path, family: Path, version: int) -> None:
    """Link a release's files as another version, with the manifest for it."""
    hidden = family / f".{version}"
    shutil.copytree(release, hidden, copy_function=os.link)
    manifest = hidden / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8")) | {"version": version}
    manifest.unlink()
    manifest.write_text(json.dumps(content), encoding="utf-8")
    hidden.rename(family / str(version))


async def main() -> None:
    """Do both, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--overload-seconds", type=float, default=60)
    parser.add_argument("--reloads", type=int, default=50)
    asked = parser.parse_args()
    (ROOT / "build").mkdir(exist_ok=True)
    release = newest_release()
    requests = [
        build_request("/v1/predictions", file) for file in make_inputs(["png-1024"])["png-1024"]
    ]
    rows = [HEAD]
    if asked.overload_seconds:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / str(index) for index in range(len(requests))]
            for file, request in zip(files, requests, strict=True):
                file.write_bytes(request)
            rows += await overload(release.parent.parent, files, asked.overload_seconds)
    if asked.reloads:
        rows += await reload(release, requests, asked.reloads)
    typer.echo(table(rows))


if __name__ == "__main__":
    asyncio.run(main())
