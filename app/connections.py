"""What a connection may cost before there is a request that the application could judge."""

import asyncio
import fcntl
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.observability import log_unread
from app.problems import answer
from app.schemas import Problem
from app.security import HEADERS

MAX_HEAD_BYTES = 64 * 1024
"""Of the line and the headers of a request together."""

HEAD_TIMEOUT_S = 10.0
"""In which the head of a request has to arrive. As long, what is left of an upload that was already
answered is received and dropped: a client that is cut off at once would not read the answer."""

LAST_HEAD_TIMEOUT_S = 2
"""The same where the server is about to stop."""

WRITE_TIMEOUT_S = 20.0
"""In which a client has to take something of an answer that the kernel has no room for."""

_BESIDE_HEADER = len(": \r\n")
_BLANKS = b" \t"


class _HeadTooLarge(Exception):
    """The head of a request has more bytes than are read."""


class _BadHead(Exception):
    """The head of a request is of another form than HTTP's."""


class _Joining:
    """A transport that sends the head of an answer together with what comes next of it.

    uvicorn writes them one after the other. A process that is killed in between would leave half an
    answer, where a balancer cannot have another replica, or a 503, answer any more.

    Args:
        transport: What sends; all else is its own.
        close: What is done instead of closing it.
    """

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self._close = close
        self._head = b""
        self._has_ended = False

    def __getattr__(self, name: str) -> object:
        """Give what is the transport's own."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Tell whether nothing more is sent."""
        return self._has_ended or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Keep a head back, or send one with this."""
        if self._has_ended:
            return
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

    def end(self) -> None:
        """Send nothing more, and go on reading."""
        self.flush()
        self._has_ended = True
        self._transport.resume_reading()
        with suppress(OSError):  # the client has left already
            self._transport.write_eof()

    def close(self) -> None:
        """Close the connection when all is sent."""
        self.flush()
        self._close()


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which would collect a head, or wait for the end of one, for ever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- uvicorn's own
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._in_message = False
        self._has_moved = False
        self._head_again = b""
        self._head_bytes = 0
        self._unfinished_bytes = 0
        self._timeout_s = HEAD_TIMEOUT_S
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Wait for a head."""
        transport.set_write_buffer_limits(0)  # to be told of all that waits to be sent
        self._socket = transport
        self._joining = _Joining(transport, self._close)
        super().connection_made(cast("asyncio.Transport", self._joining))
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Watch whether the client takes what waits to be sent."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Leave the rest to the kernel."""
        super().resume_writing()
        self._stop_write_timer()

    def close_with_answer(self) -> None:
        """Tell the client with the answer under way, if there is one, that no other will follow."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """End the connection after its request, also where that is still on its way."""
        self._timeout_s = self.timeout_keep_alive = LAST_HEAD_TIMEOUT_S
        if self._is_answering():
            super().shutdown()
        else:
            self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Read on; a head, or trailers, that have not ended yet must not become too large."""
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._has_moved = False
        try:
            self._parse(data)
        except HttpParserError:
            self._refuse_unread()
            return
        waits = self._in_head or (self._in_message and not self._has_moved)
        if waits and not self.transport.is_closing():
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
        super().on_header(name, value.rstrip(_BLANKS))

    def on_headers_complete(self) -> None:
        """End the head, and start the request."""
        if self.parser.should_upgrade():
            self._head_again = self._head_without_upgrade()
            return
        self._check_host()
        self._in_head = False
        self._has_moved = True
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._has_moved = True
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body, perhaps after the answer: then the connection waits for another request."""
        if self._head_again:  # the body comes yet
            return
        self._in_message = False
        super().on_message_complete()
        if not self._is_answering():
            self._start_timer(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """End the answer, perhaps before the body."""
        self._joining.flush()  # a HEAD has nothing else
        super().on_response_complete()
        if self._in_message and not self._is_answering():
            self._start_timer()

    def _parse(self, data: bytes | memoryview) -> None:
        """Parse what came; no other protocol is taken up (RFC 9110, 7.8).

        Where a client asks for one, the parser ends the request with its head, and would take the
        body for another. So a new one reads the head again, without that wish, and what follows.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as stopped:
                data = memoryview(data)[stopped.args[0] :]
                head, self._head_again = self._head_again, b""
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
                self.parser.feed_data(head)
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        method = self.parser.get_method()
        if method == b"CONNECT":  # no body, and what follows would be a tunnel's
            raise _BadHead
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (method, self.url, version)]
        lines += [b"%b: %b\r\n" % each for each in self.headers if each[0] != b"upgrade"]
        return b"".join([*lines, b"\r\n"])

    def _check_host(self) -> None:
        """See that there is one Host, or in HTTP/1.0 at most one (RFC 9112, 3.2)."""
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            raise _BadHead

    def _refuse_unread(self) -> None:
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
        if self._is_answering() and not self._leave():  # an earlier request of this connection
            self._socket.close()
            return
        special = {
            "Connection": "close",
            "Date": formatdate(usegmt=True),
            "X-Request-ID": log_unread(status),
        }
        response = answer(Problem.of_status(status), HEADERS | special)
        lines = [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
        self.transport.writelines([STATUS_LINE[status], *lines, b"\r\n", response.body])
        self._end()

    def _leave(self) -> bool:
        """Take the request that is on its way from the application, if no answer to it has begun.

        Returns:
            Whether that is so, and no earlier request waits for an answer.
        """
        if self.pipeline or self.cycle.response_started or not self.cycle.more_body:
            return False
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return True

    def _is_answering(self) -> bool:
        if self.cycle is None or self.cycle.disconnected:
            return False
        return not self.cycle.response_complete

    def _close(self) -> None:
        """Close the connection, but hear out a client that was answered and is still sending."""
        if self.transport.is_closing():
            return
        if self._in_message and not self._is_answering():
            self._end()
        else:
            self._socket.close()

    def _end(self) -> None:
        """Send nothing more, and drop for some time what comes.

        Where something comes that nobody reads, the kernel resets the connection, and the client
        may never see its answer.
        """
        self._joining.end()
        self._start_timer()

    def _start_timer(self, seconds: float | None = None) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds or self._timeout_s, self._timed_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        if self._is_answering():  # an earlier request of this connection
            self._start_timer()
        else:
            self._socket.close()

    def _start_write_timer(self) -> None:
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(
            WRITE_TIMEOUT_S, self._check_taken, self._count_untaken()
        )

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _check_taken(self, untaken: int) -> None:
        if self._count_untaken() < untaken:
            self._start_write_timer()
        else:
            self._socket.abort()

    def _count_untaken(self) -> int:
        """Count the bytes that the client has not taken: those that wait here, and the kernel's."""
        kernels = fcntl.ioctl(self._socket.get_extra_info("socket"), termios.TIOCOUTQ, bytes(4))
        return self._socket.get_write_buffer_size() + int.from_bytes(kernels, sys.byteorder)
