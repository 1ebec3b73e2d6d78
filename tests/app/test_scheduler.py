import asyncio
import gc
import math
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import ContextVar
from threading import Event

import pytest

import app.scheduler
from app.errors import DeadlinePassed, NotReady, Overloaded
from app.scheduler import Place, Scheduler

pytestmark = pytest.mark.anyio


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    """One thread, one image that may wait, and two seconds per image."""
    scheduler = Scheduler(workers=1, queue_limit=1, service_s=2)
    yield scheduler
    await scheduler.close()


class Blocker:
    """A job that runs until it is let go."""

    def __init__(self) -> None:
        self.started = Event()
        self.let_go = Event()

    def __call__(self) -> str:
        self.started.set()
        self.let_go.wait(30)
        return "done"

    async def hold(self, place: Place) -> asyncio.Task[str]:
        task = asyncio.create_task(place.run(self))
        await asyncio.to_thread(self.started.wait, 30)
        return task


async def test_a_job_runs_and_its_result_is_returned(scheduler: Scheduler) -> None:
    with scheduler.admit(math.inf) as (place,):
        assert await place.run(lambda: 42) == 42
        assert place.waited_s >= 0


async def test_a_jobs_error_is_its_callers_and_the_thread_lives_on(scheduler: Scheduler) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with scheduler.admit(math.inf) as (place,), pytest.raises(ZeroDivisionError):
        await place.run(fail)
    with scheduler.admit(math.inf) as (place,):
        assert await place.run(lambda: 1) == 1


async def test_beyond_its_places_nothing_is_admitted(scheduler: Scheduler) -> None:
    with scheduler.admit(math.inf, 2):
        with pytest.raises(Overloaded, match="1 free of 2 places; received 0") as caught:
            scheduler.admit(math.inf).__enter__()
        assert caught.value.retry_after_s == pytest.approx(4)
    with scheduler.admit(math.inf):
        pass


async def test_a_request_gets_all_of_its_places_or_none(scheduler: Scheduler) -> None:
    with scheduler.admit(math.inf), pytest.raises(Overloaded):
        scheduler.admit(math.inf, 2).__enter__()
    with scheduler.admit(math.inf, 2):
        pass


async def test_a_place_is_kept_for_an_upload_while_it_is_read(scheduler: Scheduler) -> None:
    with scheduler.admit(math.inf):
        with scheduler.expect():
            with pytest.raises(Overloaded, match="1 free of 2 places; received 0"):
                scheduler.check_room()
            with pytest.raises(Overloaded):
                scheduler.expect().__enter__()
            # A place is for whoever arrives first; then none is left, and not fewer than that.
            with scheduler.admit(math.inf), pytest.raises(Overloaded, match="received 0"):
                scheduler.check_room()
        scheduler.check_room()


async def test_no_place_is_kept_long_for_a_slow_upload(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.scheduler, "_COMES_WITHIN_S", 0.05)
    with scheduler.expect(), scheduler.expect():
        with pytest.raises(Overloaded):
            scheduler.check_room()
        await asyncio.sleep(0.06)
        with scheduler.expect(), scheduler.expect(), pytest.raises(Overloaded):
            scheduler.check_room()
        scheduler.check_room()


async def test_the_wait_that_is_told_follows_the_measured_time(scheduler: Scheduler) -> None:
    before = scheduler.retry_after_s
    for _ in range(20):
        with scheduler.admit(math.inf) as (place,):
            await place.run(lambda: None)
    assert scheduler.retry_after_s < before / 2


async def test_two_threads_halve_the_time_to_try_again() -> None:
    scheduler = Scheduler(workers=2, queue_limit=0, service_s=2)
    with scheduler.admit(math.inf, 2):
        assert scheduler.retry_after_s == pytest.approx(2)
    await scheduler.close()


async def test_work_that_ends_after_its_caller_left_is_measured_too() -> None:
    scheduler, blocker = Scheduler(workers=1, queue_limit=1, service_s=0.001), Blocker()
    with scheduler.admit(time.monotonic() + 0.05) as (place,), pytest.raises(DeadlinePassed):
        await place.run(blocker)
    before = scheduler.retry_after_s
    blocker.let_go.set()
    await scheduler.close()
    assert scheduler.retry_after_s > 2 * before


async def test_what_got_no_thread_in_time_is_not_measured(scheduler: Scheduler) -> None:
    before = scheduler.retry_after_s
    with scheduler.admit(time.monotonic()) as (place,), pytest.raises(DeadlinePassed):
        await place.run(lambda: None)
    await scheduler.close()
    assert scheduler.retry_after_s == before


async def test_a_deadline_that_passed_before_the_job_began_drops_it(scheduler: Scheduler) -> None:
    ran = Event()
    with scheduler.admit(time.monotonic()) as (place,), pytest.raises(DeadlinePassed):
        await place.run(ran.set)
    assert not ran.is_set()


