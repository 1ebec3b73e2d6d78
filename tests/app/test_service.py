import asyncio
import io
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import (
    DeadlinePassed,
    InferenceFailed,
    NotAChestRadiograph,
    Overloaded,
    UnsupportedImageType,
)
from app.opening import open_service
from app.service import Finding, InferenceService, Prediction, Stage
from app.settings import Settings
from tests import fakes
from tests.fakes import FakeEngine, gray_png

pytestmark = pytest.mark.anyio

Open = Callable[..., AbstractAsyncContextManager[InferenceService]]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def opened(tmp_path: Path, engine: FakeEngine) -> Open:
    @asynccontextmanager
    async def opened(
        manifest: dict[str, Any] | None = None, **settings: object
    ) -> AsyncIterator[InferenceService]:
        fakes.write_fake_release(tmp_path, **(manifest or {}))
        chosen = Settings.model_validate({"model_store": tmp_path, "threads": 2, **settings})
        async with open_service(chosen, fakes.loader(engine)) as service:
            yield service

    return opened


async def test_a_prediction_tells_everything_about_itself(opened: Open) -> None:
    async with opened() as service:
        prediction = await service.predict(gray_png(204), math.inf)
        release = service.registry.serving.release
    assert prediction.label == "COVID-19"
    assert prediction.probabilities == pytest.approx({"COVID-19": 0.8, "Normal": 0.2})
    assert prediction.decision_threshold == 0.5
    assert prediction.prediction_set == {"90%": ("COVID-19",), "95%": ("COVID-19",)}
    assert (prediction.acceptance.score, prediction.acceptance.threshold) == (1, 0.5)
    assert prediction.warnings == ()
    assert (prediction.image.format, prediction.image.width, prediction.image.height) == (
        "PNG",
        100,
        80,
    )
    assert (prediction.model.name, prediction.model.version) == (fakes.NAME, 1)
    assert prediction.model.digest == release.digest
    assert list(prediction.timings_ms) == ["decode", "queue", "inference", "total"]


async def test_a_prediction_set_holds_what_cannot_be_ruled_out(opened: Open) -> None:
    async with opened() as service:
        unsure = await service.predict(gray_png(133), math.inf)
    assert unsure.probabilities["COVID-19"] == pytest.approx(0.52, abs=0.01)
    assert unsure.prediction_set == {"90%": (), "95%": ("COVID-19", "Normal")}


async def test_a_release_without_prediction_sets_gives_none(opened: Open) -> None:
    async with opened({"prediction_sets": []}) as service:
        assert (await service.predict(gray_png(), math.inf)).prediction_set == {}


class Told:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[Stage, float, float]] = []
        self.others: list[tuple[str, float]] = []

    def record_stage(self, stage: Stage, start: float, end: float) -> None:
        self.stages.append((stage, start, end))

    def record_acceptance(self, version: int, score: float, *, accepted: bool) -> None:
        self.others.append((f"acceptance by {version}, {accepted}", score))

    def record_probability(self, version: int, probability: float) -> None:
        self.others.append((f"probability by {version}", probability))

    def record_batch(self, files: int) -> None:
        self.others.append(("batch", files))


async def test_the_recorder_is_told_each_stage_in_its_order_and_what_came_out(
    tmp_path: Path, engine: FakeEngine
) -> None:
    fakes.write_fake_release(tmp_path)
    told = Told()
    settings = Settings(model_store=tmp_path, threads=1)
    async with open_service(settings, fakes.loader(engine), told) as service:
        await service.predict(gray_png(255), math.inf)
        await service.explain(gray_png(255), math.inf)
        await service.predict_batch([b"text"] * 3, math.inf)
    assert [stage for stage, _, _ in told.stages[:3]] == ["queue", "decode", "inference"]
    times = [time for _, *pair in told.stages[:3] for time in pair]
    assert times == sorted(times)
    # A picture is no prediction, though its X-ray reached the model.
    assert told.others == [
        ("acceptance by 1, True", 1),
        ("probability by 1", 1),
        ("acceptance by 1, True", 1),
        ("batch", 3),
    ]


async def test_two_predictions_have_two_ids(opened: Open) -> None:
    async with opened() as service:
        first, second = [await service.predict(gray_png(), math.inf) for _ in range(2)]
    assert first.id != second.id
    assert first.image.sha256 == second.image.sha256


@pytest.mark.parametrize(
    ("value", "threshold", "label"),
    [(255, 1.0, "COVID-19"), (254, 1.0, "Normal"), (0, 0.0, "COVID-19"), (51, 0.3, "Normal")],
)
async def test_the_threshold_is_inclusive(
    opened: Open, value: int, threshold: float, label: str
) -> None:
    decision = {"threshold": threshold, "rule": "fixed"}
    async with opened({"decision": decision}) as service:
        assert (await service.predict(gray_png(value), math.inf)).label == label


async def test_what_is_no_chest_xray_is_refused(opened: Open, engine: FakeEngine) -> None:
    async with opened() as service:
        engine.acceptance = 0.25
        with pytest.raises(NotAChestRadiograph, match=r"at least 0\.5; received .* 0\.25"):
            await service.predict(gray_png(), math.inf)
        with pytest.raises(NotAChestRadiograph):
            await service.explain(gray_png(), math.inf)


