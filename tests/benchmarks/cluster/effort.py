"""What a request costs a contender, over all of its processes."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import psutil

from tests.benchmarks.serving.load import Connection
from tests.benchmarks.serving.servers import Running, descendants
from tests.benchmarks.serving.sitting import Sitting

CLIENTS = 4
REQUESTS = 40


def cpu_s(pid: int) -> float:
    """Add up the CPU time of a process, its children, and theirs."""
    found = 0.0
    for each in descendants(pid):
        with suppress(psutil.Error):  # it has just ended
            times = psutil.Process(each).cpu_times()
            found += times.user + times.system
    return found


async def send(port: int, requests: Sequence[bytes]) -> None:
    """Send so many requests as there are to be, some at a time.

    Raises:
        ValueError: One was not answered well.
    """

    async def run() -> None:
        connection = Connection(port)
        for number in range(REQUESTS // CLIENTS):
            status, _ = await connection.exchange(requests[number % len(requests)])
            if status != 200:
                raise ValueError(f"Expected the status 200; received {status}.")
        connection.close()

    await asyncio.gather(*(run() for _ in range(CLIENTS)))


class EffortSitting(Sitting):
    """Measures CPU time too: other work on the machine changes it less than it does latency.

    Attributes:
        cpu_ms: Name of a contender → CPU milliseconds of a request, for each round and kind.
    """

    @cached_property
    def cpu_ms(self) -> dict[str, list[float]]:
        return {}

    def _load(self, running: Running, requests: list[bytes], clients: int) -> dict[str, Any]:
        found = super()._load(running, requests, clients)
        if clients > 1:
            before = cpu_s(running.pid)
            asyncio.run(send(running.port, requests))
            spent = 1000 * (cpu_s(running.pid) - before) / REQUESTS
            self.cpu_ms.setdefault(running.name, []).append(spent)
        return found
