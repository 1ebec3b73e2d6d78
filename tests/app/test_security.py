import base64
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.api_keys import ApiKeys, key_line, new_key
from app.errors import AnonymousAccess, KeysInvalid
from tests.app.calls import PREDICTIONS, Body, Open, check_problem, multipart
from tests.fakes import FakeEngine, gray_png

pytestmark = pytest.mark.anyio

KEY, OTHER = new_key(), new_key()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "api_keys"
    path.write_text(f"# those who may ask\n\n{key_line(KEY, 'the ward')}\n{key_line(OTHER)}\n")
    return path


@pytest.fixture
async def guarded(opened: Open, keys: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(api_keys_file=keys) as client:
        yield client


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"any:{password}".encode()).decode()


# --- keys


def test_a_key_is_256_bits_and_never_the_same() -> None:
    assert re.fullmatch(r"cxr_[\w-]{43}", KEY)
    assert new_key() != new_key()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"x-api-key": OTHER},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {OTHER}"},
    ],
    ids=["X-API-Key", "another key", "Bearer", "bearer"],
)
async def test_every_key_of_the_file_is_accepted_in_either_header(
    guarded: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await guarded.post(PREDICTIONS, files={"file": gray_png()}, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": key_line(KEY)},
        {"x-api-key": "caf\xe9".encode("latin-1")},
        {"authorization": KEY},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": basic(KEY)},
    ],
    ids=["none", "empty", "short", "hash", "bytes", "no scheme", "no key", "long", "Basic"],
)
@pytest.mark.parametrize("path", [PREDICTIONS, "/v1/models", "/v1/nothing", "/other"])
async def test_without_a_key_everything_but_health_is_refused(
    guarded: httpx.AsyncClient, path: str, headers: dict[str, Any]
) -> None:
    response = await guarded.post(path, files={"file": gray_png()}, headers=headers)
    check_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == 'Bearer realm="covid-xray"'


async def test_a_refusal_never_repeats_the_key(
    guarded: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "app")
    wrong = new_key()
    response = await guarded.get("/v1/models", headers={"x-api-key": wrong})
    assert wrong not in response.text + str(response.headers) + caplog.text


async def test_a_refusal_reads_nothing_of_the_body(guarded: httpx.AsyncClient) -> None:
    content, headers = multipart(gray_png())
    body = Body(content)
    check_problem(
        await guarded.post(PREDICTIONS, content=aiter(body), headers=headers), 401, "unauthorized"
    )
    assert body.sent == 0


async def test_health_needs_no_key(guarded: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/health/ready"):
        assert (await guarded.get(path)).status_code == 200


# --- the file of keys


def write(path: Path, key: str) -> None:
    path.write_text(key_line(key) + "\n")


def replace(path: Path, key: str) -> None:
    """Change a file as an editor or a mounted secret does."""
    write(path.with_name("new"), key)
    path.with_name("new").replace(path)


async def test_a_key_can_be_added_and_removed_while_the_service_runs(
    guarded: httpx.AsyncClient, keys: Path
) -> None:
    async def status(key: str) -> int:
        return (await guarded.get("/v1/models", headers={"x-api-key": key})).status_code

    new = new_key()
    assert (await status(KEY), await status(new)) == (200, 401)
    write(keys, new)
    assert (await status(KEY), await status(new)) == (401, 200)
    replace(keys, KEY)
    assert (await status(KEY), await status(new)) == (200, 401)


@pytest.mark.parametrize(
    "remove",
    [Path.unlink, lambda path: path.write_text(""), lambda path: path.write_text("# none\n")],
    ids=["file gone", "empty", "comment"],
)
def test_the_last_key_can_be_removed_while_the_service_runs(
    keys: Path, caplog: pytest.LogCaptureFixture, remove: Callable[[Path], object]
) -> None:
    known = ApiKeys(keys)
    remove(keys)
    assert not any([known.accept(KEY), known.accept(KEY), known.accept("")])
    assert caplog.text.count("No API key is accepted now") == 1
    keys.write_text(key_line(OTHER))
    assert [known.accept(KEY), known.accept(OTHER)] == [False, True]


def test_a_file_of_keys_may_begin_with_a_byte_order_mark(keys: Path) -> None:
    known = ApiKeys(keys)
    keys.write_bytes(b"\xef\xbb\xbf" + key_line(OTHER).encode())
    assert [known.accept(KEY), known.accept(OTHER)] == [False, True]


def test_a_file_that_breaks_leaves_the_keys_as_they_were_and_is_logged_once(
    keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = ApiKeys(keys)
    keys.write_text("no hash\n")
    assert [known.accept(KEY), known.accept(KEY), known.accept(new_key())] == [True, True, False]
    assert caplog.text.count("stay as they were") == 1
    keys.write_text(key_line(OTHER))
    assert [known.accept(KEY), known.accept(OTHER)] == [False, True]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "at least one"),
        (b"# none\n", "at least one"),
        (KEY.encode(), "another in line 1"),
        (b"\n" + key_line(KEY).upper().encode(), "another in line 2"),
        (key_line(KEY).encode()[:-1], "another in line 1"),
        (b"\xff\xfe", "no text"),
    ],
    ids=["empty", "comment", "a key", "capitals", "short", "binary"],
)
def test_a_file_that_is_no_list_of_hashes_is_refused_without_telling_what_it_holds(
    keys: Path, content: bytes, reason: str
) -> None:
    keys.write_bytes(content)
    with pytest.raises(KeysInvalid, match=reason) as caught:
        ApiKeys(keys)
    assert KEY not in str(caught.value)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeysInvalid, match="No such file"):
        ApiKeys(tmp_path / "none")


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_refused(keys: Path) -> None:
    keys.chmod(0)
    with pytest.raises(KeysInvalid, match="Permission denied"):
        ApiKeys(keys)


