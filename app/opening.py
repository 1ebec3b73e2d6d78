"""The service without HTTP, opened as the settings ask: release → registry → scheduler → service.

It imports little, so that a release can be loading while the rest of a program is imported.
"""

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from app.engines import EngineFactory, EngineOptions, open_engine
from app.imaging import Limits
from app.processor import available_cpus
from app.registry import Registry
from app.scheduler import Scheduler
from app.service import UNRECORDED, InferenceService, Recorder
from app.settings import Settings, make_cache_dir
from app.upkeep import kept_up

LoadRegistry = Callable[[Settings], Registry]
"""What loads the release: `load_registry`, or who has begun with it before."""


def load_registry(settings: Settings, new_engine: EngineFactory = open_engine) -> Registry:
    """Verify the model store's releases, and load the one to serve.

    Args:
        settings: What the operator chose.
        new_engine: Makes an engine; tests give a fake one.

    Raises:
        ReleaseError: There is no release that can be served.
        EngineUnavailable: The engine is not installed.
        SettingsInvalid: The folder for compiled networks cannot be used.
    """
    make_cache_dir(settings)
    options = EngineOptions(
        settings.engine, settings.precision, _threads(settings), settings.cache_dir
    )
    load = functools.partial(new_engine, options=options)
    registry = Registry(settings.model_store, settings.model_name, load, settings.model_version)
    registry.load()
    return registry


@asynccontextmanager
async def open_service(
    settings: Settings, load: LoadRegistry = load_registry, recorder: Recorder = UNRECORDED
) -> AsyncIterator[InferenceService]:
    """Load the release, and on leaving let what runs come to its end; raises as `load_registry`.

    Args:
        settings: What the operator chose.
        load: Loads the release.
        recorder: Is told how images fare.
    """
    registry = load(settings)
    scheduler = Scheduler(_threads(settings), settings.queue_limit, registry.serving.inference_s)
    limits = Limits(max_pixels=settings.max_pixels)
    service = InferenceService(registry, scheduler, limits, recorder, settings.acceptance)
    try:
        async with kept_up(service, settings.follow_s, settings.hang_timeout_s):
            yield service
    finally:
        await scheduler.close()
        registry.close()


def _threads(settings: Settings) -> int:
    return settings.threads or available_cpus()
