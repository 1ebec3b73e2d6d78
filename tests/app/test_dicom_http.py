"""DICOM over HTTP: in a form, as a bare body, in a batch."""

import asyncio
import io
import json
import logging
import random
from typing import Any

import httpx
import pytest
from PIL import Image
from pydicom import dcmread, uid

from app.logs import make_formatter
from tests.app.calls import BATCH, HEATMAPS, PREDICTIONS, Body, Open, check_problem
from tests.app.dicoms import INSTANCE, SERIES, STUDY, dicom, ramp
from tests.app.test_dicom_hostile import mutate, seeds
from tests.fakes import FakeEngine, gray_png

pytestmark = pytest.mark.anyio

DICOM = {"content-type": "application/dicom"}
SHOWN: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
UIDS = {
    "study_instance_uid": STUDY,
    "series_instance_uid": SERIES,
    "sop_instance_uid": INSTANCE,
    "sop_class_uid": uid.DigitalXRayImageStorageForPresentation,
}


async def test_a_form_and_a_bare_body_get_the_same_answer_with_the_uids(
    client: httpx.AsyncClient,
) -> None:
    file = dicom(**SHOWN)
    answers = [
        await client.post(PREDICTIONS, files={"file": file}),
        await client.post(PREDICTIONS, content=file, headers=DICOM),
        await client.post(PREDICTIONS, content=file, headers={"content-type": "Application/DICOM"}),
    ]
    for answer in answers:
        assert answer.status_code == 200
        image = answer.json()["image"]
        assert (image["format"], image["width"], image["height"]) == ("DICOM", 64, 64)
        assert image["dicom"] == UIDS
    assert len({json.dumps(answer.json()["probabilities"]) for answer in answers}) == 1
    assert 0.4 < answers[0].json()["probabilities"]["COVID-19"] < 0.6


async def test_a_png_has_no_uids(client: httpx.AsyncClient) -> None:
    answer = await client.post(PREDICTIONS, files={"file": gray_png()})
    assert "dicom" not in answer.json()["image"]


async def test_a_heatmap_is_drawn_over_a_bare_dicom(client: httpx.AsyncClient) -> None:
    query = {"legend": "false"}
    answer = await client.post(HEATMAPS, content=dicom(**SHOWN), headers=DICOM, params=query)
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as drawn:
        assert drawn.size == (64, 64)


async def test_a_batch_takes_dicom_beside_others_and_tells_the_one_that_is_refused(
    client: httpx.AsyncClient,
) -> None:
    files = [dicom(**SHOWN), dicom(Modality="CT"), gray_png()]
    answer = await client.post(BATCH, files=[("files", file) for file in files])
    read, refused, png = answer.json()
    assert read["image"]["dicom"] == UIDS
    assert (refused["status"], refused["code"]) == (422, "not-a-chest-radiograph")
    assert "Modality (0008,0060)" in refused["expected"]
    assert refused["received"] == "CT"
    assert png["image"]["format"] == "PNG"


