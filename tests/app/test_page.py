"""How the page at `/` is served; `integration/test_page_in_browser.py` tests what it does."""

import re
from pathlib import Path

import httpx
import pytest

from app.api_keys import key_line, new_key
from app.page import FILES
from tests.app.calls import Open, check_problem
from tests.app.test_security import basic

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parents[2] / "app" / "page"
KEY = new_key()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "api_keys"
    path.write_text(key_line(KEY))
    return path


@pytest.mark.parametrize("path", FILES)
async def test_every_file_of_the_page_is_served_under_a_strict_policy(
    client: httpx.AsyncClient, path: str
) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert response.content == (FOLDER / FILES[path][0]).read_bytes()
    policy = response.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(policy)
    assert "img-src 'self' blob:" in policy
    assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe" not in response.headers["content-security-policy"]


async def test_a_file_that_a_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    tag = (await client.get("/")).headers["etag"]
    response = await client.get("/", headers={"if-none-match": f"W/{tag}"})
    assert (response.status_code, response.content) == (304, b"")
    assert (await client.get("/", headers={"if-none-match": '"other"'})).status_code == 200


@pytest.mark.parametrize("path", ["/page/", "/page/__init__.py", "/page/index.html", "/page"])
async def test_nothing_else_of_its_folder_is_served(client: httpx.AsyncClient, path: str) -> None:
    check_problem(await client.get(path), 404, "not-found")


def test_every_file_of_the_folder_is_one_of_the_page() -> None:
    names = {path.name for path in FOLDER.iterdir() if path.suffix not in {".py", ""}}
    assert names == {name for name, _ in FILES.values()}


def test_the_page_names_nothing_outside_and_holds_no_inline_script_or_style() -> None:
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'(?:href|src)="([^"]+)"', html)
    assert {"page/style.css", "page/script.js", "page/icon.svg"} <= set(named)
    assert not [name for name in named if ":" in name or name.startswith("/")]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    for name, _ in FILES.values():
        text = (FOLDER / name).read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert not re.search(r"innerHTML|eval\(|https?://[a-z]", text), name


async def test_the_page_is_open_where_keys_are_needed_since_it_asks_for_one(
    opened: Open, keys: Path
) -> None:
    async with opened(api_keys_file=keys) as client:
        assert (await client.get("/")).status_code == 200
        check_problem(await client.get("/v1/models"), 401, "unauthorized")


async def test_the_page_can_need_a_key_which_a_browser_sends_as_a_password(
    opened: Open, keys: Path
) -> None:
    async with opened(api_keys_file=keys, page="key") as client:
        for path in FILES:
            response = await client.get(path)
            check_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Basic ")
            headers = {"authorization": basic(KEY)}
            assert (await client.get(path, headers=headers)).status_code == 200
        headers = {"authorization": basic(KEY)}  # a browser would send it for any other page, too
        check_problem(await client.get("/v1/models", headers=headers), 401, "unauthorized")


async def test_the_page_can_be_off(opened: Open) -> None:
    async with opened(page="off") as client:
        for path in FILES:
            check_problem(await client.get(path), 404, "not-found")
