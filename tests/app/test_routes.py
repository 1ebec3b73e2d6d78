import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import jsonschema
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from tests import fakes
from tests.app.calls import (
    BATCH,
    HEATMAPS,
    PREDICTIONS,
    Leaver,
    Open,
    check_problem,
    multipart,
)
from tests.fakes import FakeEngine, gray_png

pytestmark = pytest.mark.anyio


# --- answers


async def test_an_xray_is_answered_with_a_prediction(client: httpx.AsyncClient) -> None:
    response = await client.post(PREDICTIONS, files={"file": gray_png(204)})
    assert response.status_code == 200
    body = response.json()
    assert UUID(body["id"])
    assert body["label"] == "COVID-19"
    assert body["probabilities"] == pytest.approx({"COVID-19": 0.8, "Normal": 0.2})
    assert body["decision_threshold"] == 0.5
    assert body["acceptance"] == {"score": 1.0, "threshold": 0.5}
    assert body["warnings"] == []
    assert set(body["image"]) == {"format", "width", "height", "sha256"}
    assert set(body["model"]) == {"name", "version", "digest"}
    assert set(body["timings_ms"]) == {"decode", "queue", "inference", "total"}


async def test_a_batch_is_answered_in_its_order_with_predictions_and_problems(
    client: httpx.AsyncClient,
) -> None:
    contents = [gray_png(0), b"text", gray_png(255)]
    response = await client.post(BATCH, files=[("files", content) for content in contents])
    assert response.status_code == 200
    first, second, third = response.json()
    assert (first["label"], third["label"]) == ("Normal", "COVID-19")
    assert (second["status"], second["code"]) == (415, "unsupported-image-type")


async def test_a_heatmap_is_a_png(client: httpx.AsyncClient) -> None:
    response = await client.post(HEATMAPS, files={"file": gray_png(height=80, width=120)})
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as image:
        width, height = image.size
    assert width >= 120
    assert height > 80


async def test_a_heatmap_without_its_legend_has_the_xrays_own_size(
    client: httpx.AsyncClient,
) -> None:
    files = {"file": gray_png(height=80, width=120)}
    response = await client.post(HEATMAPS, params={"legend": "false"}, files=files)
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.size == (120, 80)


async def test_a_heatmap_of_no_opacity_is_the_xray_alone(client: httpx.AsyncClient) -> None:
    gradient = np.tile(np.linspace(0, 255, 120).astype(np.uint8), (80, 1))
    response = await client.post(
        HEATMAPS, files={"file": fakes.encode(gradient)}, params={"opacity": 0, "legend": "false"}
    )
    with Image.open(io.BytesIO(response.content)) as image:
        assert np.array_equal(np.asarray(image), np.stack([gradient] * 3, axis=-1))


async def test_the_full_overlay_laid_over_the_xray_is_the_overlay_of_less_opacity(
    client: httpx.AsyncClient,
) -> None:
    gradient = fakes.encode(np.tile(np.linspace(0, 255, 120).astype(np.uint8), (80, 1)))

    async def draw(opacity: float) -> NDArray[np.float32]:
        params = {"opacity": str(opacity), "legend": "false"}
        response = await client.post(HEATMAPS, files={"file": gradient}, params=params)
        with Image.open(io.BytesIO(response.content)) as image:
            return np.asarray(image, np.float32)

    plain, full = await draw(0), await draw(1)
    assert np.abs(plain * 0.7 + full * 0.3 - await draw(0.3)).max() <= 1
    assert np.abs(plain - full).max() > 50


@pytest.mark.parametrize("opacity", ["-0.1", "1.1", "nan", "half", ""])
async def test_an_opacity_that_is_none_is_malformed(
    client: httpx.AsyncClient, opacity: str
) -> None:
    response = await client.post(HEATMAPS, files={"file": gray_png()}, params={"opacity": opacity})
    problem = check_problem(response, 400, "malformed-request")
    assert problem["expected"] == "an opacity from 0 to 1"


async def test_a_models_card_is_shown(opened: Open, tmp_path: Path) -> None:
    folder = fakes.write_fake_release(tmp_path)
    (folder / "MODEL_CARD.md").write_text("# Card\n\n94 ± 2%\n", encoding="utf-8")
    fakes.write_manifest(folder)
    async with opened() as client:
        response = await client.get("/v1/models/1/card")
    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
    assert response.text == "# Card\n\n94 ± 2%\n"


async def test_a_card_that_is_not_there_is_a_404(client: httpx.AsyncClient, tmp_path: Path) -> None:
    problem = check_problem(await client.get("/v1/models/1/card"), 404, "card-not-found")
    assert str(tmp_path) not in str(problem)
    check_problem(await client.get("/v1/models/9/card"), 404, "release-not-found")


