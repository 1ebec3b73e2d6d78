"""Uvicorn around the application, and an end that loses no request."""

import asyncio
from types import FrameType

import uvicorn

from app.connections import Protocol
from app.main import create_app
from app.service import InferenceService
from app.settings import Settings


class LeavingServer(uvicorn.Server):
    """Uvicorn that is seen to leave before it does.

    After the first signal it goes on for some seconds: readiness fails, so that balancers send
    nothing more, and every connection is closed with its next answer, so that no client sends a
    request into a connection that is being closed. Then it stops listening, as uvicorn does, and
    ends what runs. A second signal leaves out the first part.

    Args:
        config: Uvicorn's.
        service: What is told to be no more ready.
        leaving_s: Seconds of the first part.
    """

    def __init__(self, config: uvicorn.Config, service: InferenceService, leaving_s: float) -> None:
        super().__init__(config)
        self._service = service
        self._leaving_s = leaving_s
        self._leaving = False
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to leave, or leave."""
        if self._leaving or not self._leaving_s:
            super().handle_exit(sig, frame)
            return
        self._leaving = True
        self._service.leave("a service that is stopping")
        self.config.encoded_headers.append((b"connection", b"close"))
        stop = super().handle_exit
        self._loop.call_soon_threadsafe(self._loop.call_later, self._leaving_s, stop, sig, frame)


def run(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises:
        CovidXrayError: The service cannot start.
    """
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        lifespan="off",
        log_config=None,
        access_log=False,
        http=Protocol,
        ws="none",  # no route speaks it
        server_header=False,
        timeout_keep_alive=75,  # longer than clients and proxies keep theirs
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )

    async def serve() -> None:
        # Inside the application's lifespan, so that a failing start raises here.
        async with app.router.lifespan_context(app):
            await LeavingServer(config, app.state.service, settings.leaving_s).serve()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())
