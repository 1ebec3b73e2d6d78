"""Requests that arrive by themselves, at a rate, whatever becomes of the others.

python -m tests.benchmarks.scaling.openload --port 8000 --rate 10 --seconds 10 --seed 1 REQUEST...

Each REQUEST is a file with an HTTP/1.1 request to the byte. A 503 is counted, and not asked again.
Prints what was seen as JSON.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

import uvloop

from tests.benchmarks.scaling.queueing import poisson
from tests.benchmarks.serving.load import Connection


@dataclass(slots=True)
class Answers:
    """What came back for the requests that arrived.

    Attributes:
        latencies_ms: Of answers with 200, in the order they came.
        refused: Answers with 503.
        failed: Everything else.
    """

    latencies_ms: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0


async def ask(idle: list[Connection], port: int, request: bytes, answers: Answers) -> None:
    """Send a request on a connection of its own, or on one that is idle."""
    connection = idle.pop() if idle else Connection(port)
    began = time.perf_counter()
    try:
        status, _ = await connection.exchange(request)
    except (OSError, EOFError, ValueError):
        connection.close()
        answers.failed += 1
        return
    if status == 200:
        answers.latencies_ms.append(1000 * (time.perf_counter() - began))
    elif status == 503:
        answers.refused += 1
    else:
        answers.failed += 1
    idle.append(connection)


async def run(port: int, requests: list[bytes], rate: float, seconds: float, seed: int) -> Answers:
    """Send requests at random times, and wait for the last answer."""
    answers = Answers()
    idle: list[Connection] = []
    tasks = []
    due = time.perf_counter()
    ends = due + seconds
    for request, pause in zip(cycle(requests), poisson(rate, seed), strict=False):
        due += pause
        if due >= ends:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(idle, port, request, answers)))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("requests", type=Path, nargs="+")
    asked = parser.parse_args()
    requests = [file.read_bytes() for file in asked.requests]
    gc.disable()  # a pause would be taken for the server's
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        work = run(asked.port, requests, asked.rate, asked.seconds, asked.seed)
        json.dump(asdict(runner.run(work)), sys.stdout)


if __name__ == "__main__":
    main()
