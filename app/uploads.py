"""The files of a request: in memory only, and never more of them than the service can hold."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from app.bodies import (
    COMPRESSED,
    DICOM,
    IDENTITY,
    MULTIPART,
    Chunks,
    content_coding,
    expand,
    media_type,
    read_bare,
    read_form,
)
from app.errors import (
    DeadlinePassed,
    MalformedRequest,
    Overloaded,
    PayloadTooLarge,
    UnsupportedImageType,
    UploadStalled,
)
from app.service import InferenceService

T = TypeVar("T")

TIMEOUT_HEADER = "X-Request-Timeout"
SECONDS = r"(?!0+(\.0+)?$)[0-9]{1,6}(\.[0-9]{1,6})?"
"""What the header holds, as a regular expression: more than 0."""
TIMEOUT: dict[str, Any] = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "description": "Seconds in which the answer is of use; after them its work is dropped.",
    "schema": {"type": "string", "pattern": f"^{SECONDS}$", "examples": ["2.5"]},
}
"""The header in OpenAPI."""
Take = Callable[[Chunks], Awaitable[list[bytes]]]
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What one request may bring, and all together.

    Attributes:
        max_bytes: Of its body.
        max_batch: Files in a batch.
        timeout_s: Seconds from its head to its answer.
        idle_s: Seconds between two pieces of its body.
        memory_bytes: Of all bodies that are held at once.
    """

    max_bytes: int
    max_batch: int
    timeout_s: float
    idle_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """The files of a request, and when its answer must be ready (`time.monotonic`)."""

    files: list[bytes]
    deadline: float


class UploadMemory:
    """The bytes of uploads that are held now, from their arrival to their answer.

    Args:
        limit: Of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def check_room(self, count: int, retry_after_s: float) -> None:
        """Tell whether so many bytes more can be held.

        Raises:
            Overloaded: They cannot.
        """
        if self.held + count > self._limit:
            raise Overloaded(
                f"uploads of at most {self._limit} bytes at once",
                "more",
                retry_after_s=retry_after_s,
            )

    def hold(self, count: int) -> None:
        """Count bytes that came, or with a negative number those that are let go."""
        self.held += count


class UploadReader:
    """Reads the uploads of all requests.

    Args:
        limits: What they may bring.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self.memory = UploadMemory(limits.memory_bytes)
        self._parsing = asyncio.Lock()

    @asynccontextmanager
    async def read(
        self, request: Request, field: str, most: int, *, bare: bool = False
    ) -> AsyncIterator[Upload]:
        """Read the files of a multipart form, and count them until they are no more needed.

        Args:
            request: Whose body is read.
            field: The name that all files have.
            most: How many there may be.
            bare: The body may be a DICOM file itself instead, by its content type.

        Raises:
            InputError: It is no such body, malformed or too large, or stopped to arrive.
            CapacityError: There is no place or no memory for it, or its deadline passed.
        """

        async def take(chunks: Chunks) -> list[bytes]:
            content_type = media_type(request)
            if bare and content_type == DICOM:
                return [await read_bare(chunks)]
            if content_type == MULTIPART:
                return await read_form(request, chunks, field, most)
            other = f", or {DICOM}" if bare else ""
            wanted = f"{MULTIPART} with the field {field}{other}"
            raise UnsupportedImageType(wanted, "another content type")

        async with self.read_by(request, take) as upload:
            yield upload

    @asynccontextmanager
    async def read_by(
        self, request: Request, take: Take, codings: Sequence[str] = ()
    ) -> AsyncIterator[Upload]:
        """Read the files of a body in any form, and count them until they are no more needed.

        Args:
            request: Whose body is read.
            take: Makes files of its chunks; what it raises is raised.
            codings: Ways in which it may be compressed, that `take` reads.

        Raises:
            InputError: The body is too large or compressed in another way, or stopped to arrive.
            CapacityError: There is no place or no memory for it, or its deadline passed.
        """
        service: InferenceService = request.app.state.service
        content_coding(request, codings)  # another is refused before anything is read
        timeout_s = _timeout_s(request, self.limits.timeout_s)
        deadline = time.monotonic() + timeout_s
        body = _Body(request, self.limits, self.memory, service.scheduler.retry_after_s)
        try:
            with service.scheduler.expect():
                body.check_announced()
                async with _deadline(timeout_s, "the whole upload", "a part of it"):
                    files = await take(body.chunks())
            yield Upload(files, deadline)
        finally:
            self.memory.hold(-body.received)

    @asynccontextmanager
    async def read_body(self, request: Request) -> AsyncIterator[Upload]:
        """Read a body as it is, or expanded where it is compressed, as the one file of an upload.

        Args:
            request: Whose body is read.

        Raises:
            InputError: It is too large or cannot be expanded, or stopped to arrive.
            CapacityError: There is no place or no memory for it, or its deadline passed.
        """
        coding = content_coding(request, COMPRESSED)
        expanded = 0

        async def count(pieces: Chunks) -> Chunks:
            nonlocal expanded
            async for piece in pieces:
                self.memory.check_room(len(piece), service.scheduler.retry_after_s)
                self.memory.hold(len(piece))
                expanded += len(piece)
                if expanded > self.limits.max_bytes:
                    raise _too_large(self.limits)
                yield piece

        async def take(chunks: Chunks) -> list[bytes]:
            return [await read_bare(chunks if coding == IDENTITY else count(expand(chunks)))]

        service: InferenceService = request.app.state.service
        try:
            async with self.read_by(request, take, COMPRESSED) as upload:
                yield upload
        finally:
            self.memory.hold(-expanded)

    @asynccontextmanager
    async def parse(
        self, upload: Upload, cost: int, parse: Callable[[], T], retry_after_s: float
    ) -> AsyncIterator[T]:
        """Parse a body on a thread, and hold the memory for it until it is no more needed.

        One at a time: only one thread of Python runs anyway, and the others would hold up all else.
        A thread cannot be stopped: where nobody waits for it any more, its turn and its memory end
        with it all the same, and not before.

        Args:
            upload: Whose body is parsed.
            cost: Bytes that it may take beside the body.
            parse: Does it; what it raises is raised.
            retry_after_s: Seconds after which there should be room, where there is none.

        Raises:
            PayloadTooLarge: It may take more than there ever is.
            CapacityError: There is no memory for it, or its deadline passed.
        """
        if cost > self.limits.memory_bytes:
            wanted = f"a body that takes at most {self.limits.memory_bytes} bytes when it is parsed"
            raise PayloadTooLarge(wanted, "more")
        self.memory.check_room(cost, retry_after_s)
        self.memory.hold(cost)
        thread: asyncio.Task[T] | None = None
        try:
            async with _deadline(upload.deadline - time.monotonic(), "an answer", "none in time"):
                await self._parsing.acquire()
                thread = asyncio.create_task(asyncio.to_thread(parse))
                thread.add_done_callback(lambda _: self._parsing.release())
                parsed = await asyncio.shield(thread)
            yield parsed
        finally:
            if thread is None or thread.done():
                self.memory.hold(-cost)
            else:
                body = sum(map(len, upload.files))  # which it reads, and nobody else counts now
                self.memory.hold(body)
                thread.add_done_callback(lambda _: self.memory.hold(-cost - body))


