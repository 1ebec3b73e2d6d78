"""The service, wired: settings → registry → scheduler → service → HTTP."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.engines import EngineFactory, EngineOptions, open_engine
from app.imaging import Limits
from app.observability import NO_OTHER_TELEMETRY, observe
from app.processor import available_cpus
from app.registry import Registry
from app.routes import DOCUMENTATION, add_routes
from app.scheduler import Scheduler
from app.security import Access, Guard
from app.service import UNRECORDED, InferenceService, Recorder
from app.settings import Settings
from app.upkeep import kept_up
from app.uploads import UploadLimits, UploadReader


def create_app(settings: Settings, new_engine: EngineFactory = open_engine) -> FastAPI:
    """Make the web application; its release is loaded when it starts.

    Args:
        settings: What the operator chose.
        new_engine: Makes an engine; tests give a fake one.

    Raises:
        AccessError: The API keys cannot be used, or there are none where there have to be.
    """
    access = Access(settings.api_keys_file, settings.docs, settings.metrics, settings.page)
    access.check_address(settings.host, allow_anonymous=settings.allow_anonymous)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, new_engine, app.state.recorder) as app.state.service:
            yield

    app: FastAPI = FastAPIOffline(lifespan=lifespan, telemetry=NO_OTHER_TELEMETRY, **DOCUMENTATION)
    limits = UploadLimits(
        max_bytes=settings.max_upload_bytes,
        max_batch=settings.max_batch,
        timeout_s=settings.request_timeout_s,
        idle_s=settings.upload_idle_timeout_s,
        memory_bytes=settings.upload_memory_bytes,
    )
    app.state.uploads = UploadReader(limits)
    add_routes(app, access.schemes)
    app.add_middleware(Guard, access=access)
    observe(app, show_metrics=settings.metrics != "off")  # last: it wraps all that was added before
    return app


@asynccontextmanager
async def open_service(
    settings: Settings, new_engine: EngineFactory = open_engine, recorder: Recorder = UNRECORDED
) -> AsyncIterator[InferenceService]:
    """Load the release, and on leaving let what runs come to its end.

    Raises:
        ReleaseError: There is no release that can be served.
        EngineUnavailable: The engine is not installed.
    """
    threads = settings.threads or available_cpus()
    options = EngineOptions(settings.engine, settings.precision, threads, settings.cache_dir)
    load = functools.partial(new_engine, options=options)
    registry = Registry(settings.model_store, settings.model_name, load, settings.model_version)
    scheduler = Scheduler(threads, settings.queue_limit, registry.load().inference_s)
    limits = Limits(max_pixels=settings.max_pixels)
    service = InferenceService(registry, scheduler, limits, recorder, settings.acceptance)
    try:
        async with kept_up(service, settings.follow_s, settings.hang_timeout_s):
            yield service
    finally:
        await scheduler.close()
        registry.close()
