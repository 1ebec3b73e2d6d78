"""The service, wired: settings → registry → scheduler → service → HTTP."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.engines import EngineFactory, available_cpus, create_engine
from app.imaging import Limits
from app.registry import Registry
from app.routes import DOCUMENTATION, add_error_handlers, health, v1
from app.scheduler import Scheduler
from app.security import Access, Guard
from app.service import InferenceService
from app.settings import Settings
from app.uploads import UploadLimits, UploadReader


def create_app(settings: Settings, new_engine: EngineFactory = create_engine) -> FastAPI:
    """Make the web application; its release is loaded when it starts.

    Args:
        settings: What the operator chose.
        new_engine: Makes an engine; tests give a fake one.

    Raises:
        AccessError: The API keys cannot be used, or there are none where there have to be.
    """
    access = Access(settings.api_keys_file, settings.docs, settings.metrics)
    access.check_address(settings.host, allow_anonymous=settings.allow_anonymous)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, new_engine) as app.state.service:
            yield

    app: FastAPI = FastAPIOffline(lifespan=lifespan, **DOCUMENTATION)
    app.state.uploads = UploadReader(
        UploadLimits(
            max_bytes=settings.max_upload_bytes,
            max_batch=settings.max_batch,
            timeout_s=settings.request_timeout_s,
            idle_s=settings.upload_idle_timeout_s,
            memory_bytes=settings.upload_memory_bytes,
        )
    )
    app.include_router(v1, dependencies=access.schemes)
    app.include_router(health)
    add_error_handlers(app)
    app.add_middleware(Guard, access=access)
    return app


@asynccontextmanager
async def open_service(
    settings: Settings, new_engine: EngineFactory = create_engine
) -> AsyncIterator[InferenceService]:
    """Load the release, and on leaving let what runs come to its end.

    Raises:
        ReleaseError: There is no release that can be served.
        EngineUnavailable: The engine is not installed.
    """
    threads = settings.threads or available_cpus()
    load = functools.partial(new_engine, choice=settings.engine, threads=threads)
    registry = Registry(settings.model_store, settings.model_name, load)
    serving = registry.load(settings.model_version)
    scheduler = Scheduler(threads, settings.queue_limit, serving.inference_s)
    limits = Limits(max_pixels=settings.max_pixels)
    enforce = settings.acceptance == "enforce"
    try:
        yield InferenceService(registry, scheduler, limits, enforce_acceptance=enforce)
    finally:
        await scheduler.close()
        registry.close()
