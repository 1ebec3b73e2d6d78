import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from threading import Event

import httpx
import pytest
from fastapi import FastAPI

from app.errors import DeadlinePassed
from app.uploads import TIMEOUT, Upload, UploadLimits, UploadReader
from tests import fakes
from tests.app.calls import BATCH, PREDICTIONS, Body, Open, asking, check_problem, multipart
from tests.fakes import FakeEngine, gray_png

pytestmark = pytest.mark.anyio


async def test_an_announced_length_above_the_limit_is_refused_before_anything_is_read(
    client: httpx.AsyncClient,
) -> None:
    content, headers = multipart(bytes(2_000_000))
    body = Body(content)
    headers["content-length"] = str(len(content))
    response = await client.post(PREDICTIONS, content=aiter(body), headers=headers)
    check_problem(response, 413, "payload-too-large")
    assert body.sent == 0


@pytest.mark.parametrize("length", [None, "10", "none"])
async def test_a_body_without_a_true_length_is_counted_while_it_streams(
    client: httpx.AsyncClient, length: str | None
) -> None:
    content, headers = multipart(bytes(6_000_000))
    body = Body(content)
    if length is not None:
        headers["content-length"] = length
    response = await client.post(PREDICTIONS, content=aiter(body), headers=headers)
    check_problem(response, 413, "payload-too-large")
    assert body.sent <= 2_050_000


async def test_a_body_of_just_the_limit_is_read(opened: Open) -> None:
    content, headers = multipart(fakes.noise_png(1100))
    async with opened(max_upload_bytes=len(content)) as client:
        response = await client.post(PREDICTIONS, content=content, headers=headers)
    assert response.status_code == 200


async def test_a_large_upload_makes_no_temporary_file(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # what a spooled file rolls over to
    content = fakes.noise_png(1300)
    assert len(content) > 2**20
    response = await client.post(PREDICTIONS, files={"file": content})
    assert response.status_code == 200


async def test_an_upload_that_does_not_arrive_in_time_is_ended(opened: Open) -> None:
    content, headers = multipart(gray_png())

    async def slow() -> AsyncIterator[bytes]:
        yield content[:100]
        await asyncio.sleep(30)

    async with opened(request_timeout_s=0.05) as client:
        response = await client.post(PREDICTIONS, content=slow(), headers=headers)
    assert check_problem(response, 504, "deadline-passed")["received"] == "a part of it"


async def test_a_request_may_have_a_deadline_of_its_own(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.may_answer.clear()
    files = {"file": gray_png()}
    headers = {"X-Request-Timeout": "0.2"}
    try:
        response = await client.post(PREDICTIONS, files=files, headers=headers)
    finally:
        engine.may_answer.set()
    check_problem(response, 504, "deadline-passed")
    headers = {"X-Request-Timeout": "20"}
    assert (await client.post(PREDICTIONS, files=files, headers=headers)).status_code == 200


async def test_a_client_cannot_give_itself_more_time_than_the_service_does(
    opened: Open, engine: FakeEngine
) -> None:
    async with opened(request_timeout_s=0.05) as client:
        engine.may_answer.clear()
        try:
            async with asyncio.timeout(10):
                response = await client.post(
                    PREDICTIONS, files={"file": gray_png()}, headers={"X-Request-Timeout": "20"}
                )
        finally:
            engine.may_answer.set()
    check_problem(response, 504, "deadline-passed")


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "1e3", "nan", "inf", "1,5", "2s", "9" * 50])
async def test_a_deadline_that_is_no_number_of_seconds_is_malformed(
    client: httpx.AsyncClient, text: str
) -> None:
    response = await client.post(
        PREDICTIONS, files={"file": gray_png()}, headers={"X-Request-Timeout": text}
    )
    problem = check_problem(response, 400, "malformed-request")
    assert "X-Request-Timeout" in problem["detail"]
    assert not re.search(TIMEOUT["schema"]["pattern"], text)


@pytest.mark.parametrize("text", ["1", "2.5", "30.0", "007", "0.000001", "999999.999999"])
async def test_a_deadline_is_read_as_openapi_describes_it(
    client: httpx.AsyncClient, text: str
) -> None:
    assert re.search(TIMEOUT["schema"]["pattern"], text)
    response = await client.post(PREDICTIONS, content=b"", headers={"X-Request-Timeout": text})
    check_problem(response, 415, "unsupported-image-type")  # nothing else is wrong


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
async def test_a_length_of_very_many_digits_is_too_large(
    client: httpx.AsyncClient, length: str
) -> None:
    content, headers = multipart(gray_png())
    headers["content-length"] = length
    response = await client.post(PREDICTIONS, content=content, headers=headers)
    check_problem(response, 413, "payload-too-large")


