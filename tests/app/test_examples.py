"""The examples of the OpenAPI document: each of its schema, and those of problems real."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi import FastAPI

from app.api_keys import key_line, new_key
from app.main import create_app
from app.release import Manifest
from app.settings import Settings
from tests import fakes
from tests.app.calls import BATCH, HEATMAPS, PREDICTIONS, Open
from tests.fakes import FakeEngine, gray_png

DOCUMENT = create_app(Settings()).openapi()
PROBLEM = "application/problem+json"


def answers() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Walk through all answers: method and path, status, media type, and what is told of it."""
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                for media_type, content in response.get("content", {}).items():
                    yield f"{method} {path}", status, media_type, content


def examples(path: str, status: int) -> list[Any]:
    """Give the values of the examples that a path has for a status."""
    (operation,) = DOCUMENT["paths"][path].values()
    responses = operation["responses"]
    content = responses.get(str(status), responses.get(f"{status // 100}XX"))["content"]
    return [each["value"] for each in content[PROBLEM]["examples"].values()]


@pytest.mark.parametrize(
    ("call", "status", "media_type", "content"),
    [each for each in answers() if each[3].get("schema", {}).get("format") != "binary"],
)
def test_every_answer_and_every_problem_has_examples_of_its_schema(
    call: str, status: str, media_type: str, content: dict[str, Any]
) -> None:
    assert content["examples"], f"{call} {status} {media_type}"
    schema = content["schema"] | {"components": DOCUMENT["components"]}
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for example in content["examples"].values():
        assert example["summary"]
        validator.validate(example["value"])
        if media_type == PROBLEM:
            assert str(example["value"]["status"])[0] == status[0]


def test_what_is_wrong_would_be_found() -> None:
    schema = {"$ref": "#/components/schemas/Problem", "components": DOCUMENT["components"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"title": "no type"}, schema)


def test_the_manifest_of_an_example_is_one() -> None:
    content = DOCUMENT["paths"]["/v1/models/{version}"]["get"]["responses"]["200"]["content"]
    example = content["application/json"]["examples"]["serving"]["value"]
    assert Manifest.model_validate(example["manifest"]).version == example["version"]


def test_a_document_that_is_asked_for_twice_is_the_same() -> None:
    app = create_app(Settings())
    assert app.openapi() == app.openapi() == DOCUMENT


# --- real problems

BAD_UPLOADS: list[tuple[int, dict[str, Any]]] = [
    (400, {"content": b"", "headers": {"content-type": "multipart/form-data; boundary=a"}}),
    (400, {"files": {"file": gray_png()}, "headers": {"x-request-timeout": "soon"}}),
    (413, {"content": b"", "headers": {"content-length": "99999999"}}),
    (415, {"files": {"file": b"%PDF-1.7"}}),
    (415, {"json": {}}),
    (415, {"files": {"file": gray_png()}, "headers": {"content-encoding": "gzip"}}),
    (422, {"files": {"file": gray_png()[:-40]}}),
    (422, {"files": {"file": gray_png(height=32, width=32)}}),
]


@pytest.fixture
async def client(opened: Open) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(max_upload_bytes=Settings().max_upload_bytes) as client:
        yield client


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "request_"), BAD_UPLOADS)
async def test_an_example_of_a_bad_upload_is_what_the_service_says(
    client: httpx.AsyncClient, status: int, request_: dict[str, Any]
) -> None:
    for path in (PREDICTIONS, HEATMAPS):
        response = await client.post(path, **request_)
        assert response.status_code == status
        assert response.json() in examples(path, status)


@pytest.mark.anyio
async def test_an_example_of_a_bad_batch_is_what_the_service_says(
    client: httpx.AsyncClient,
) -> None:
    many = await client.post(BATCH, files=[("files", gray_png())] * 17)
    cut = await client.post(
        BATCH, content=b"", headers={"content-type": "multipart/form-data; boundary=a"}
    )
    late = await client.post(BATCH, headers={"x-request-timeout": "0"})
    assert [late.json(), many.json(), cut.json()] == examples(BATCH, 400)
    unknown, packed = examples(BATCH, 415)
    assert (await client.post(BATCH, json={})).json() in (unknown, packed)
    packed_ = await client.post(BATCH, headers={"content-encoding": "gzip"})
    assert packed_.json() in (unknown, packed)


@pytest.mark.anyio
async def test_an_example_of_what_is_no_chest_xray_is_what_the_service_says(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.acceptance = 0.1
    response = await client.post(PREDICTIONS, files={"file": gray_png()})
    assert response.json() in examples(PREDICTIONS, 422)


@pytest.mark.anyio
async def test_an_example_of_a_failure_is_what_the_service_says(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.failing = True
    response = await client.post(PREDICTIONS, files={"file": gray_png()})
    assert [response.json()] == examples(PREDICTIONS, 500)


@pytest.mark.anyio
async def test_an_example_of_a_deadline_is_what_the_service_says(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.may_answer.clear()
    headers = {"x-request-timeout": "0.2"}
    response = await client.post(PREDICTIONS, files={"file": gray_png()}, headers=headers)
    engine.may_answer.set()
    assert [response.json()] == examples(PREDICTIONS, 504)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "template", "status"),
    [
        ("/v1/models/0", "/v1/models/{version}", 400),
        ("/v1/models/9", "/v1/models/{version}", 404),
        ("/v1/models/1/card", "/v1/models/{version}/card", 404),
    ],
)
async def test_an_example_of_a_model_that_is_not_there_is_what_the_service_says(
    client: httpx.AsyncClient, path: str, template: str, status: int
) -> None:
    response = await client.get(path)
    assert response.status_code == status
    assert response.json() in examples(template, status)


@pytest.mark.anyio
async def test_an_example_of_a_missing_key_is_what_the_service_says(
    opened: Open, tmp_path: Path
) -> None:
    (tmp_path / "api_keys").write_text(key_line(new_key()))
    async with opened(api_keys_file=tmp_path / "api_keys") as client:
        for path in (PREDICTIONS, BATCH, HEATMAPS):
            assert [(await client.post(path)).json()] == examples(path, 401)
        assert [(await client.get("/v1/models")).json()] == examples("/v1/models", 401)


@pytest.mark.anyio
async def test_examples_of_a_service_that_is_not_ready_or_full_are_what_it_says(
    app_of: Callable[..., FastAPI], tmp_path: Path
) -> None:
    fakes.write_fake_release(tmp_path)
    app = app_of(queue_limit=64)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        async with app.router.lifespan_context(app):
            with app.state.service.scheduler.admit(float("inf"), 65):
                response = await client.post(PREDICTIONS, files={"file": gray_png()})
            assert response.json() in examples(PREDICTIONS, 503)
            app.state.service.leave("a service that is stopping")
            response = await client.get("/health/ready")
            assert response.json() in examples("/health/ready", 503)
        for path in ("/v1/models", "/health/ready"):
            assert (await client.get(path)).json() in examples(path, 503)
