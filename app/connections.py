"""What a connection may cost before there is a request that the application could judge."""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.problems import answer
from app.schemas import Problem
from app.security import HEADERS

MAX_HEAD_BYTES = 64 * 1024
"""Of the line and the headers of a request together."""

HEAD_TIMEOUT_S = 10.0
"""In which the head of a request has to arrive. As long, what is left of an upload that was already
answered is received and dropped: a client that is cut off at once would not read the answer."""

LAST_HEAD_TIMEOUT_S = 2.0
"""The same where the server is about to stop."""

_BESIDE_HEADER = len(": \r\n")


class _HeadTooLarge(Exception):
    """The head of a request has more bytes than are read."""


class _Joining:
    """A transport that sends the head of an answer together with what comes next of it.

    uvicorn writes them one after the other. A process that is killed in between would leave half an
    answer, where a balancer cannot have another replica, or a 503, answer any more.

    Args:
        transport: What sends; all else is its own.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> object:
        """Give what is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keep a head back, or send one with this."""
        is_head = data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n")
        if is_head and not data.startswith(STATUS_LINE[HTTPStatus.CONTINUE]):
            self.flush()
            self._head = data
            return
        self._transport.write(self._head + data)
        self._head = b""

    def flush(self) -> None:
        """Send a head that nothing comes after."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        """Close the connection when all is sent."""
        self.flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which would collect a head, or wait for the end of one, for ever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- uvicorn's own
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._in_message = False
        self._head_bytes = 0
        self._unfinished_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Wait for a head."""
        self._joining = _Joining(transport)
        super().connection_made(cast("asyncio.Transport", self._joining))
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def close_with_answer(self) -> None:
        """Tell the client with the answer under way, if there is one, that no other will follow."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """End the connection after its request, also where that is still on its way."""
        if self._is_answering():
            super().shutdown()
        else:
            self._start_timer(LAST_HEAD_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        """Read on; a head that has not ended yet must not become too large."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._head_bytes = self._unfinished_bytes = 0
        self._start_timer()

    def on_url(self, url: bytes) -> None:
        """Take a part of the line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer behind a body."""
        self._count(len(name) + len(value) + _BESIDE_HEADER)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head, and start the request."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body."""
        self._in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End the answer, perhaps before the body."""
        self._joining.flush()  # a HEAD has nothing else
        super().on_response_complete()
        if self._in_message:
            self._start_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- all is said by the status
        """Answer what is no HTTP, or what `_count` has stopped."""
        too_large = self._head_bytes > MAX_HEAD_BYTES
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
        )

    def _count(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer with a problem, and end the connection."""
        if not self._is_answering():
            response = answer(Problem.of_status(status), HEADERS | {"Connection": "close"})
            lines = [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
            self.transport.writelines([STATUS_LINE[status], *lines, b"\r\n", response.body])
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self, seconds: float = HEAD_TIMEOUT_S) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._timed_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        if self._is_answering():  # an earlier request of this connection
            self._start_timer()
        else:
            self.transport.close()
