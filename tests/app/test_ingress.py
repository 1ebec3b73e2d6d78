"""What proxies of a cluster answer, and what becomes of it."""

from collections.abc import Awaitable, Callable, Mapping

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.ingress import RAY_STAY_HEADER, RAY_TIMEOUT_HEADER, Ingress, middlewares
from app.problems import MEDIA_TYPE
from tests.app.calls import PREDICTIONS, check_problem
from tests.fakes import gray_png

pytestmark = pytest.mark.anyio

Proxy = Callable[[Scope, Receive, Send], Awaitable[None]]
TIMEOUT_S = 30.0
TEXT = "text/plain; charset=utf-8"
BODY: Message = {"type": "http.response.body", "body": b"what Ray says"}


def head(status: int, kind: str = TEXT, **headers: str) -> Message:
    named = {"content-type": kind, **{key.replace("_", "-"): val for key, val in headers.items()}}
    encoded = [(key.encode(), value.encode()) for key, value in named.items()]
    return {"type": "http.response.start", "status": status, "headers": encoded}


def saying(*messages: Message) -> Proxy:
    """Make a proxy that reads the whole request, and then says this."""

    async def proxy(_: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":  # it takes the client to have left
                return
            more = message.get("more_body", False)
        for message in messages:
            await send(message)

    return proxy


async def ask(
    proxy: Proxy,
    headers: Mapping[str, str] | None = None,
    *,
    memory_bytes: int = 10_000,
    path: str = PREDICTIONS,
) -> httpx.Response:
    transport = httpx.ASGITransport(Ingress(proxy, memory_bytes, TIMEOUT_S))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, files={"file": gray_png()}, headers=headers)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ((head(503, retry_after="1"), BODY), "overloaded"),
        ((head(503), BODY), "not-ready"),
        ((head(404), BODY), "not-ready"),
        ((head(500), BODY), "not-ready"),
        ((), "not-ready"),
        ((head(200, "application/json"),), "not-ready"),
    ],
    ids=["queue", "none-ready", "no-application", "error", "died-before", "died-within"],
)
async def test_what_time_mends_is_a_503_with_retry_after(
    messages: tuple[Message, ...], code: str
) -> None:
    response = await ask(saying(*messages))
    problem = check_problem(response, 503, code)
    assert "Ray" not in problem["detail"]
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_client_of_the_inference_protocol_finds_the_error_where_it_looks_for_it() -> None:
    problem = (await ask(saying(), path="/v2/models/covid19-resnet50/infer")).json()
    assert problem["error"] == problem["detail"]
    assert "error" not in (await ask(saying())).json()


async def test_a_proxy_that_waited_too_long_for_a_replica_is_a_passed_deadline() -> None:
    response = await ask(saying(head(408), BODY))
    check_problem(response, 504, "deadline-passed")
    assert "retry-after" not in response.headers


async def test_what_a_replica_says_is_passed_on_with_one_id() -> None:
    twice = head(503, MEDIA_TYPE, retry_after="7")
    twice["headers"] += [(b"x-request-id", b"own"), (b"x-request-id", b"rays")]
    response = await ask(saying(twice, BODY))
    assert (response.status_code, response.content) == (503, BODY["body"])
    assert response.headers["retry-after"] == "7"
    assert response.headers.get_list("x-request-id") == ["own"]


async def test_uploads_beyond_the_proxys_memory_are_refused_and_their_bytes_let_go() -> None:
    proxy = saying(head(200, "application/json"), BODY)
    held = len(gray_png()) + 500
    check_problem(await ask(proxy, memory_bytes=100), 503, "overloaded")
    ingress = Ingress(proxy, held, TIMEOUT_S)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(ingress), base_url="http://test"
    ) as client:
        for _ in range(3):
            assert (await client.post(PREDICTIONS, files={"file": gray_png()})).status_code == 200


async def see(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the headers that reach the proxy."""
    seen: dict[str, str] = {}

    async def proxy(scope: Scope, _: Receive, send: Send) -> None:
        seen.update((key.decode(), value.decode()) for key, value in scope["headers"])
        await send(head(200, "application/json"))
        await send(BODY)

    await ask(proxy, headers)
    return seen


async def test_the_proxy_gets_a_request_id_that_may_be_logged_and_the_requests_deadline() -> None:
    seen = await see({"X-Request-ID": "no good id", "X-Request-Timeout": "2.5"})
    assert seen["x-request-id"].isalnum()
    assert seen[RAY_TIMEOUT_HEADER.lower()] == "2.5"
    assert (await see({"X-Request-ID": "pacs-7"}))["x-request-id"] == "pacs-7"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-Timeout": "0"},  # which Ray takes for no limit
        {"X-Request-Timeout": "30"},
        {"X-Request-Timeout": "999999"},
        {"X-Request-Timeout": "nan"},
        {"X-Request-Timeout-Seconds": "0"},
        {"X-Request-Disconnect-Disabled": "?1"},
    ],
    ids=lambda each: str(*each.items()),
)
async def test_no_client_makes_a_proxy_wait_longer_than_it_would_by_itself(
    headers: dict[str, str],
) -> None:
    seen = await see(headers)
    assert not seen.keys() & {RAY_TIMEOUT_HEADER.lower(), RAY_STAY_HEADER.lower()}


async def test_what_goes_around_a_proxy_takes_its_limits_from_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COVID_XRAY_UPLOAD_MEMORY_BYTES", "99000000")
    monkeypatch.setenv("COVID_XRAY_REQUEST_TIMEOUT_S", "20")
    (middleware,) = middlewares()
    assert middleware.kwargs == {"memory_bytes": 99_000_000, "timeout_s": 20.0}
