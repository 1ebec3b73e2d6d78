"""The Open Inference Protocol over HTTP, on an engine that costs nothing."""

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray

from app.api_keys import key_line, new_key
from app.engines import Predictions
from tests import fakes
from tests.app.calls import PREDICTIONS, Body, Leaver, Open, asking, check_problem
from tests.app.dicoms import dicom
from tests.fakes import NAME, FakeEngine, gray_png

pytestmark = pytest.mark.anyio

MODEL = f"/v2/models/{NAME}"
INFER = f"{MODEL}/infer"
PIXELS = 224 * 224
GOLDEN = 3
"""Times that a release is asked when it is loaded."""


def files(*contents: bytes, **request: object) -> dict[str, Any]:
    data = [base64.b64encode(content).decode() for content in contents]
    tensor = {"name": "file", "shape": [len(data)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor]} | request


def images(*values: int, **request: object) -> tuple[bytes, dict[str, str]]:
    """Write even images in binary: the body, and its headers."""
    rows, size = len(values), len(values) * PIXELS
    tensor = {"name": "image", "shape": [rows, 224, 224, 1], "datatype": "UINT8"}
    text = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": size}}]} | request)
    body = text.encode() + b"".join(bytes([value]) * PIXELS for value in values)
    return body, {"inference-header-content-length": str(len(text))}


def check_error(response: httpx.Response, status: int, code: str) -> str:
    problem = check_problem(response, status, code)
    assert problem["error"] == problem["detail"]
    return str(problem["error"])


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