async def test_a_batch_is_a_form_only(client: httpx.AsyncClient) -> None:
    answer = await client.post(BATCH, content=dicom(), headers=DICOM)
    check_problem(answer, 415, "unsupported-image-type")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "unreadable-image"),
        (b"no image", 415, "unsupported-image-type"),
        (dicom()[:-2], 422, "unreadable-image"),
        (dicom(NumberOfFrames=7), 422, "unsupported-image"),
    ],
)
async def test_a_bare_body_that_is_none_is_told(
    client: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    answer = await client.post(PREDICTIONS, content=content, headers=DICOM)
    check_problem(answer, status, code)


async def test_a_bare_body_that_is_too_large_is_refused_while_it_arrives(opened: Open) -> None:
    body = Body(bytes(1_000_000))
    async with opened(max_upload_bytes=200_000) as client:
        answer = await client.post(PREDICTIONS, content=body, headers=DICOM)
        check_problem(answer, 413, "payload-too-large")
        assert body.sent <= 300_000
        announced = await client.post(PREDICTIONS, content=bytes(1_000_000), headers=DICOM)
        check_problem(announced, 413, "payload-too-large")


async def test_a_bare_body_counts_as_memory_until_it_is_answered(
    opened: Open, engine: FakeEngine
) -> None:
    file = dicom(**SHOWN)
    async with opened(upload_memory_bytes=len(file), max_upload_bytes=len(file)) as client:
        engine.may_answer.clear()
        engine.started.clear()
        first = asyncio.create_task(client.post(PREDICTIONS, content=file, headers=DICOM))
        await asyncio.to_thread(engine.started.wait, 5)
        second = await client.post(PREDICTIONS, content=Body(file, 1000), headers=DICOM)
        check_problem(second, 503, "overloaded")
        engine.may_answer.set()
        assert (await first).status_code == 200
        third = await client.post(PREDICTIONS, content=Body(file, 1000), headers=DICOM)
        assert third.status_code == 200


async def test_a_bare_body_that_stalls_is_let_go(opened: Open) -> None:
    async with opened(upload_idle_timeout_s=0.05) as client:
        answer = await client.post(PREDICTIONS, content=_stalling(), headers=DICOM)
        check_problem(answer, 408, "upload-stalled")


async def _stalling() -> Any:
    yield dicom()[:1000]
    await asyncio.sleep(5)


async def test_openapi_tells_of_the_bare_body(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    for path, types in (
        (PREDICTIONS, {"multipart/form-data", "application/dicom"}),
        (HEATMAPS, {"multipart/form-data", "application/dicom"}),
        (BATCH, {"multipart/form-data"}),
    ):
        assert set(paths[path]["post"]["requestBody"]["content"]) == types


@pytest.mark.parametrize("elements", [{}, {"Modality": "CT"}, {"Rows": 65}, {"ViewPosition": "LL"}])
async def test_nothing_of_a_patient_is_in_an_answer_or_the_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, elements: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    file = dicom(ramp(12), **elements, StudyDescription="Marked", ImageComments="Marked")
    answer = await client.post(PREDICTIONS, content=file, headers=DICOM)
    formatter = make_formatter("json")
    logged = "".join(formatter.format(record) for record in caplog.records)
    assert "/v1/predictions" in logged
    assert "marked" not in (logged + answer.text + str(answer.headers)).lower()
    assert STUDY not in logged


async def test_mutated_files_get_no_server_error_and_leave_nothing_in_the_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    chance = random.Random(0)  # noqa: S311 -- no secret
    statuses = set()
    told = ""
    for seed in seeds() * 30:
        answer = await client.post(PREDICTIONS, content=mutate(seed, chance), headers=DICOM)
        statuses.add(answer.status_code)
        told += answer.text
    assert {200, 422} <= statuses <= {200, 415, 422}
    formatter = make_formatter("json")
    told += "".join(formatter.format(record) for record in caplog.records)
    assert "marked" not in told.lower()


async def test_an_engine_that_fails_on_a_dicom_tells_nothing_of_it(
    client: httpx.AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.crashing = True
    answer = await client.post(PREDICTIONS, content=dicom(**SHOWN), headers=DICOM)
    check_problem(answer, 500, "internal-error")
    formatter = make_formatter("json")
    logged = "".join(formatter.format(record) for record in caplog.records)
    assert "marked" not in (logged + answer.text).lower()


async def test_a_dicom_file_becomes_a_report_on_itself(client: httpx.AsyncClient) -> None:
    file = dicom(**SHOWN, PatientName="Marked^Patient", PatientID="M-1")
    headers = DICOM | {"accept": "application/dicom"}
    answer = await client.post(PREDICTIONS, content=file, headers=headers)
    assert answer.headers["content-type"] == "application/dicom"
    report = dcmread(io.BytesIO(answer.content))
    assert (report.Modality, report.VerificationFlag) == ("SR", "UNVERIFIED")
    assert (report.StudyInstanceUID, report.PatientID) == (STUDY, "M-1")
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert (series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID) == (SERIES, INSTANCE)
