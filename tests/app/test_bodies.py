import gzip
from typing import Any

import httpx
import pytest

from tests.app.calls import BATCH, HEATMAPS, PREDICTIONS, Body, check_problem, multipart
from tests.fakes import gray_png

pytestmark = pytest.mark.anyio

UPLOADS = [PREDICTIONS, BATCH, HEATMAPS]

# --- types and codings


@pytest.mark.parametrize("path", UPLOADS)
@pytest.mark.parametrize("content_type", ["image/png", "application/json", ""])
async def test_a_body_of_a_type_that_is_not_read_is_told_which_is(
    client: httpx.AsyncClient, path: str, content_type: str
) -> None:
    headers = {"content-type": content_type}
    response = await client.post(path, content=gray_png(), headers=headers)
    problem = check_problem(response, 415, "unsupported-image-type")
    assert "multipart/form-data with the field file" in problem["expected"]
    assert "accept-encoding" not in response.headers


@pytest.mark.parametrize("path", [*UPLOADS, "/dicomweb/studies"])
@pytest.mark.parametrize("coding", ["gzip", "BR", "identity, gzip"])
async def test_a_compressed_body_is_refused_before_it_is_read(
    client: httpx.AsyncClient, path: str, coding: str
) -> None:
    content, headers = multipart(gray_png())
    body = Body(gzip.compress(content))
    headers["content-encoding"] = coding
    response = await client.post(path, content=aiter(body), headers=headers)
    check_problem(response, 415, "unsupported-encoding")
    assert response.headers["accept-encoding"] == "identity"
    assert body.sent == 0


async def test_a_second_header_does_not_hide_a_coding(client: httpx.AsyncClient) -> None:
    content, headers = multipart(gray_png())
    twice = [*headers.items(), ("content-encoding", "identity"), ("content-encoding", "gzip")]
    response = await client.post(PREDICTIONS, content=content, headers=twice)
    check_problem(response, 415, "unsupported-encoding")


@pytest.mark.parametrize("coding", ["identity", "Identity ", ""])
async def test_a_coding_that_changes_nothing_is_none(
    client: httpx.AsyncClient, coding: str
) -> None:
    headers = {"content-encoding": coding}
    response = await client.post(PREDICTIONS, files={"file": gray_png()}, headers=headers)
    assert response.status_code == 200


# --- forms that are cut off


@pytest.mark.parametrize("cut", [3, 10, 1000])
@pytest.mark.parametrize(("path", "field"), [(PREDICTIONS, "file"), (BATCH, "files")])
async def test_a_form_without_its_closing_boundary_is_malformed(
    client: httpx.AsyncClient, path: str, field: str, cut: int
) -> None:
    files = [(field, gray_png()), (field, bytes(2000))][: 2 if path == BATCH else 1]
    request = client.build_request("POST", path, files=files)
    content = request.read()[:-cut]
    response = await client.post(path, content=content, headers=request.headers)
    problem = check_problem(response, 400, "malformed-request")
    assert problem["expected"] == f"a form with the field {field} and a closing boundary"
    assert problem["received"] == "a truncated one"


async def test_a_form_may_end_with_its_closing_boundary_and_no_end_of_line(
    client: httpx.AsyncClient,
) -> None:
    content, headers = multipart(gray_png())
    response = await client.post(PREDICTIONS, content=content[:-2], headers=headers)
    assert response.status_code == 200


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


async def test_a_content_type_is_not_parsed_where_that_would_take_long(
    client: httpx.AsyncClient,
) -> None:
    content = PART + b"--a--\r\n"
    for path in (*UPLOADS, "/dicomweb/studies"):
        body = Body(content)
        headers = {"content-type": "multipart/form-data; boundary=a" + ";" * 2000}
        response = await client.post(path, content=aiter(body), headers=headers)
        problem = check_problem(response, 400, "malformed-request")
        assert problem["expected"] == "a Content-Type of at most 2000 characters"
        assert body.sent == 0


async def test_nor_is_the_content_disposition_of_a_part(client: httpx.AsyncClient) -> None:
    content = PART.replace(b'"f"', b'"f"' + b";" * 2000) + b"--a--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=a"}
    response = await client.post(PREDICTIONS, content=content, headers=headers)
    problem = check_problem(response, 400, "malformed-request")
    assert problem["expected"] == "a Content-Disposition of at most 2000 characters"
