"""The service, wired: settings → the opened service → HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.head import answer_head
from app.observability import NO_OTHER_TELEMETRY, observe
from app.opening import LoadRegistry, load_registry, open_service
from app.routes import DOCUMENTATION, add_routes
from app.security import Access, Guard
from app.settings import Settings
from app.uploads import UploadLimits, UploadReader


def create_app(settings: Settings, load: LoadRegistry = load_registry) -> FastAPI:
    """Make the web application; its release is loaded when it starts.

    Args:
        settings: What the operator chose.
        load: Loads the release.

    Raises:
        AccessError: The API keys cannot be used, or there are none where there have to be.
    """
    access = Access(settings.api_keys_file, settings.docs, settings.metrics, settings.page)
    access.check_address(settings.host, allow_anonymous=settings.allow_anonymous)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, load, app.state.recorder) as app.state.service:
            yield

    app: FastAPI = FastAPIOffline(
        lifespan=lifespan,
        telemetry=NO_OTHER_TELEMETRY,
        redirect_slashes=False,  # behind a proxy with TLS it would send clients and keys to http
        **DOCUMENTATION,
    )
    limits = UploadLimits(
        max_bytes=settings.max_upload_bytes,
        max_batch=settings.max_batch,
        timeout_s=settings.request_timeout_s,
        idle_s=settings.upload_idle_timeout_s,
        memory_bytes=settings.upload_memory_bytes,
    )
    app.state.uploads = UploadReader(limits)
    add_routes(app, access.schemes, settings)
    app.add_middleware(Guard, access=access)
    observe(app, show_metrics=settings.metrics != "off")  # it wraps all that was added before
    answer_head(app)  # last: to all of it a HEAD is a GET
    return app