async def test_a_refused_versions_card_is_a_404(opened: Open, tmp_path: Path) -> None:
    fakes.write_fake_release(tmp_path, 2)
    (fakes.write_fake_release(tmp_path, 1) / "saved_model.pb").write_bytes(b"changed")
    async with opened() as client:
        check_problem(await client.get("/v1/models/1/card"), 404, "release-not-found")


async def test_models_are_listed_and_shown_with_their_manifest(client: httpx.AsyncClient) -> None:
    (listed,) = (await client.get("/v1/models")).json()["models"]
    assert (listed["version"], listed["state"], listed["engine"]) == (1, "serving", "openvino")
    shown = (await client.get("/v1/models/1")).json()
    assert shown["manifest"]["metrics"][0]["metrics"]["auc"]["value"] == 0.5
    assert shown["digest"] == listed["digest"]


async def test_health_is_told(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).json() == {"status": "alive"}
    ready = {"status": "ready", "name": fakes.NAME, "version": 1}
    assert (await client.get("/health/ready")).json() == ready


async def test_a_service_that_has_closed_its_release_is_not_ready(
    app_of: Callable[..., FastAPI],
) -> None:
    app = app_of()
    async with app.router.lifespan_context(app):
        pass
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for response in (
            await client.get("/health/ready"),
            await client.post(PREDICTIONS, files={"file": gray_png()}),
        ):
            check_problem(response, 503, "not-ready")
            assert response.headers["retry-after"] == "1"


# --- malformed requests


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"files": {"image": gray_png()}}, id="wrong field name"),
        pytest.param({"files": [("file", gray_png())] * 2}, id="two files"),
        pytest.param({"files": {"file": gray_png()}, "data": {"note": "x"}}, id="another field"),
        pytest.param({"files": {"file": (None, "text")}}, id="text instead of a file"),
        pytest.param({"files": {"file": (None, "text" * 1000)}}, id="long text"),
        pytest.param(
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, id="no boundary"
        ),
        pytest.param(
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}},
            id="no form",
        ),
        pytest.param(
            {
                "content": b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--\r\n",
                "headers": {"content-type": "multipart/form-data; boundary=a"},
            },
            id="a part without name",
        ),
        pytest.param(
            {
                "content": b'--a\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n',
                "headers": {"content-type": "multipart/form-data; boundary=a"},
            },
            id="a form that ends early",
        ),
    ],
)
@pytest.mark.parametrize("path", [PREDICTIONS, HEATMAPS])
async def test_a_malformed_request_is_told_what_was_expected(
    client: httpx.AsyncClient, path: str, arguments: dict[str, Any]
) -> None:
    problem = check_problem(await client.post(path, **arguments), 400, "malformed-request")
    assert "file" in problem["expected"]


async def test_a_batch_of_too_many_files_is_malformed(opened: Open) -> None:
    async with opened(max_batch=2) as client:
        response = await client.post(BATCH, files=[("files", gray_png())] * 3)
    problem = check_problem(response, 400, "malformed-request")
    assert problem["expected"] == "a well-formed form with at most 2 files in the field files"
    assert problem["received"] == "more parts"


