import asyncio
import tempfile
from collections.abc import AsyncIterator

import httpx
import pytest

from tests import fakes
from tests.app.calls import PREDICTIONS, Body, Open, check_problem, multipart
from tests.fakes import gray_png

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
