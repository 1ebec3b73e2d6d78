import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests import fakes
from tests.app.calls import BATCH, PREDICTIONS, Body, Open, check_problem, multipart
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
    check_problem(response, 504, "deadline-passed")


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


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "1e3", "nan", "inf", "1,5", "2s", "9" * 50])
async def test_a_deadline_that_is_no_number_of_seconds_is_malformed(
    client: httpx.AsyncClient, text: str
) -> None:
    response = await client.post(
        PREDICTIONS, files={"file": gray_png()}, headers={"X-Request-Timeout": text}
    )
    problem = check_problem(response, 400, "malformed-request")
    assert "X-Request-Timeout" in problem["detail"]


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
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
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


# --- forms that are made to cost more than they should

PART = b'--a\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n'


@pytest.mark.parametrize(
    "content",
    [
        PART * 5000,
        PART.replace(b'; filename="f"', b"") * 5000,
        PART.replace(b"\r\n\r\n", b"\r\n" + b"A: b\r\n" * 5000 + b"\r\n"),
        PART.replace(b'filename="f"', b'filename="' + b"f" * 500_000 + b'"'),
        b"--a\r\n" + b"A" * 500_000,
        b"\r\n" * 250_000 + PART,
        PART[:-3] + b"\r\n--" * 250_000,
    ],
    ids=["files", "texts", "headers", "file name", "header", "preamble", "almost boundaries"],
)
async def test_a_form_of_very_many_parts_is_malformed(
    client: httpx.AsyncClient, content: bytes
) -> None:
    headers = {"content-type": "multipart/form-data; boundary=a"}
    body = Body(content)
    response = await client.post(PREDICTIONS, content=aiter(body), headers=headers)
    check_problem(response, 400, "malformed-request")


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=a; charset=undefined",
        "multipart/form-data; boundary=a; charset=punycode",
        "multipart/form-data; boundary=a; charset=hex",
        "multipart/form-data; boundary=a; charset=" + "a" * 5000,
        "multipart/form-data; boundary=" + "a" * 5000,
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary",
        "multipart/form-data;;;=;" * 500,
        "multipart/mixed; boundary=a",
        "image/png",
        "",
    ],
)
async def test_no_content_type_makes_the_service_fail(
    client: httpx.AsyncClient, content_type: str
) -> None:
    content = PART.replace(b'"f"', b'"\xff\xfe-"') + b"--a--\r\n"
    headers: dict[str, Any] = {"content-type": content_type}
    response = await client.post(PREDICTIONS, content=content, headers=headers)
    assert response.status_code in {400, 415}, response.text
