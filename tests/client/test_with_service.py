"""The clients and the service: the same form of answers, and calls that the service takes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

import covid_xray
from app.api_keys import key_line, new_key
from app.main import create_app
from app.settings import Settings
from covid_xray import AsyncClient, Prediction, Problem, ProblemReceived
from tests import fakes
from tests.fakes import FakeEngine, gray_png

KEY = new_key()

SAME: dict[type[BaseModel], str] = {
    covid_xray.Acceptance: "AcceptanceSchema",
    covid_xray.DicomInstance: "DicomSchema",
    covid_xray.Heatmap: "HeatmapSchema",
    covid_xray.ImageRead: "ImageSchema",
    covid_xray.Model: "ModelSchema",
    covid_xray.Prediction: "PredictionSchema",
    covid_xray.Problem: "Problem",
    covid_xray.ReadWarning: "WarningSchema",
    covid_xray.Version: "ReleaseSchema",
    covid_xray.Versions: "ReleasesSchema",
}
FORM = {"type", "format", "items", "anyOf", "additionalProperties"}
ITSELF = {value: key.__name__ for key, value in SAME.items()}


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    document = create_app(Settings()).openapi()
    schemas: dict[str, Any] = document["components"]["schemas"]
    return schemas


def form(schema: Any, components: dict[str, Any]) -> Any:  # JSON
    """Reduce a schema to what it lets through: types and names, without words for people."""
    if isinstance(schema, list):
        return [form(each, components) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        known = components.get(name, {})
        return {"type": known["type"]} if "enum" in known else ITSELF.get(name, name)
    return {key: form(value, components) for key, value in schema.items() if key in FORM}


@pytest.mark.parametrize("model", SAME, ids=lambda model: model.__name__)
def test_a_model_has_the_form_that_openapi_tells(
    model: type[BaseModel], components: dict[str, Any]
) -> None:
    theirs = components[SAME[model]]
    ours = model.model_json_schema(mode="serialization")
    assert set(ours["properties"]) == set(theirs["properties"])
    for name, schema in ours["properties"].items():
        assert form(schema, {}) == form(theirs["properties"][name], components), name


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    app = served(tmp_path)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://test", api_key=KEY, transport=transport) as client,
    ):
        yield client


def served(folder: Path) -> FastAPI:
    fakes.write_fake_release(folder)
    (folder / "api_keys").write_text(key_line(KEY))
    settings = Settings(model_store=folder, api_keys_file=folder / "api_keys", threads=1)
    return create_app(settings, fakes.loader(FakeEngine()))


@pytest.mark.anyio
async def test_every_method_is_answered_by_the_service(client: AsyncClient) -> None:
    prediction = await client.predict(gray_png(204))
    assert prediction.label == "COVID-19"
    assert prediction.probabilities["COVID-19"] == pytest.approx(0.8)
    first, second = await client.predict_batch([gray_png(0), b"text"])
    assert isinstance(first, Prediction)
    assert isinstance(second, Problem)
    assert (first.label, second.code) == ("Normal", "unsupported-image-type")
    png = await client.heatmap(gray_png(), opacity=0.5, legend=False)
    assert png.startswith(b"\x89PNG")
    assert [model.state for model in await client.models()] == ["serving"]


@pytest.mark.anyio
async def test_a_problem_of_the_service_is_raised(client: AsyncClient) -> None:
    with pytest.raises(ProblemReceived) as caught:
        await client.predict(b"text")
    assert caught.value.code == "unsupported-image-type"
    assert caught.value.received == "4 bytes of no known image type"
    assert caught.value.request_id
