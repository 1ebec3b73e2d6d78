"""What goes on beside the requests: looking for new releases, and noticing work that hangs."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from app.registry import Registry
from app.service import InferenceService

_log = logging.getLogger(__name__)

HUNG = 70
"""Exit code of a process whose work hangs; EX_SOFTWARE of sysexits.h."""
LOOKS = 10
"""How many times within the longest time that a job may take it is looked at."""
LAST_WORDS_S = 2.0
"""Seconds in which readiness can be seen to be gone, and other threads can end what they do."""


@asynccontextmanager
async def kept_up(service: InferenceService, follow_s: float, hang_s: float) -> AsyncIterator[None]:
    """Do both as long as the block runs.

    Args:
        service: Which one.
        follow_s: Seconds between two looks for another release; 0 for none.
        hang_s: Seconds that decoding and inference of one image may take a thread.
    """
    tasks = [asyncio.create_task(watch(service, hang_s))]
    if follow_s:
        tasks.append(asyncio.create_task(follow(service.registry, follow_s)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def follow(registry: Registry, every_s: float) -> None:
    """Look for another release to serve, for ever; what goes wrong is logged and not raised.

    Args:
        registry: Has loaded a release.
        every_s: Seconds between two looks.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            await asyncio.to_thread(registry.refresh)
        except Exception:  # noqa: BLE001 -- the release that answers goes on, and so must this
            _log.exception("The model store could not be looked at.")


async def watch(
    service: InferenceService, limit_s: float, give_up: Callable[[], None] | None = None
) -> None:
    """End the process where a job hangs: nothing else frees its thread, and a supervisor restarts.

    Args:
        service: What is watched; it is told not to be ready any more.
        limit_s: Seconds that decoding and inference of one image may take a thread.
        give_up: What ends the process; it exits at once with `HUNG` where not given.
    """
    while service.scheduler.longest_s < limit_s:  # noqa: ASYNC110 -- what hangs sets no event
        await asyncio.sleep(limit_s / LOOKS)
    service.leave("a service whose work hangs")
    _log.critical("A job hangs for more than %g s: the process ends with %d.", limit_s, HUNG)
    await asyncio.sleep(LAST_WORDS_S)
    (give_up or _exit)()


def _exit() -> None:
    logging.shutdown()
    os._exit(HUNG)  # an orderly exit would wait for the thread that hangs
