"""The service, wired: settings → registry → scheduler → service → HTTP."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.engines import EngineFactory, EngineOptions, available_cpus, open_engine
from app.imaging import Limits
from app.observability import NO_OTHER_TELEMETRY, observe
from app.registry import Registry
from app.routes import DESCRIPTION, UploadLimits, add_error_handlers, health, v1
from app.scheduler import Scheduler
from app.service import UNRECORDED, InferenceService, Recorder
from app.settings import Settings
from app.upkeep import kept_up


def create_app(settings: Settings, new_engine: EngineFactory = open_engine) -> FastAPI:
    """Make the web application; its release is loaded when it starts.

    Args:
        settings: What the operator chose.
        new_engine: Makes an engine; tests give a fake one.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, new_engine, app.state.recorder) as app.state.service:
            yield

    app: FastAPI = FastAPIOffline(
        title="COVID-19 chest X-ray inference",
        version=version("covid-xray"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_parameters={"validatorUrl": None},  # which would be asked over the internet
        telemetry=NO_OTHER_TELEMETRY,
    )
    app.state.upload_limits = UploadLimits(
        settings.max_upload_bytes, settings.max_batch, settings.request_timeout_s
    )
    app.include_router(v1)
    app.include_router(health)
    add_error_handlers(app)
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
    enforce = settings.acceptance == "enforce"
    service = InferenceService(registry, scheduler, limits, recorder, enforce_acceptance=enforce)
    try:
        async with kept_up(service, settings.follow_s, settings.hang_timeout_s):
            yield service
    finally:
        await scheduler.close()
        registry.close()