async def test_a_deadline_that_passes_while_a_job_waits_drops_it(scheduler: Scheduler) -> None:
    blocker, ran = Blocker(), Event()
    with scheduler.admit(math.inf) as (first,):
        running = await blocker.hold(first)
        with scheduler.admit(time.monotonic() + 0.01) as (second,), pytest.raises(DeadlinePassed):
            await second.run(ran.set)
        blocker.let_go.set()
        assert await running == "done"
    await scheduler.close()
    assert not ran.is_set()


async def test_a_request_that_is_cancelled_while_it_waits_is_dropped(scheduler: Scheduler) -> None:
    blocker, ran = Blocker(), Event()
    with scheduler.admit(math.inf, 2) as (first, second):
        running = await blocker.hold(first)
        waiting = asyncio.create_task(second.run(ran.set))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        blocker.let_go.set()
        assert await running == "done"
    await scheduler.close()
    assert not ran.is_set()


@pytest.mark.parametrize("seconds", [0.01, math.inf])
async def test_what_waits_is_let_go_as_soon_as_its_caller_leaves(
    scheduler: Scheduler, seconds: float
) -> None:
    async def ask(place: Place, job: Blocker) -> None:
        with suppress(DeadlinePassed):
            await place.run(job)

    blocker, job = Blocker(), Blocker()
    kept = weakref.ref(job)
    with scheduler.admit(math.inf) as (first,):
        running = await blocker.hold(first)
        with scheduler.admit(time.monotonic() + seconds) as (second,):
            waiting = asyncio.create_task(ask(second, job))
            del job
            await asyncio.wait({waiting}, timeout=0.1)
            waiting.cancel()
            await asyncio.wait({waiting})
            del waiting
        gc.collect()
        is_kept = kept() is not None
        blocker.let_go.set()
        await running
    assert not is_kept


async def test_a_job_whose_caller_left_learns_it_before_its_next_step(scheduler: Scheduler) -> None:
    blocker, outcome = Blocker(), list[str]()

    with scheduler.admit(math.inf) as (place,):

        def job() -> None:
            blocker()
            try:
                place.check()
            except DeadlinePassed as error:
                outcome.append(error.code)

        running = asyncio.create_task(place.run(job))
        await asyncio.to_thread(blocker.started.wait, 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        blocker.let_go.set()
    await scheduler.close()
    assert outcome == ["deadline-passed"]


async def test_it_tells_what_waits_and_what_is_worked_on(scheduler: Scheduler) -> None:
    def told() -> tuple[int, int, int]:
        return scheduler.held, scheduler.waiting, scheduler.working

    blocker = Blocker()
    assert scheduler.capacity == 2
    assert told() == (0, 0, 0)
    with scheduler.admit(math.inf, 2) as (first, second):
        running = await blocker.hold(first)
        waiting = asyncio.create_task(second.run(lambda: None))
        await asyncio.sleep(0)
        assert told() == (2, 1, 1)
        blocker.let_go.set()
        await asyncio.gather(running, waiting)
        assert told() == (2, 0, 0)
    assert told() == (0, 0, 0)


async def test_of_two_images_at_work_neither_is_alone() -> None:
    scheduler, blockers = Scheduler(workers=2, queue_limit=0, service_s=2), (Blocker(), Blocker())
    with scheduler.admit(math.inf, 2) as places:
        first = await blockers[0].hold(places[0])
        assert places[0].is_alone
        second = await blockers[1].hold(places[1])
        assert not any(place.is_alone for place in places)
        for blocker in blockers:
            blocker.let_go.set()
        await asyncio.gather(first, second)
    await scheduler.close()


async def test_a_job_whose_caller_left_is_still_worked_on(scheduler: Scheduler) -> None:
    blocker = Blocker()
    with scheduler.admit(math.inf) as (place,):
        running = await blocker.hold(place)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert (scheduler.held, scheduler.working) == (0, 1)
    blocker.let_go.set()
    await scheduler.close()
    assert scheduler.working == 0


async def test_an_image_that_is_cancelled_while_it_waits_waits_no_more(
    scheduler: Scheduler,
) -> None:
    blocker = Blocker()
    with scheduler.admit(math.inf, 2) as (first, second):
        running = await blocker.hold(first)
        waiting = asyncio.create_task(second.run(lambda: None))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (scheduler.waiting, scheduler.working) == (0, 1)
        blocker.let_go.set()
        await running


async def test_a_job_runs_in_the_context_of_its_caller(scheduler: Scheduler) -> None:
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("of the caller")
    with scheduler.admit(math.inf) as (place,):
        assert await place.run(variable.get) == "of the caller"


async def test_closing_waits_for_what_runs_and_admits_nothing_more(scheduler: Scheduler) -> None:
    blocker = Blocker()
    with scheduler.admit(math.inf) as (place,):
        running = await blocker.hold(place)
        closing = asyncio.create_task(scheduler.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="one that is stopping"):
            scheduler.check_room()
        assert not closing.done()
        blocker.let_go.set()
        assert await running == "done"
    await closing