async def test_what_is_no_chest_xray_is_warned_of_where_so_chosen(
    opened: Open, engine: FakeEngine
) -> None:
    async with opened(acceptance="warn") as service:
        engine.acceptance = 0.25
        prediction = await service.predict(gray_png(), math.inf)
    assert [warning.code for warning in prediction.warnings] == ["not-a-chest-radiograph"]
    assert prediction.acceptance.score == 0.25


async def test_a_release_without_trained_acceptance_warns_and_refuses_nothing(
    opened: Open, engine: FakeEngine
) -> None:
    acceptance = {"trained": False, "threshold": 0.5, "rule": "none"}
    async with opened({"acceptance": acceptance}) as service:
        engine.acceptance = 0.25
        prediction = await service.predict(gray_png(), math.inf)
    assert [warning.code for warning in prediction.warnings] == ["acceptance-not-trained"]


async def test_what_the_decoder_had_to_decide_is_among_the_warnings(opened: Open) -> None:
    data = fakes.encode(np.full((80, 100), 4095, np.uint16))
    async with opened() as service:
        prediction = await service.predict(data, math.inf)
    assert [warning.code for warning in prediction.warnings] == ["bit-depth-inferred"]


async def test_a_batch_keeps_its_order_and_each_failure_to_its_image(opened: Open) -> None:
    async with opened() as service:
        answers = await service.predict_batch([gray_png(0), b"text", gray_png(255)], math.inf)
    first, second, third = answers
    assert isinstance(first, Prediction)
    assert isinstance(second, UnsupportedImageType)
    assert isinstance(third, Prediction)
    assert (first.label, third.label) == ("Normal", "COVID-19")


async def test_a_batch_that_finds_no_places_is_refused_as_a_whole(opened: Open) -> None:
    async with opened(queue_limit=2, max_batch=2) as service:
        with pytest.raises(Overloaded):
            await service.predict_batch([gray_png()] * 5, math.inf)


async def test_an_image_whose_deadline_passed_is_not_inferred(
    opened: Open, engine: FakeEngine
) -> None:
    async with opened() as service:
        calls = engine.calls
        with pytest.raises(DeadlinePassed):
            await service.predict(gray_png(), 0)
        assert engine.calls == calls


async def test_no_report_is_written_for_a_client_that_left_during_inference(
    opened: Open, engine: FakeEngine
) -> None:
    written: list[Finding] = []
    async with opened() as service:
        engine.started.clear()
        engine.may_answer.clear()
        task = asyncio.create_task(service.report(gray_png(), math.inf, written.append))
        await asyncio.to_thread(engine.started.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        engine.may_answer.set()
    assert not written


async def test_the_total_is_the_sum_of_its_stages(opened: Open, engine: FakeEngine) -> None:
    async with opened(threads=1) as service:
        engine.started.clear()
        engine.may_answer.clear()
        first = asyncio.create_task(service.predict(gray_png(), math.inf))
        await asyncio.to_thread(engine.started.wait, 30)
        waiting = asyncio.create_task(service.predict(gray_png(), math.inf))
        await asyncio.sleep(0.02)
        engine.may_answer.set()
        await first
        timings = (await waiting).timings_ms
    assert timings["queue"] >= 10
    total = timings.pop("total")
    assert total == pytest.approx(sum(timings.values()), abs=0.01)


async def test_what_is_just_accepted_is_answered(opened: Open, engine: FakeEngine) -> None:
    async with opened() as service:
        engine.acceptance = 0.5
        assert (await service.predict(gray_png(), math.inf)).warnings == ()


async def test_a_failing_engine_fails_its_request_only(opened: Open, engine: FakeEngine) -> None:
    async with opened() as service:
        engine.failing = True
        with pytest.raises(InferenceFailed):
            await service.predict(gray_png(), math.inf)
        engine.failing = False
        assert (await service.predict(gray_png(), math.inf)).label == "COVID-19"


async def test_leaving_closes_the_engine(opened: Open, engine: FakeEngine) -> None:
    async with opened():
        assert not engine.closed
    assert engine.closed


async def test_a_heatmap_is_a_png_of_the_xrays_own_aspect(opened: Open) -> None:
    async with opened() as service:
        png = await service.explain(gray_png(height=80, width=120), math.inf, legend=False)
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (120, 80))


async def test_a_heatmap_of_a_large_jpeg_is_as_large_as_of_another_file(opened: Open) -> None:
    buffer = io.BytesIO()
    Image.new("L", (1000, 1200), 90).save(buffer, "JPEG")
    async with opened() as service:
        prediction = await service.predict(buffer.getvalue(), math.inf)
        png = await service.explain(buffer.getvalue(), math.inf, legend=False)
        other = await service.explain(gray_png(height=1200, width=1000), math.inf, legend=False)
    assert (prediction.image.width, prediction.image.height) == (1000, 1200)
    sizes = [Image.open(io.BytesIO(each)).size for each in (png, other)]
    assert sizes == [(853, 1024)] * 2
