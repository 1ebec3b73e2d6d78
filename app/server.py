"""Uvicorn around the application, and an end that loses no request."""

import asyncio
import ctypes
import errno
import gc
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from app.connections import Protocol
from app.errors import AddressUnavailable
from app.main import create_app
from app.opening import LoadRegistry, load_registry
from app.service import InferenceService
from app.settings import Settings

_SO_ATTACH_FILTER = 26
_RETURN = 0x06
"""Both of Linux' headers, and the same on x86-64 and ARM."""

_NOT_THERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_log = logging.getLogger(__name__)


@contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Take a port, without listening: until a release is loaded, clients are refused.

    Args:
        host: An address, or a name of several: then those that this machine has.
        port: The port.

    Raises:
        AddressUnavailable: It cannot be had.
    """
    with ExitStack() as stack:
        try:
            sockets = _bind(host, port, stack)
        except (OSError, UnicodeError) as error:
            raise _unavailable(host, port, error) from error
        yield sockets


def _bind(host: str, port: int, stack: ExitStack) -> list[socket.socket]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    for family, _, _, _, address in found:
        try:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
        else:
            sockets.append(listener)
    if not sockets:
        raise OSError(errno.EADDRNOTAVAIL, "")
    return sockets


def _unavailable(host: str, port: int, error: OSError | UnicodeError) -> AddressUnavailable:
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    reason = os.strerror(number).lower() if number > 0 else "no such host"
    return AddressUnavailable(
        "a free port and an address of this machine in COVID_XRAY_PORT and COVID_XRAY_HOST",
        f"{port} and {host}: {reason}",
    )


class LeavingServer(uvicorn.Server):
    """Uvicorn that is seen to leave before it does.

    After the first signal it goes on for some seconds: readiness fails, so that balancers send
    nothing more, and every connection is closed with its next answer, so that no client sends a
    request into a connection that is being closed. Then it stops listening, takes in the clients
    that the kernel has connected already, and ends what runs. A second signal leaves out the first
    part.

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
        stop = super().handle_exit
        self._loop.call_soon_threadsafe(self._close_with_answers)
        self._loop.call_soon_threadsafe(self._loop.call_later, self._leaving_s, stop, sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen.

        Raises:
            AddressUnavailable: Another process began to, since the port was bound.
        """
        host, port = self.config.host, self.config.port
        try:
            for each in sockets or ():
                each.listen(self.config.backlog)  # uvloop would not say that it cannot
        except OSError as error:
            raise _unavailable(host, port, error) from error
        await super().startup(sockets)
        _log.info("Listening on %s, port %d.", host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and wait for what runs."""
        if not self._leaving:
            self._close_with_answers()
        # Copies keep the queues of connections, which end with the last of them.
        listeners = [each.dup() for server in self.servers for each in server.sockets]
        for listener in listeners:
            _let_nobody_in(listener)
        for server in self.servers:
            server.close()
        for listener in listeners:
            await self._take_in(listener)
        await super().shutdown(sockets)

    def _close_with_answers(self) -> None:
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)
        # uvicorn copies them once a second, and what runs has its copy already.
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        for connection in self.server_state.connections:
            if isinstance(connection, Protocol):
                connection.close_with_answer()

    async def _take_in(self, listener: socket.socket) -> None:
        """Serve the clients that wait in a listener's queue, and close it."""
        with listener, suppress(BlockingIOError):
            listener.settimeout(0)
            for _ in range(self.config.backlog):
                client, _address = listener.accept()
                await self._loop.connect_accepted_socket(self._new_connection, client)

    def _new_connection(self) -> Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state, _loop=self._loop)


def _let_nobody_in(listener: socket.socket) -> None:
    """Have the kernel drop what else wants to connect: the client tries again, and is refused.

    Whom it lets in between the last look at the queue and its end would be cut off. The filter is
    one instruction of Linux' BPF (`bpf(2)`, `socket(7)`): keep 0 bytes of every packet.
    """
    code = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(code))
    with suppress(OSError):  # then some may be cut off
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def spare_collector() -> None:
    """Have the garbage collector pass over what is there now and stays: modules, routes, release.

    It would look through a hundred thousand objects again and again, while nothing else runs. They
    are not collected before: that takes a tenth of a second and finds some hundreds.
    """
    gc.freeze()


def _end(*_: object) -> None:
    """End the process in order; uvicorn hands a signal on when it has finished its requests."""
    sys.exit(0)


def run(settings: Settings, load: LoadRegistry = load_registry) -> None:
    """Serve until a signal ends it.

    Args:
        settings: What the operator chose.
        load: Loads the release.

    Raises:
        CovidXrayError: The service cannot start.
    """
    app = create_app(settings, load)
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
        with bound(settings.host, settings.port) as sockets:
            async with app.router.lifespan_context(app):
                spare_collector()
                for number in HANDLED_SIGNALS:
                    signal.signal(number, _end)
                server = LeavingServer(config, app.state.service, settings.leaving_s)
                await server.serve(sockets)

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())
