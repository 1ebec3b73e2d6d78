"""A closed loop of clients in a process of its own, as light as it can be in Python.

python -m tests.benchmarks.serving.load --port 8000 --clients 16 --seconds 10 REQUEST...

Each REQUEST is a file with an HTTP/1.1 request to the byte. Every client has one connection, and
sends its next request when it has read an answer. Prints what was seen, and the CPU time that it
took itself, as JSON.
"""

import argparse
import asyncio
import gc
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import uvloop

PATIENCE_S = 60.0
"""For answers that are still to come when the time is over."""

_PAUSE_S = 0.02  # after an error, so that a failing server is not also flooded
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)\r", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Load:
    """What asks, and for how long.

    Attributes:
        clients: That ask at the same time.
        warm_up_s: Seconds that do not count.
        seconds: That do.
        patient: After a refusal, wait as long as its `Retry-After` says, and not just a moment.
    """

    clients: int
    warm_up_s: float
    seconds: float
    patient: bool = False


@dataclass(slots=True)
class Tally:
    """What was seen in a window of time.

    A request counts if its answer comes within the window, whenever it was sent: the clients are
    busy before and after, so that no request at an edge counts double or not at all.

    Attributes:
        opens: When the window begins (`time.perf_counter`).
        closes: When it ends.
        latencies_ms: Of the answers that were good, in the order they came.
        errors: What else there was → how often: a status, or the name of an exception. These count
            before the window as well.
    """

    opens: float
    closes: float
    latencies_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def note(self, began: float, ended: float) -> None:
        """Note a good answer."""
        if self.opens <= ended < self.closes:
            self.latencies_ms.append(1000 * (ended - began))

    def told(self) -> dict[str, Any]:
        """Give what was seen, for JSON."""
        return {"latencies_ms": self.latencies_ms, "errors": dict(self.errors)}


class Connection:
    """A client's connection; opened when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, request: bytes) -> tuple[int, int]:
        """Send a request, and read its whole answer.

        Returns:
            Its status, and the seconds of its `Retry-After`, 0 where it has none.

        Raises:
            OSError: The connection failed.
            EOFError: It was closed before the end of the answer.
            ValueError: The answer has no length.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None:
            raise ValueError("expected an answer with a content-length; received none")
        await reader.readexactly(int(length[1]))
        if _CLOSE.search(head):
            self.close()
        later = _RETRY_AFTER.search(head)
        return int(head[9:12]), int(later[1]) if later else 0  # HTTP/1.1 200 OK

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def run_client(
    port: int, requests: Sequence[bytes], first: int, tally: Tally, *, patient: bool = False
) -> None:
    """Send one request after another until the window closes.

    Args:
        port: Of the server.
        requests: Sent in turn.
        first: Index of the one to begin with.
        tally: Is told what comes back.
        patient: As in `Load`.
    """
    connection = Connection(port)
    for request in islice(cycle(requests), first, None):
        began = time.perf_counter()
        if began >= tally.closes:
            break
        try:
            status, later_s = await connection.exchange(request)
        except (OSError, EOFError, ValueError) as error:
            connection.close()
            tally.errors[type(error).__name__] += 1
            await asyncio.sleep(_PAUSE_S)
            continue
        if status == 200:
            tally.note(began, time.perf_counter())
        else:
            tally.errors[str(status)] += 1
            left_s = max(0, tally.closes - time.perf_counter())
            await asyncio.sleep(min(later_s, left_s) if patient else _PAUSE_S)
    connection.close()


async def run_clients(port: int, requests: Sequence[bytes], load: Load) -> Tally:
    """Run clients for some seconds, after some that do not count."""
    opens = time.perf_counter() + load.warm_up_s
    tally = Tally(opens, opens + load.seconds)
    tasks = [
        asyncio.create_task(
            run_client(port, requests, index % len(requests), tally, patient=load.patient)
        )
        for index in range(load.clients)
    ]
    # What runs is waited for, so that the next case begins with a server that is idle.
    _, late = await asyncio.wait(tasks, timeout=load.warm_up_s + load.seconds + PATIENCE_S)
    for task in late:
        task.cancel()
        tally.errors["no answer"] += 1
    await asyncio.gather(*tasks, return_exceptions=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--patient", action="store_true", help="heed Retry-After")
    parser.add_argument("requests", type=Path, nargs="+")
    asked = parser.parse_args()
    requests = [file.read_bytes() for file in asked.requests]
    gc.disable()  # nothing here makes cycles, and a pause would be taken for the server's
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = Load(asked.clients, asked.warm_up, asked.seconds, asked.patient)
        tally = runner.run(run_clients(asked.port, requests, load))
    json.dump(tally.told() | {"cpu_s": time.process_time()}, sys.stdout)


if __name__ == "__main__":
    main()
