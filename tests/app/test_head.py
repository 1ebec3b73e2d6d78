from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api_keys import key_line, new_key
from app.head import answer_head
from app.main import create_app
from app.settings import Settings
from tests.app.calls import BATCH, PREDICTIONS, Open, check_problem

pytestmark = pytest.mark.anyio

PAGES = (
    "/",
    "/page/style.css",
    "/docs",
    "/openapi.json",
    "/static-offline-docs/swagger-ui.css",
    "/v1/models",
    "/v1/models/1",
    "/v1/models/9",
    "/health/live",
    "/health/ready",
    "/v2",
    "/v2/health/ready",
    "/nothing",
)


@pytest.mark.parametrize("path", PAGES)
async def test_a_head_is_that_of_the_get(client: httpx.AsyncClient, path: str) -> None:
    head, got = await client.head(path), await client.get(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert int(head.headers["content-length"]) == len(got.content)
    for answer in (head, got):
        del answer.headers["x-request-id"]
    assert head.headers == got.headers


async def test_no_body_is_sent_and_what_is_within_sees_a_get() -> None:
    seen: list[str] = []
    sent: list[Message] = []

    async def application(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(scope["method"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    app = create_app(Settings())
    app.middleware_stack = application
    answer_head(app)
    for method in ("HEAD", "GET", "POST"):
        scope: dict[str, Any] = {"type": "http", "method": method}
        await app(scope, receive, send)
        assert scope["method"] == method  # the server goes by it
    assert seen == ["GET", "GET", "POST"]
    bodies = [each["body"] for each in sent if each["type"] == "http.response.body"]
    assert bodies == [b"", b"", b"one", b"two", b"one", b"two"]


@pytest.mark.parametrize("path", [PREDICTIONS, BATCH])
async def test_what_is_only_posted_to_has_no_head(client: httpx.AsyncClient, path: str) -> None:
    response = await client.head(path)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_a_head_needs_the_key_that_its_get_needs(opened: Open, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "api_keys").write_text(key_line(key))
    async with opened(api_keys_file=tmp_path / "api_keys", page="key", metrics="key") as client:
        for path in ("/", "/metrics", "/v1/models", "/v2"):
            assert (await client.head(path)).status_code == 401
            headers = {"authorization": f"Bearer {key}"}
            assert (await client.head(path, headers=headers)).status_code == 200
        assert (await client.head("/health/ready")).status_code == 200
        check_problem(await client.get("/v2"), 401, "unauthorized")


async def test_a_head_is_counted_as_the_get_that_it_costs(client: httpx.AsyncClient) -> None:
    await client.head("/v1/models")
    lines = (await client.get("/metrics")).text.splitlines()
    counted = [each for each in lines if each.startswith("covid_xray_http_requests_total{")]
    expected = 'method="GET",route="/v1/models",status="200"'
    assert [each for each in counted if expected in each]
    assert not [each for each in counted if "HEAD" in each]
