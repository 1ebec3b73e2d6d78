"""The service as a queue, in simulated time: threads, places, refusals, replicas, a balancer.

What is left out: the network, and that requests of one process share its interpreter.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import simpy

from tests.benchmarks.figures import percentile

Draw = Callable[[random.Random], float]
"""Gives the seconds that a request keeps a thread."""

Events = Generator[simpy.Event, None, None]
"""What a process of the simulation waits for, one after another."""

Balancing = Literal["least", "random"]
"""To the replica that has the fewest requests, or to any."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas behind a balancer.

    Attributes:
        replicas: How many.
        threads: Of each.
        waiting: Images that may wait at each, as `COVID_XRAY_QUEUE_LIMIT`.
        balancing: How the balancer chooses.
        tries: How often a client comes before it gives up; between two tries it waits for as long
            as `Retry-After` says.
    """

    replicas: int = 1
    threads: int = 2
    waiting: int = 64
    balancing: Balancing = "least"
    tries: int = 1


@dataclass(slots=True)
class Seen:
    """What came of the requests that arrived while it was looked.

    Attributes:
        seconds: For which it was looked.
        latencies_s: Of answers, from the first try on.
        refusals: Answers with 503.
        lost: Requests whose last try was refused.
    """

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    refusals: int = 0
    lost: int = 0

    def latency_ms(self, share: float) -> float:
        """Give a percentile of the latency in milliseconds; NaN where there was no answer."""
        found = percentile(self.latencies_s, share)
        return math.nan if found is None else 1000 * found

    @property
    def refused_share(self) -> float:
        """Which share of all tries was refused."""
        tries = len(self.latencies_s) + self.refusals
        return self.refusals / tries if tries else 0.0


class _Replica:
    def __init__(self, fleet: Fleet, environment: simpy.Environment, work: Draw) -> None:
        self.idle = fleet.threads
        self.queue: deque[Callable[[], None]] = deque()
        self.held = 0
        self.places = fleet.threads + fleet.waiting
        self._threads = fleet.threads
        self._work = work
        self._environment = environment
        self._service_s = 0.0
        """The moving average by which `app.scheduler` computes its Retry-After."""

    def admit(self, done: Callable[[], None], rng: random.Random) -> None:
        self.held += 1
        self.queue.append(done)
        if self.idle:
            self.idle -= 1
            self._environment.process(self._run(rng))

    def _run(self, rng: random.Random) -> Events:
        while self.queue:
            done = self.queue.popleft()
            seconds = self._work(rng)
            yield self._environment.timeout(seconds)
            self._service_s += 0.1 * (seconds - self._service_s)
            self.held -= 1
            done()
        self.idle += 1

    def retry_after_s(self) -> int:
        return max(1, math.ceil(self._service_s * max(self.held, 1) / self._threads))


class Simulation:
    """Requests that arrive on their own, whatever becomes of others.

    Args:
        fleet: What they come to.
        work: Seconds of a request on a thread.
        arrivals: Seconds between an arrival and the next, without an end or with one.
        window: Seconds from which and up to which arrivals are noted; after them none come.
        seed: Of chance.
    """

    def __init__(
        self,
        fleet: Fleet,
        work: Draw,
        arrivals: Iterator[float],
        window: tuple[float, float],
        seed: int = 0,
    ) -> None:
        self._fleet = fleet
        self._environment = simpy.Environment()
        self._rng = random.Random(seed)  # noqa: S311 -- a simulation
        self._replicas = [_Replica(fleet, self._environment, work) for _ in range(fleet.replicas)]
        self._held = [0] * fleet.replicas
        self._arrivals = arrivals
        self._opens, self._closes = window
        self.seen = Seen(self._closes - self._opens)

    def run(self) -> Seen:
        """Let all that arrives come to its end."""
        self._environment.process(self._arrive())
        self._environment.run()
        return self.seen

    def _arrive(self) -> Events:
        for pause in self._arrivals:
            yield self._environment.timeout(pause)
            if self._environment.now >= self._closes:
                return
            self._ask(self._environment.now, 1)

    def _ask(self, began: float, tried: int) -> None:
        index = self._choose()
        replica = self._replicas[index]
        counts = began >= self._opens
        if replica.held < replica.places:
            self._held[index] += 1
            replica.admit(lambda: self._answer(index, began), self._rng)
            return
        self.seen.refusals += counts
        if tried < self._fleet.tries:
            self._environment.process(self._come_again(replica.retry_after_s(), began, tried))
        else:
            self.seen.lost += counts

    def _come_again(self, pause: float, began: float, tried: int) -> Events:
        yield self._environment.timeout(pause)
        self._ask(began, tried + 1)

    def _answer(self, index: int, began: float) -> None:
        self._held[index] -= 1
        if began >= self._opens:
            self.seen.latencies_s.append(self._environment.now - began)

    def _choose(self) -> int:
        count = len(self._held)
        first = int(self._rng.random() * count)
        if self._fleet.balancing == "random":
            return first
        fewest = min(self._held)
        try:
            return self._held.index(fewest, first)
        except ValueError:  # all of them are before it
            return self._held.index(fewest)


def poisson(rate: float, seed: int = 1) -> Iterator[float]:
    """Give pauses between arrivals that know nothing of each other: `rate` a second."""
    rng = random.Random(seed)  # noqa: S311 -- a simulation
    while True:
        yield rng.expovariate(rate)


def drawn_from(quantiles_ms: Sequence[float], more_ms: float = 0.0) -> Draw:
    """Draw seconds from a measured distribution.

    Args:
        quantiles_ms: At equal distances, from the smallest to the largest; between them a line.
        more_ms: What each takes beside it.
    """
    last = len(quantiles_ms) - 1

    def draw(rng: random.Random) -> float:
        at = rng.random() * last
        below = int(at)
        low, high = quantiles_ms[below], quantiles_ms[min(below + 1, last)]
        return (low + (high - low) * (at - below) + more_ms) / 1000

    return draw