def _timeout_s(request: Request, most: float) -> float:
    """Read how many seconds the client gives its request; the service's own limit holds too."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return most
    if not re.fullmatch(SECONDS, text):
        raise MalformedRequest(f"seconds above 0 in {TIMEOUT_HEADER}, such as 2.5", "another value")
    return min(float(text), most)


@asynccontextmanager
async def _deadline(seconds: float, expected: str, received: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise DeadlinePassed(f"{expected} before the request's deadline", received) from error


class _Body:
    """A request's body, counted while it arrives; reading stops as soon as it is too much."""

    def __init__(
        self, request: Request, limits: UploadLimits, memory: UploadMemory, retry_after_s: float
    ) -> None:
        self._request = request
        self._limits = limits
        self._memory = memory
        self._retry_after_s = retry_after_s
        self.received = 0

    def check_announced(self) -> None:
        """Refuse what is known to be too much before any of it is read."""
        length = self._request.headers.get("content-length", "")
        if not length.isdecimal():
            return
        announced = int(length[:_MAX_DIGITS])  # a number of more digits is not less
        self._check_size(announced)
        self._memory.check_room(announced, self._retry_after_s)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Pass the body on."""
        stream = self._request.stream()
        while (chunk := await self._next(stream)) is not None:
            self._check_size(self.received + len(chunk))
            self._memory.check_room(len(chunk), self._retry_after_s)
            self._memory.hold(len(chunk))
            self.received += len(chunk)
            yield chunk

    async def _next(self, stream: AsyncGenerator[bytes, None]) -> bytes | None:
        idle_s = self._limits.idle_s
        try:
            async with asyncio.timeout(idle_s):
                return await anext(stream, None)
        except TimeoutError as error:
            raise UploadStalled(f"a body without pauses of {idle_s:g} s", "one") from error

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise _too_large(self._limits)


def _too_large(limits: UploadLimits) -> PayloadTooLarge:
    return PayloadTooLarge(f"a body of at most {limits.max_bytes} bytes", "more")