@pytest.fixture
async def two(opened: Open, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that serves version 1 while version 2 is in the store."""
    for version in (1, 2):
        fakes.write_fake_release(tmp_path, version)
    async with opened(model_version=1) as client:
        yield client


async def test_a_file_gets_the_probabilities_that_v1_gives(client: httpx.AsyncClient) -> None:
    for content in (gray_png(70), dicom()):
        prediction = (await client.post(PREDICTIONS, files={"file": content})).json()
        found = outputs(await client.post(INFER, json=files(content)))
        assert found["probabilities"] == list(prediction["probabilities"].values())
        assert found["acceptance"] == [prediction["acceptance"]["score"]]


async def test_rows_are_answered_in_their_order(client: httpx.AsyncClient) -> None:
    body, headers = images(0, 255, 51, id="mine")
    response = await client.post(INFER, content=body, headers=headers)
    assert outputs(response)["probabilities"] == pytest.approx([0, 1, 1, 0, 0.2, 0.8])
    answer = response.json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", NAME, "1")
    thresholds = {"decision_threshold": 0.5, "acceptance_threshold": 0.5}
    assert answer["parameters"] == thresholds


async def test_what_is_no_chest_xray_is_answered_with_its_score(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.acceptance = 0.25
    assert outputs(await client.post(INFER, json=files(gray_png())))["acceptance"] == [0.25]


async def test_a_file_that_cannot_be_read_is_named_by_its_row(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, json=files(gray_png(), gray_png()[:-40]))
    assert check_error(response, 422, "unreadable-image").endswith("(row 1).")
    error = check_error(
        await client.post(INFER, json=files(b"%PDF-1.7")), 415, "unsupported-image-type"
    )
    assert error == "Expected a PNG, JPEG or DICOM file; received a PDF."


async def test_only_the_version_that_serves_is_ready_and_infers(two: httpx.AsyncClient) -> None:
    for base, status in ((MODEL, 200), (f"{MODEL}/versions/1", 200), (f"{MODEL}/versions/2", 503)):
        assert (await two.get(f"{base}/ready")).status_code == status
        assert (await two.post(f"{base}/infer", json=files(gray_png()))).status_code == status
        metadata = (await two.get(base)).json()
        assert metadata["versions"] == ["1"]
    check_error(await two.get(f"{MODEL}/versions/2/ready"), 503, "not-ready")


@pytest.mark.parametrize("model", ["x", f"{NAME}/versions/9", f"{NAME}/versions/01", f"{NAME}/a"])
async def test_what_is_unknown_is_not_found(client: httpx.AsyncClient, model: str) -> None:
    for call in (f"/v2/models/{model}", f"/v2/models/{model}/ready"):
        assert (await client.get(call)).status_code == 404
        assert "error" in (await client.get(call)).json()
    response = await client.post(f"/v2/models/{model}/infer", json=files(gray_png()))
    assert response.status_code == 404


@pytest.mark.parametrize("version", ["2", "99", "latest"])
async def test_a_version_in_the_query_changes_nothing(
    client: httpx.AsyncClient, version: str
) -> None:
    params = {"version": version}
    assert (await client.get(MODEL, params=params)).status_code == 200
    assert (await client.get(f"{MODEL}/ready", params=params)).status_code == 200
    response = await client.post(f"{MODEL}/infer", params=params, json=files(gray_png()))
    assert (response.status_code, response.json()["model_version"]) == (200, "1")


async def test_openapi_knows_a_version_in_paths_alone(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    for path in [each for each in paths if each.startswith("/v2/models/")]:
        for operation in paths[path].values():
            found = {(each["in"], each["name"]) for each in operation["parameters"]}
            assert ("path", "name") in found
            assert (("path", "version") in found) == ("{version}" in path)
            assert not [each for each in found if each[0] == "query"]


async def test_a_service_that_is_leaving_is_not_ready_but_answers(
    app_of: Callable[..., FastAPI],
) -> None:
    app = app_of()
    async with asking(app) as client:
        app.state.service.leave("a service that is stopping")
        for path in ("/v2/health/ready", f"{MODEL}/ready"):
            check_error(await client.get(path), 503, "not-ready")
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert outputs(await client.post(INFER, json=files(gray_png())))


@pytest.mark.parametrize(
    ("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_a_compressed_body_is_expanded_as_far_as_one_may_be(
    client: httpx.AsyncClient, name: str, compress: Callable[[bytes], bytes]
) -> None:
    headers = {"content-encoding": name}
    body, lengths = images(51)
    whole = compress(body)
    answered = await client.post(INFER, content=whole, headers=headers | lengths)
    assert outputs(answered)["probabilities"] == pytest.approx([0.2, 0.8])
    for broken in (whole[:-3], whole + b"more", b"none"):
        refused = await client.post(INFER, content=broken, headers=headers | lengths)
        check_error(refused, 400, "malformed-request")
    bomb = compress(bytes(2_000_001))
    refused = await client.post(INFER, content=bomb, headers=headers)
    check_error(refused, 413, "payload-too-large")


async def test_what_follows_a_compressed_body_is_not_read(client: httpx.AsyncClient) -> None:
    body = Body(gzip.compress(b"{}") + bytes(1_000_000), 1000)
    headers = {"content-encoding": "gzip"}
    response = await client.post(INFER, content=aiter(body), headers=headers)
    assert "more behind it" in check_error(response, 400, "malformed-request")
    assert body.sent <= 2000


@pytest.mark.parametrize("coding", ["br", "gzip, gzip"])
async def test_another_compression_is_refused(client: httpx.AsyncClient, coding: str) -> None:
    response = await client.post(INFER, content=b"{}", headers={"content-encoding": coding})
    check_error(response, 415, "unsupported-encoding")
    assert response.headers["accept-encoding"] == "gzip, deflate"


async def test_json_of_more_values_than_there_is_memory_for_is_not_parsed(opened: Open) -> None:
    body = b'{"inputs": [], "more": [' + b"[]," * 30_000 + b"0]}"
    async with opened(upload_memory_bytes=2_000_000) as client:
        check_error(await client.post(INFER, content=body), 413, "payload-too-large")


async def test_memory_and_places_are_free_after_all_that_can_happen(
    app_of: Callable[..., FastAPI], engine: FakeEngine
) -> None:
    app = app_of()
    async with asking(app, raises=False) as client:
        for content in (b"", json.dumps(files(gray_png())), json.dumps(files(b"", b"", b""))):
            await client.post(INFER, content=content)
        engine.crashing = True
        check_error(await client.post(INFER, json=files(gray_png())), 500, "internal-error")
        assert app.state.uploads.memory.held == app.state.service.scheduler.held == 0


async def test_all_rows_have_a_place_or_none_has(
    app_of: Callable[..., FastAPI], engine: FakeEngine
) -> None:
    app = app_of(queue_limit=2, max_batch=2)
    async with asking(app) as client:
        with app.state.service.scheduler.admit(float("inf"), 2):
            response = await client.post(INFER, json=files(gray_png(), gray_png()))
        check_error(response, 503, "overloaded")
        assert response.headers["retry-after"]
        calls = engine.calls
        response = await client.post(INFER, json=files(gray_png(), gray_png(), gray_png()))
        check_error(response, 400, "malformed-request")
        assert engine.calls == calls


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [({"x-request-timeout": "0.1"}, {}), ({}, {"timeout": 100_000})],
)
async def test_a_deadline_is_kept_however_it_is_given(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    headers: dict[str, str],
    parameters: dict[str, int],
) -> None:
    engine.may_answer.clear()
    body = files(gray_png(), gray_png(), parameters=parameters)
    response = await client.post(INFER, json=body, headers=headers)
    engine.may_answer.set()
    check_error(response, 504, "deadline-passed")


async def test_rows_whose_client_left_cost_no_inference(
    app_of: Callable[..., FastAPI], engine: FakeEngine
) -> None:
    app = app_of()
    body, headers = images(0, 255, 51)
    leaver = Leaver(INFER, body, headers)
    async with app.router.lifespan_context(app):
        service = app.state.service
        engine.started.clear()
        engine.may_answer.clear()
        running = asyncio.create_task(service.predict(gray_png(), float("inf")))
        await asyncio.to_thread(engine.started.wait, 10)
        calls = engine.calls
        await app(leaver.scope, leaver.receive, leaver.send)
        assert service.scheduler.held == 1
        engine.may_answer.set()
        await running
    assert engine.calls == calls


async def test_rows_of_one_request_are_never_of_two_releases(
    app_of: Callable[..., FastAPI],
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = app_of(follow_s=0)
    async with asking(app) as client:
        fakes.write_fake_release(tmp_path, 2)
        changes = [app.state.service.registry.refresh]

        def change_and_answer(images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
            if changes:
                changes.pop()()
            return FakeEngine.predict(engine, images, alone=alone)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "predict", change_and_answer)
            before = engine.calls
            response = await client.post(INFER, json=files(gray_png(), gray_png()))
        assert response.json()["model_version"] == "2"
        assert outputs(response)["acceptance"] == [1, 1]
        assert engine.calls - before == GOLDEN + 2 + 2


async def test_a_key_is_needed_for_all_but_health(opened: Open, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "api_keys").write_text(key_line(key))
    async with opened(api_keys_file=tmp_path / "api_keys") as client:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await client.get(path)).status_code == 200
        for path in ("/v2", MODEL, f"{MODEL}/ready"):
            check_error(await client.get(path), 401, "unauthorized")
        check_error(await client.post(INFER), 401, "unauthorized")
        headers = {"authorization": f"Bearer {key}"}
        assert (await client.get(MODEL, headers=headers)).status_code == 200


async def test_inference_is_counted_by_its_route(client: httpx.AsyncClient) -> None:
    await client.post(INFER, json=files(gray_png()))
    metrics = (await client.get("/metrics")).text
    route = 'route="/v2/models/{name}/infer",status="200"'
    assert f'covid_xray_http_requests_total{{method="POST",{route}}} 1.0' in metrics
    assert 'covid_xray_predicted_probability_count{version="1"} 1.0' in metrics
    for stage in ("queue", "decode", "inference", "encode"):
        assert f'covid_xray_stage_duration_seconds_count{{stage="{stage}"}} 1.0' in metrics
