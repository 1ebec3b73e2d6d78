import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import pytest

from app import upkeep
from app.errors import NotReady
from app.imaging import Limits
from app.registry import Registry
from app.scheduler import Scheduler
from app.service import UNRECORDED, InferenceService
from tests import fakes
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[InferenceService]:
    """One thread; version 1 answers."""
    fakes.write_fake_release(tmp_path, 1)
    registry = Registry(tmp_path, fakes.NAME, lambda _: FakeEngine())
    registry.load()
    scheduler = Scheduler(1, 4, 0.1)
    yield InferenceService(registry, scheduler, Limits(), UNRECORDED)
    await scheduler.close()
    registry.close()


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        await condition.wait()


async def test_another_release_is_followed_while_requests_go_on(
    service: InferenceService, tmp_path: Path
) -> None:
    async with upkeep.kept_up(service, follow_s=0.01, hang_s=60):
        fakes.write_fake_release(tmp_path, 2)
        async with asyncio.timeout(30):
            while service.check_ready().version != 2:
                await service.predict(fakes.gray_png(), math.inf)
                await asyncio.sleep(0.01)


async def test_a_look_that_fails_is_not_the_last(
    service: InferenceService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked = asyncio.Event()
    looks = 0
    loop = asyncio.get_running_loop()

    def refresh() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            loop.call_soon_threadsafe(looked.set)
        raise OSError("the disk is gone")

    monkeypatch.setattr(service.registry, "refresh", refresh)
    async with upkeep.kept_up(service, follow_s=0.01, hang_s=60):
        await until(looked)
    assert "could not be looked at" in caplog.text


async def test_a_job_that_hangs_ends_readiness_and_then_the_process(
    service: InferenceService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LAST_WORDS_S", 0)
    gave_up, let_go = asyncio.Event(), Event()
    with service.scheduler.admit(math.inf) as (place,):
        job = asyncio.create_task(place.run(lambda: let_go.wait(30)))
        watching = asyncio.create_task(upkeep.watch(service, 0.05, gave_up.set))
        await until(gave_up)
        with pytest.raises(NotReady, match="hangs"):
            service.check_ready()
        let_go.set()
        await job
        await watching


async def test_work_that_goes_on_is_not_taken_to_hang(service: InferenceService) -> None:
    gave_up = asyncio.Event()
    watching = asyncio.create_task(upkeep.watch(service, 0.5, gave_up.set))
    for _ in range(30):
        await service.predict(fakes.gray_png(), math.inf)
        await asyncio.sleep(0.02)
    assert not watching.done()
    watching.cancel()
    service.check_ready()