# --- where it listens


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_this_machine_alone_no_key_is_needed(app_of: Callable[..., FastAPI], host: str) -> None:
    assert app_of(host=host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "xray.example", ""])  # noqa: S104 -- refused
def test_open_to_a_network_without_keys_is_refused_unless_it_is_said(
    app_of: Callable[..., FastAPI], keys: Path, host: str
) -> None:
    with pytest.raises(AnonymousAccess, match="COVID_XRAY_ALLOW_ANONYMOUS=true"):
        app_of(host=host)
    assert app_of(host=host, allow_anonymous=True)
    assert app_of(host=host, api_keys_file=keys)


async def test_to_allow_anonymous_access_does_not_open_what_has_keys(
    opened: Open, keys: Path
) -> None:
    async with opened(api_keys_file=keys, allow_anonymous=True) as client:
        check_problem(await client.get("/v1/models"), 401, "unauthorized")


# --- pages

PAGES = ("/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css")


async def test_the_documentation_is_open_unless_it_is_closed(guarded: httpx.AsyncClient) -> None:
    for page in PAGES:
        assert (await guarded.get(page)).status_code == 200


async def test_the_documentation_can_need_a_key_which_a_browser_sends_as_a_password(
    opened: Open, keys: Path
) -> None:
    async with opened(api_keys_file=keys, docs="key") as client:
        for page in PAGES:
            response = await client.get(page)
            check_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Basic ")
            for authorization in (basic(KEY), f"Bearer {KEY}"):
                headers = {"authorization": authorization}
                assert (await client.get(page, headers=headers)).status_code == 200
            for wrong in (basic(new_key()), "Basic ???", "Basic " + "/w=="):
                headers = {"authorization": wrong}
                assert (await client.get(page, headers=headers)).status_code == 401


async def test_the_documentation_and_the_metrics_can_be_off(opened: Open, keys: Path) -> None:
    async with opened(api_keys_file=keys, docs="off", metrics="off") as client:
        for page in (*PAGES, "/docs/oauth2-redirect", "/metrics"):
            response = await client.get(page, headers={"x-api-key": KEY})
            check_problem(response, 404, "not-found")


@pytest.mark.parametrize(("metrics", "status"), [("open", {200, 404}), ("key", {401})])
async def test_the_metrics_can_need_a_key(
    opened: Open, keys: Path, metrics: str, status: set[int]
) -> None:
    async with opened(api_keys_file=keys, metrics=metrics) as client:
        assert (await client.get("/metrics")).status_code in status
        response = await client.get("/metrics", headers={"authorization": f"Bearer {KEY}"})
        assert response.status_code in {200, 404}


async def test_openapi_tells_how_to_send_a_key_where_one_is_needed(
    guarded: httpx.AsyncClient,
) -> None:
    document = (await guarded.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    key, bearer = schemes["ApiKey"], schemes["Bearer"]
    assert (key["in"], key["name"], bearer["scheme"]) == ("header", "X-API-Key", "bearer")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path.startswith(("/health/", "/v2/health/"))
            either: object = None if is_open else [{"ApiKey": []}, {"Bearer": []}]
            assert operation.get("security") == either


async def test_names_of_components_are_such_as_openapi_allows(guarded: httpx.AsyncClient) -> None:
    components = (await guarded.get("/openapi.json")).json()["components"]
    assert {"schemas", "headers", "securitySchemes"} <= components.keys()
    for named in components.values():
        for name in named:
            assert re.fullmatch(r"[a-zA-Z0-9._-]+", name), name  # OpenAPI 3.1, 4.8.7


async def test_openapi_asks_for_no_key_where_none_is_needed(client: httpx.AsyncClient) -> None:
    assert "securitySchemes" not in (await client.get("/openapi.json")).json()["components"]


# --- headers


@pytest.mark.parametrize(
    "path", [PREDICTIONS, "/v1/models", "/v1/models/9", "/nothing", "/health/live", "/openapi.json"]
)
async def test_every_answer_is_safe_in_a_browser(client: httpx.AsyncClient, path: str) -> None:
    check_headers(await client.get(path))
    check_headers(await client.post(path))


def check_headers(response: httpx.Response) -> None:
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    assert "server" not in response.headers


async def test_refusals_and_failures_are_safe_in_a_browser_too(
    guarded: httpx.AsyncClient, engine: FakeEngine
) -> None:
    check_headers(await guarded.get("/v1/models"))
    engine.crashing = True
    headers = {"x-api-key": KEY}
    response = await guarded.post(PREDICTIONS, files={"file": gray_png()}, headers=headers)
    assert response.status_code == 500
    check_headers(response)


async def test_no_answer_about_an_image_is_kept(client: httpx.AsyncClient) -> None:
    for content in (gray_png(), b"text"):
        response = await client.post(PREDICTIONS, files={"file": content})
        assert response.headers["cache-control"] == "no-store"


async def test_the_documentation_page_may_run_its_own_scripts_only(
    client: httpx.AsyncClient,
) -> None:
    policy = (await client.get("/docs")).headers["content-security-policy"]
    assert "script-src 'self' 'unsafe-inline'" in policy
    assert "http" not in policy
