"""What the proxies of a cluster answer themselves, in this service's terms.

Ray Serve's proxies pass requests on to replicas. Where they cannot, they answer in plain text, or
with a 500 that says nothing; here such an answer becomes the problem that a single service would
have answered with. Ray puts `middlewares` around its proxies where its environment names it:
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=app.ingress.middlewares`.
"""

import math
import re
import time
from http import HTTPMethod, HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import CapacityError, DeadlinePassed, NotReady, Overloaded
from app.observability import read_request_id
from app.problems import answer, to_problem
from app.security import HEADERS
from app.settings import load_settings
from app.uploads import SECONDS, TIMEOUT_HEADER, UploadMemory

RAY_TIMEOUT_HEADER = "X-Request-Timeout-Seconds"
"""In which a proxy is told how long it may wait for a replica's answer."""

RAY_STAY_HEADER = "X-Request-Disconnect-Disabled"
"""In which a proxy is told to let a replica go on when its client has left."""

_WEIGHT = 0.1
"""Of the newest answer in the moving average of what an answer takes."""


def middlewares() -> list[Middleware]:
    """Give what Ray puts around a proxy."""
    settings = load_settings()
    return [
        Middleware(
            Ingress,
            memory_bytes=settings.upload_memory_bytes,
            timeout_s=settings.request_timeout_s,
        )
    ]


class Ingress:
    """The middleware around a proxy.

    Args:
        app: The proxy.
        memory_bytes: Of all uploads that it holds at once: it takes in what clients send, also
            while no replica is free to read it.
        timeout_s: Seconds that a request may take at most; a client may ask for fewer.
    """

    def __init__(self, app: ASGIApp, memory_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s
        self._memory = UploadMemory(memory_bytes)
        self._answer_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as a replica does, or with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = _prepare(scope, self._timeout_s)
        upload = _Upload(receive, self._memory)
        passed = _Answer(send)
        try:
            await self._app(scope, upload.receive, passed.send)
        finally:
            self._memory.hold(-upload.received)
        if passed.began:
            self._measure(scope, time.monotonic() - began)
            return
        error = self._too_much() if upload.refused else self._explain(passed)
        headers = HEADERS | {"X-Request-ID": request_id}
        if not isinstance(error, DeadlinePassed):
            headers["Retry-After"] = str(self._retry_after_s)
        await answer(to_problem(error), headers, path=scope["path"])(scope, receive, send)

    @property
    def _retry_after_s(self) -> int:
        """Seconds that a request which found a place took of late, its waiting included."""
        return max(1, math.ceil(self._answer_s))

    def _measure(self, scope: Scope, seconds: float) -> None:
        if scope["method"] == HTTPMethod.POST:
            self._answer_s += _WEIGHT * (seconds - self._answer_s)

    def _too_much(self) -> CapacityError:
        return Overloaded(
            "uploads that the proxy can hold at once", "more", retry_after_s=self._retry_after_s
        )

    def _explain(self, passed: "_Answer") -> CapacityError:
        """Tell why there is no answer of a replica."""
        if passed.status == HTTPStatus.REQUEST_TIMEOUT:
            return DeadlinePassed("an answer before the request's deadline", "none in time")
        if passed.is_backpressure:
            return Overloaded(
                "a place in the queue", "a full one", retry_after_s=self._retry_after_s
            )
        if passed.status is None:
            return NotReady("an answer of a replica", "none: it ended before, or the client left")
        return NotReady("a replica that is ready", "none")


class _Upload:
    """Counts what a proxy receives, and lets it take the client to have left where it is too much.

    Attributes:
        received: Bytes that count.
        refused: There was no room for them.
    """

    def __init__(self, receive: Receive, memory: UploadMemory) -> None:
        self._receive = receive
        self._memory = memory
        self.received = 0
        self.refused = False

    async def receive(self) -> Message:
        """Receive the next message, after ASGI."""
        message = await self._receive()
        count = len(message.get("body", b""))
        try:
            self._memory.check_room(count, 0)
        except Overloaded:
            self.refused = True
            return {"type": "http.disconnect"}
        self._memory.hold(count)
        self.received += count
        return message


class _Answer:
    """Passes on what a replica answers, and keeps back what the proxy says itself.

    The head waits for the first of the body: a replica may end in between.

    Attributes:
        status: Of the head; none where there is none.
        is_backpressure: The proxy's queue was full.
        began: Something was passed on.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: Message | None = None
        self.status: int | None = None
        self.is_backpressure = False
        self.began = False

    async def send(self, message: Message) -> None:
        """Take the next message, after ASGI."""
        if message["type"] == "http.response.start":
            self._head = message
            self.status = message["status"]
            return
        if self._head is not None and not self.began:
            if _is_rays_own(self._head):
                self.is_backpressure = "retry-after" in Headers(scope=self._head)
                return
            self.began = True
            _keep_one(self._head)
            await self._send(self._head)
        await self._send(message)


def _is_rays_own(head: Message) -> bool:
    """Tell what the proxy says from what a replica does, whose errors are never plain text."""
    kind = Headers(scope=head).get("content-type", "")
    return head["status"] >= HTTPStatus.BAD_REQUEST and kind.startswith("text/plain")


def _keep_one(head: Message) -> None:
    """Take away the second `X-Request-ID`, which Ray adds to a replica's own."""
    headers = MutableHeaders(scope=head)
    if own := headers.get("X-Request-ID"):
        headers["X-Request-ID"] = own  # and with that, the only one


def _prepare(scope: Scope, most_s: float) -> str:
    """Give a request an id that may be logged, and tell the proxy its deadline.

    Args:
        scope: Of the request.
        most_s: Seconds; a deadline that is no earlier is left to the proxy, which has its own.

    Returns:
        The id.
    """
    headers = MutableHeaders(scope=scope)
    request_id = headers["X-Request-ID"] = read_request_id(headers)
    asked = headers.get(TIMEOUT_HEADER, "")
    for name in (RAY_TIMEOUT_HEADER, RAY_STAY_HEADER):  # a client could keep a place for ever
        del headers[name]
    if re.fullmatch(SECONDS, asked) and float(asked) < most_s:
        headers[RAY_TIMEOUT_HEADER] = asked
    return request_id