async def test_an_empty_batch_is_malformed(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=a"}
    response = await client.post(BATCH, content=b"--a--\r\n", headers=headers)
    check_problem(response, 400, "malformed-request")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "unreadable-image"),
        (b"text", 415, "unsupported-image-type"),
        (gray_png()[:-40], 422, "unreadable-image"),
        (gray_png(height=10, width=10), 422, "unsupported-image"),
    ],
    ids=["empty", "text", "truncated", "tiny"],
)
async def test_a_file_that_cannot_be_read_is_told_why(
    client: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    check_problem(await client.post(PREDICTIONS, files={"file": content}), status, code)


async def test_what_is_no_chest_xray_is_refused(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.acceptance = 0.1
    response = await client.post(PREDICTIONS, files={"file": gray_png()})
    check_problem(response, 422, "not-a-chest-radiograph")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/v1/models/", 404, "not-found"),  # and no redirection, which might be to http
        ("POST", f"{PREDICTIONS}/", 404, "not-found"),
        ("GET", "/docs/", 404, "not-found"),
        ("PUT", PREDICTIONS, 405, "method-not-allowed"),
        ("GET", PREDICTIONS, 405, "method-not-allowed"),
        ("GET", "/v1/models/2", 404, "release-not-found"),
        ("GET", "/v1/models/0", 400, "malformed-request"),
        ("GET", "/v1/models/latest", 400, "malformed-request"),
    ],
)
async def test_every_other_error_is_a_problem_too(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    check_problem(await client.request(method, path), status, code)


async def test_a_method_that_is_not_allowed_is_told_which_is(client: httpx.AsyncClient) -> None:
    assert (await client.put(PREDICTIONS)).headers["allow"] == "POST"


# --- load and failure


async def started(engine: FakeEngine) -> None:
    assert await asyncio.to_thread(engine.started.wait, 30)


async def test_a_full_queue_answers_503_with_retry_after(opened: Open, engine: FakeEngine) -> None:
    async with opened(queue_limit=1, max_batch=1) as client:
        engine.may_answer.clear()
        requests = [
            asyncio.create_task(client.post(PREDICTIONS, files={"file": gray_png()}))
            for _ in range(3)
        ]
        done, waiting = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        (response,) = [each.result() for each in done]
        problem = check_problem(response, 503, "overloaded")
        assert problem["received"] == "0"
        assert int(response.headers["retry-after"]) >= 1
        engine.may_answer.set()
        assert [(await each).status_code for each in waiting] == [200, 200]


async def test_an_answer_that_is_not_ready_in_time_is_a_504(
    opened: Open, engine: FakeEngine
) -> None:
    async with opened(request_timeout_s=0.2) as client:
        engine.may_answer.clear()
        response = await client.post(PREDICTIONS, files={"file": gray_png()})
        check_problem(response, 504, "deadline-passed")
        engine.may_answer.set()


async def test_a_client_that_leaves_while_it_waits_is_not_inferred(
    app_of: Callable[..., FastAPI], engine: FakeEngine
) -> None:
    app = app_of()
    content, headers = multipart(gray_png())
    leaver = Leaver(PREDICTIONS, content, headers)
    async with app.router.lifespan_context(app):
        engine.started.clear()
        engine.may_answer.clear()
        service = app.state.service
        running = asyncio.create_task(service.predict(gray_png(), float("inf")))
        await started(engine)
        calls = engine.calls
        await app(leaver.scope, leaver.receive, leaver.send)
        engine.may_answer.set()
        await running
    assert engine.calls == calls


@pytest.mark.parametrize("fault", ["failing", "crashing"])
async def test_a_failure_of_the_service_tells_nothing_of_its_internals(
    client: httpx.AsyncClient, engine: FakeEngine, fault: str
) -> None:
    setattr(engine, fault, True)
    response = await client.post(PREDICTIONS, files={"file": gray_png()})
    problem = check_problem(response, 500, "internal-error")
    assert "secret" not in response.text
    assert set(problem) == {"type", "title", "status", "detail", "code"}


async def test_a_failure_of_the_engine_is_logged(
    client: httpx.AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failing = True
    await client.post(PREDICTIONS, files={"file": gray_png()})
    assert "InferenceFailed" in caplog.text
    caplog.clear()
    (item,) = (await client.post(BATCH, files={"files": gray_png()})).json()
    assert item["code"] == "internal-error"
    assert "InferenceFailed" in caplog.text


async def test_neither_names_nor_contents_of_uploads_are_logged(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for content in (gray_png(), b"patient-name", gray_png()[:-40]):
        headers = {"x-secret": "patient-name"}
        file = ("patient-name.png", content)
        await client.post(PREDICTIONS, files={"file": file}, headers=headers)
    assert "patient-name" not in caplog.text


# --- documentation


async def test_the_documentation_page_asks_nothing_of_the_internet(
    client: httpx.AsyncClient,
) -> None:
    page = (await client.get("/docs")).text
    assert "http://" not in page
    assert "https://" not in page
    assert '"validatorUrl": null' in page
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon.png"):
        assert f"/static-offline-docs/{asset}" in page
        assert (await client.get(f"/static-offline-docs/{asset}")).status_code == 200


async def test_swagger_ui_is_told_to_show_a_file_chooser(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    binary = {"type": "string", "format": "binary"}
    for path, field in ((PREDICTIONS, "file"), (HEATMAPS, "file"), (BATCH, "files")):
        body = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
        schema = body["schema"]["properties"][field]
        assert binary.items() <= schema.get("items", schema).items()


async def test_the_description_says_that_it_is_no_medical_device(client: httpx.AsyncClient) -> None:
    description = (await client.get("/openapi.json")).json()["info"]["description"]
    assert "no medical device" in description
    assert "pneumonia that is not COVID-19" in description


async def test_answers_and_problems_are_what_openapi_says(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    def check(body: object, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(body, schema)

    check((await client.post(PREDICTIONS, files={"file": gray_png()})).json(), "PredictionSchema")
    check((await client.post(PREDICTIONS)).json(), "Problem")
    check((await client.get("/v1/models")).json(), "ReleasesSchema")
    check((await client.get("/v1/models/1")).json(), "ReleaseDetailSchema")
    assert "HTTPValidationError" not in json.dumps(document)
