"""Bounded work on a fixed number of threads: places, deadlines, and an honest Retry-After."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from app.errors import DeadlinePassed, NotReady, Overloaded

T = TypeVar("T")

_WEIGHT = 0.1
"""Of the newest measurement in the moving average of service time."""

_COMES_WITHIN_S = 1.0
"""For which a place is kept for an upload: one that is slower must not keep others out."""


@dataclass(frozen=True, slots=True)
class _Load:
    """The images that wait for a thread and those that have one; adding to a set is atomic."""

    waiting: "set[Place]" = field(default_factory=set)
    working: "set[Place]" = field(default_factory=set)


class Place:
    """One admitted image; its job runs on one of the scheduler's threads.

    Attributes:
        began: When its job got a thread (`time.monotonic`); infinite before.
        waited_s: Seconds that its job waited for a thread.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        deadline: float,
        load: _Load,
        measure: Callable[[float], None],
    ) -> None:
        self._pool = pool
        self._deadline = deadline
        self._load = load
        self._measure = measure
        self._abandoned = False
        self.began = math.inf
        self.waited_s = 0.0

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job on a thread; it is dropped where its caller is cancelled while it waits.

        Raises:
            DeadlinePassed: The deadline passed before the job was done.
        """
        asked = time.monotonic()
        loop = asyncio.get_running_loop()
        in_context = copy_context().run  # so that the thread knows whose work it does
        jobs = [job]
        self._load.waiting.add(self)
        try:
            async with asyncio.timeout_at(loop.time() + self._deadline - asked):
                future = self._pool.submit(in_context, self._work, jobs, asked)
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise _deadline_passed() from error
        finally:
            self._abandoned = True
            jobs.clear()  # the pool keeps what was cancelled until a thread comes to it
            self._load.waiting.discard(self)

    def check(self) -> None:
        """Tell whether anybody still waits; a job asks before each of its expensive steps.

        Raises:
            DeadlinePassed: The deadline passed, or the caller was cancelled.
        """
        if self._abandoned or time.monotonic() >= self._deadline:
            raise _deadline_passed()

    @property
    def is_alone(self) -> bool:
        """Whether no other image is worked on at the moment."""
        return len(self._load.working) <= 1

    def _work(self, jobs: list[Callable[[], T]], asked: float) -> T:
        self.began = time.monotonic()
        self.waited_s = self.began - asked
        self._load.waiting.discard(self)
        try:
            job = jobs.pop()
        except IndexError:
            raise _deadline_passed() from None
        self.check()
        self._load.working.add(self)
        try:
            return job()
        finally:
            self._load.working.discard(self)
            self._measure(time.monotonic() - self.began)


class Scheduler:
    """Admits images as long as there are places, and runs their jobs in the order they come.

    An image that waits costs the memory of its file only; it is decoded on the thread that then
    runs its inference, so that there are never more decoded images than threads.

    Args:
        workers: Threads.
        queue_limit: Images that may wait beside those that the threads work on.
        service_s: First guess of the seconds that an image takes a thread.
    """

    def __init__(self, workers: int, queue_limit: int, service_s: float) -> None:
        self._workers = workers
        self._capacity = workers + queue_limit
        self._service_s = service_s
        self._measuring = Lock()
        self._held = 0
        self._expected: dict[object, float] = {}
        self._load = _Load()
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")

    @property
    def capacity(self) -> int:
        """Images that may hold a place: those that wait, and one for each thread."""
        return self._capacity

    @property
    def held(self) -> int:
        """Images that hold a place now."""
        return self._held

    @property
    def waiting(self) -> int:
        """Images that wait for a thread now."""
        return len(self._load.waiting)

    @property
    def working(self) -> int:
        """Images that threads work on now, also for callers that have left."""
        return len(self._load.working)

    @property
    def longest_s(self) -> float:
        """Seconds for which the oldest of the jobs that run now has been running; 0 for none."""
        now = time.monotonic()
        return max((now - place.began for place in tuple(self._load.working)), default=0.0)

    @property
    def retry_after_s(self) -> float:
        """Seconds in which the threads should get through all images that hold a place now."""
        return self._service_s * max(self._held, 1) / self._workers

    @contextmanager
    def admit(self, deadline: float, count: int = 1) -> Iterator[list[Place]]:
        """Hold places for a request's images: for all of them, or for none.

        Args:
            deadline: When its answer must be ready, on the clock of `time.monotonic`.
            count: How many images it has.

        Raises:
            Overloaded: There are not so many places.
            NotReady: The scheduler is closing.
        """
        self._check_open()
        self._check_free(count, self._capacity - self._held)
        places = [Place(self._pool, deadline, self._load, self._measure) for _ in range(count)]
        self._hold(count)
        try:
            yield places
        finally:
            self._hold(-count)

    def check_room(self) -> None:
        """Tell whether another upload may come; else it would be read in vain.

        Raises:
            Overloaded: All places are held, or kept for uploads that are on their way.
            NotReady: The scheduler is closing.
        """
        self._check_open()
        newest_late = time.monotonic() - _COMES_WITHIN_S
        while self._expected and (first := next(iter(self._expected.items())))[1] < newest_late:
            del self._expected[first[0]]
        self._check_free(1, self._capacity - self._held - len(self._expected))

    @contextmanager
    def expect(self) -> Iterator[None]:
        """Keep a place for an upload while it is read, though not for long; raises as `check_room`.

        Without this, each place that becomes free would be promised to all who ask until the first
        of their uploads has arrived, and the others be read only to be refused.
        """
        self.check_room()
        upload = object()
        self._expected[upload] = time.monotonic()
        try:
            yield
        finally:
            self._expected.pop(upload, None)

    async def close(self) -> None:
        """Admit nothing more, wait until every place is free, and end the threads."""
        self._closing = True
        await self._idle.wait()
        await asyncio.to_thread(self._pool.shutdown)

    def _check_open(self) -> None:
        if self._closing:
            raise NotReady("a running service", "one that is stopping")

    def _check_free(self, wanted: int, free: int) -> None:
        if wanted > free:
            raise Overloaded(
                f"{wanted} free of {self._capacity} places",
                f"{max(free, 0)}",
                retry_after_s=self.retry_after_s,
            )

    def _hold(self, count: int) -> None:
        self._held += count
        if self._held:
            self._idle.clear()
        else:
            self._idle.set()

    def _measure(self, worked_s: float) -> None:
        """Take in how long a job ran, on its thread: its caller may have left by then."""
        with self._measuring:
            self._service_s += _WEIGHT * (worked_s - self._service_s)


def _deadline_passed() -> DeadlinePassed:
    return DeadlinePassed("an answer before the request's deadline", "none in time")