async def test_an_upload_that_stops_to_arrive_is_ended(opened: Open) -> None:
    content, headers = multipart(gray_png())

    async def stalled() -> AsyncIterator[bytes]:
        yield content[:100]
        await asyncio.sleep(30)

    async with opened(upload_idle_timeout_s=0.05) as client:
        response = await client.post(PREDICTIONS, content=stalled(), headers=headers)
    check_problem(response, 408, "upload-stalled")


# --- all uploads together


async def stay(part: bytes, arrived: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    yield part
    arrived.set()
    await go_on.wait()


@pytest.mark.parametrize("announced", [True, False])
async def test_uploads_that_would_need_more_memory_than_there_is_are_refused(
    opened: Open, announced: bool
) -> None:
    content, headers = multipart(fakes.noise_png(1200))
    size = len(content)
    arrived, go_on = asyncio.Event(), asyncio.Event()
    async with opened(max_upload_bytes=size, upload_memory_bytes=size + 5000) as client:
        first = stay(content[:-100], arrived, go_on)
        waiting = asyncio.create_task(client.post(PREDICTIONS, content=first, headers=headers))
        await arrived.wait()
        body = Body(content)
        length = {"content-length": str(size)} if announced else {}
        response = await client.post(PREDICTIONS, content=aiter(body), headers=headers | length)
        problem = check_problem(response, 503, "overloaded")
        assert "bytes at once" in problem["expected"]
        assert int(response.headers["retry-after"]) >= 1
        assert body.sent <= (0 if announced else 100_000)
        small = await client.post(PREDICTIONS, files={"file": gray_png()})
        assert small.status_code == 200
        go_on.set()
        check_problem(await waiting, 400, "malformed-request")
        again = await client.post(PREDICTIONS, content=content, headers=headers)
        assert again.status_code == 200


async def test_the_memory_of_every_upload_is_given_back(
    app_of: Callable[..., FastAPI], engine: FakeEngine
) -> None:
    app = app_of(request_timeout_s=0.5)
    async with asking(app, raises=False) as client:
        for data in (gray_png(), b"text", b"", gray_png()[:-40], bytes(3_000_000)):
            await client.post(PREDICTIONS, files={"file": data})
        await client.post(BATCH, files=[("files", gray_png())] * 100)
        await client.post(PREDICTIONS, content=b"x" * 1000, headers=multipart(b"")[1])
        engine.crashing = True
        assert (await client.post(PREDICTIONS, files={"file": gray_png()})).status_code == 500
        engine.crashing = False
        engine.may_answer.clear()
        assert (await client.post(PREDICTIONS, files={"file": gray_png()})).status_code == 504
        engine.may_answer.set()
    assert app.state.uploads.memory.held == 0


# --- bodies that are parsed on a thread


class Parse:
    """Parses bodies of 10 bytes on a thread, as long as it is not let go."""

    def __init__(self) -> None:
        limits = UploadLimits(max_bytes=100, max_batch=1, timeout_s=9, idle_s=9, memory_bytes=100)
        self.reader = UploadReader(limits)
        self.started = Event()
        self.let_go = Event()

    async def run(self, seconds: float, cost: int) -> None:
        upload = Upload([bytes(10)], time.monotonic() + seconds)
        async with self.reader.parse(upload, cost, self._wait, retry_after_s=1):
            assert self.let_go.is_set()

    def _wait(self) -> None:
        self.started.set()
        self.let_go.wait(30)


async def leave_by_deadline(parse: Parse) -> None:
    with pytest.raises(DeadlinePassed, match=r"an answer before .*; received none in time"):
        await parse.run(0.05, cost=50)


async def leave_by_cancellation(parse: Parse) -> None:
    running = asyncio.create_task(parse.run(30, cost=50))
    await asyncio.to_thread(parse.started.wait, 30)
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.parametrize("leave", [leave_by_deadline, leave_by_cancellation])
async def test_a_thread_that_nobody_waits_for_keeps_its_turn_and_its_memory_until_it_ends(
    leave: Callable[[Parse], Awaitable[None]],
) -> None:
    parse = Parse()
    await leave(parse)
    await asyncio.to_thread(parse.started.wait, 30)
    assert parse.reader.memory.held == 50 + 10  # and the body, which the thread reads
    parse.started.clear()
    following = asyncio.create_task(parse.run(30, cost=20))
    await asyncio.sleep(0.05)
    assert not parse.started.is_set()
    parse.let_go.set()
    await following
    assert parse.reader.memory.held == 0


async def test_who_leaves_while_another_body_is_parsed_gives_the_memory_back_at_once() -> None:
    parse = Parse()
    first = asyncio.create_task(parse.run(30, cost=50))
    await asyncio.to_thread(parse.started.wait, 30)
    await leave_by_deadline(parse)
    assert parse.reader.memory.held == 50
    parse.let_go.set()
    await first
    assert parse.reader.memory.held == 0
