"""The model of queues against theory, and docs/scaling.md against what was measured."""

import asyncio
import json
import math
import random
from itertools import repeat
from typing import Any

import pytest

from tests.benchmarks.machine import ROOT
from tests.benchmarks.scaling import fleet, report, sums
from tests.benchmarks.scaling.openload import run
from tests.benchmarks.scaling.queueing import Fleet, Simulation, drawn_from, poisson
from tests.benchmarks.scaling.sitting import quantiles

DATA = json.loads((ROOT / "docs" / "scaling.json").read_text(encoding="utf-8"))
NEVER_FULL = 10**6


def exponential(rng: random.Random) -> float:
    return rng.expovariate(1.0)


def erlang_c(servers: int, load: float) -> float:
    """Give the share of requests that wait, of M/M/c (Erlang's second formula)."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**n / math.factorial(n) for n in range(servers)) + last)


@pytest.mark.parametrize(("threads", "load"), [(2, 1.6), (8, 6.4)])
def test_a_replica_waits_as_erlang_says(threads: int, load: float) -> None:
    one = Fleet(1, threads, NEVER_FULL)
    latencies = [
        each
        for seed in range(3)  # chance makes long waits follow each other
        for each in Simulation(
            one, exponential, poisson(load, seed), (500, 500 + 10_000 / load), seed + 10
        )
        .run()
        .latencies_s
    ]
    expected = erlang_c(threads, load) / (threads - load) + 1
    assert sum(latencies) / len(latencies) == pytest.approx(expected, rel=0.1)


def test_a_steady_service_makes_half_the_wait_of_a_random_one() -> None:
    seen = Simulation(Fleet(1, 1, NEVER_FULL), lambda _: 1.0, poisson(0.8), (500, 20_500)).run()
    mean = sum(seen.latencies_s) / len(seen.latencies_s)
    assert mean == pytest.approx(0.8 / (2 * (1 - 0.8)) + 1, rel=0.1)  # Pollaczek and Khinchine


def test_a_full_replica_refuses_as_the_formula_of_a_finite_queue_says() -> None:
    load, places = 1.25, 5
    seen = Simulation(Fleet(1, 1, places - 1), exponential, poisson(load), (500, 10_500)).run()
    expected = (1 - load) * load**places / (1 - load ** (places + 1))  # of M/M/1/K
    assert seen.refused_share == pytest.approx(expected, rel=0.1)
    assert seen.lost == seen.refusals


def test_the_balancer_sends_a_request_to_who_has_the_fewest() -> None:
    two = Fleet(2, 1, 0)
    seen = Simulation(two, lambda _: 1.9, repeat(1.0), (0, 1000)).run()
    assert seen.refusals == 0  # each second the other one
    by_chance = Simulation(Fleet(2, 1, 0, "random"), lambda _: 1.9, repeat(1.0), (0, 1000)).run()
    assert by_chance.refused_share > 0.2


def test_a_refused_client_comes_again_when_retry_after_is_over() -> None:
    arrivals = [0.0, 0.1]  # the second finds the only place taken, and is told to wait for 1 s
    alone = Fleet(1, 1, 0, tries=2)
    seen = Simulation(alone, lambda _: 0.5, iter(arrivals), (0, 10)).run()
    assert seen.latencies_s == pytest.approx([0.5, 1.5])
    assert (seen.refusals, seen.lost) == (1, 0)
    once = Simulation(Fleet(1, 1, 0), lambda _: 0.5, iter(arrivals), (0, 10)).run()
    assert (once.refusals, once.lost) == (1, 1)


def test_what_is_drawn_has_the_distribution_that_was_measured() -> None:
    rng = random.Random(0)  # noqa: S311 -- a simulation
    measured = [rng.gammavariate(4, 10) for _ in range(5000)]
    draw = drawn_from(quantiles(measured), more_ms=5)
    drawn = [1000 * draw(rng) - 5 for _ in range(5000)]
    for share in (10, 50, 95):
        assert quantiles(drawn)[share] == pytest.approx(quantiles(measured)[share], rel=0.1)


@pytest.mark.anyio
async def test_open_load_counts_what_is_answered_refused_and_neither() -> None:
    heads = iter([b"200 OK", b"503 Service Unavailable", b"500 Oh"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4):
            writer.write(b"HTTP/1.1 " + next(heads, b"200 OK") + b"\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        answers = await run(server.sockets[0].getsockname()[1], [b"ask\n"], 200, 0.2, 1)
        await asyncio.sleep(0.1)  # the server sees its clients leave
    assert (answers.refused, answers.failed) == (1, 1)
    assert len(answers.latencies_ms) == len([*_arrivals(200, 0.2)]) - 2


def _arrivals(rate: float, seconds: float) -> Any:
    now = 0.0
    for pause in poisson(rate, 1):
        now += pause
        if now >= seconds:
            return
        yield now


def test_a_documented_processor_is_read_from_the_operators_guide() -> None:
    found = {(precision, kind): each for precision, kind, each in fleet.documented()}
    assert found.keys() == {
        (precision, kind) for precision in ("int8", "bf16") for kind in DATA["measured"]["bytes"]
    }
    works = {
        (each.processor, each.precision, each.kind): each for each in fleet.works(DATA["measured"])
    }
    assert works[fleet.PLANNED].image_ms == found[fleet.PLANNED[1:]]


def test_costs_and_hours_are_what_they_are_called() -> None:
    work = fleet.Work("AVX2", "f32", "png-224", 36.0, 0.0, (36.0, 36.0))
    assert sums.bulk_hours(1e6, work, 10, 1.0) == pytest.approx(1.0)
    assert sums.cost_per_million(36.0, 0.04, 0.5) == pytest.approx(0.8)
    assert sums.gbit_per_s(10_000, 1.0) == 80
    assert sums.streams(100, 10, sums.Assumptions()) == pytest.approx(25)


def test_the_document_says_what_was_measured() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert text == report.write(DATA)


def test_the_data_are_written_as_the_program_writes_them() -> None:
    text = (ROOT / "docs" / "scaling.json").read_text(encoding="utf-8")
    assert text == report.compact(DATA) + "\n"
    changed = json.loads(text)
    changed["measured"]["core"]["int8"]["png-1024"]["inference_ms"] += 1
    assert report.write(changed) != report.write(DATA)
