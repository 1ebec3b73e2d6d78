"""STOW-RS over HTTP: what is answered, what goes on, and what hostile bodies get."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydicom import Dataset, dcmread, uid

from app.api_keys import key_line, new_key
from app.dicomweb.outbox import Outbox, OutboxLimits
from app.examples import STORED
from app.logs import make_formatter
from tests.app.calls import Body, Leaver, Open, check_problem, related
from tests.app.dicoms import INSTANCE, STUDY, compressed, dicom, ramp
from tests.app.test_dicom_http import SHOWN
from tests.app.test_examples import examples
from tests.fakes import FakeDestination, FakeEngine, gray_png

pytestmark = pytest.mark.anyio

STUDIES = "/dicomweb/studies"
XRAY = dicom(**SHOWN)
LATERAL = dicom(**SHOWN, ViewPosition="LL", SOPInstanceUID="2.25.1")
OF_ANOTHER_STUDY = dicom(**SHOWN, StudyInstanceUID="2.25.7", SOPInstanceUID="2.25.2")
NO_UIDS = XRAY.replace(INSTANCE.encode(), b"Marked^")
LIMITS = OutboxLimits(items=3, bytes=10**6, age_s=100, close_s=5)

Sending = Callable[..., Any]


@pytest.fixture
def sending(app_of: Callable[..., FastAPI]) -> Sending:
    """Open an application whose results go to a server that is a fake, by an outbox that waits."""

    @asynccontextmanager
    async def sending(
        limits: OutboxLimits = LIMITS, **settings: object
    ) -> AsyncIterator[tuple[httpx.AsyncClient, Outbox, FakeDestination]]:
        app = app_of(**settings)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        server = FakeDestination()
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            app.state.outbox = Outbox(server, limits)
            yield client, app.state.outbox, server

    return sending


def module(answer: httpx.Response, status: int) -> Dataset:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    return Dataset.from_json(answer.text)


async def stow(client: httpx.AsyncClient, *parts: bytes, path: str = STUDIES) -> httpx.Response:
    body, headers = related(*parts)
    return await client.post(path, content=body, headers=headers)


async def test_an_instance_is_analysed_and_named(client: httpx.AsyncClient) -> None:
    answer = module(await stow(client, XRAY), 200)
    (item,) = answer.ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == INSTANCE
    assert "FailedSOPSequence" not in answer


async def test_a_bare_instance_gets_the_same_answer(client: httpx.AsyncClient) -> None:
    bare = await client.post(STUDIES, content=XRAY, headers={"content-type": "application/dicom"})
    assert bare.json() == (await stow(client, XRAY)).json()


async def test_what_is_no_frontal_chest_xray_fails_alone(client: httpx.AsyncClient) -> None:
    answer = module(await stow(client, LATERAL, XRAY, NO_UIDS, gray_png()), 202)
    assert [each.ReferencedSOPInstanceUID for each in answer.ReferencedSOPSequence] == [INSTANCE]
    (failed,) = answer.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("2.25.1", 0xA900)
    assert [each.FailureReason for each in answer.OtherFailuresSequence] == [0xC000, 0xC000]
    counted = (await client.get("/metrics")).text
    assert 'covid_xray_refusals_total{code="not-a-chest-radiograph"} 1.0' in counted
    assert "FailedSOPSequence" in module(await stow(client, LATERAL), 409)


async def test_a_film_in_a_syntax_that_is_not_read_fails_for_that(
    client: httpx.AsyncClient,
) -> None:
    film = compressed(ramp(8), uid.MPEG2MPML, b"film")
    (failed,) = module(await stow(client, film), 409).FailedSOPSequence
    assert failed.FailureReason == 0xC122


async def test_an_instance_of_another_study_than_the_paths_fails(
    client: httpx.AsyncClient,
) -> None:
    answer = await stow(client, XRAY, OF_ANOTHER_STUDY, path=f"{STUDIES}/{STUDY}")
    (failed,) = module(answer, 202).FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("2.25.2", 0xA901)
    check_problem(await stow(client, XRAY, path=f"{STUDIES}/Doe"), 400, "malformed-request")


async def test_the_answer_is_in_json(client: httpx.AsyncClient) -> None:
    body, headers = related(XRAY)
    for accept, media_type in (
        ("*/*", "application/dicom+json"),
        ("application/dicom+json", "application/dicom+json"),
        ("application/json", "application/json"),
        ("application/dicom+xml;q=1, application/dicom+json;q=0.1", "application/dicom+json"),
    ):
        answer = await client.post(STUDIES, content=body, headers=headers | {"accept": accept})
        assert answer.headers["content-type"] == media_type


async def test_xml_is_not_acceptable_and_its_body_is_not_read(client: httpx.AsyncClient) -> None:
    body, headers = related(XRAY)
    sent = Body(body, 1000)
    headers["accept"] = "application/dicom+xml"
    check_problem(await client.post(STUDIES, content=sent, headers=headers), 406, "not-acceptable")
    assert sent.sent == 0


async def test_a_service_that_fails_says_so_and_does_not_blame_the_sender(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.failing = True
    check_problem(await stow(client, XRAY), 500, "internal-error")
    answer = module(await stow(client, XRAY, LATERAL), 409)
    assert {each.FailureReason for each in answer.FailedSOPSequence} == {0x0110, 0xA900}


async def test_an_instance_that_is_not_analysed_in_time_is_to_be_sent_again(
    opened: Open, engine: FakeEngine
) -> None:
    async with opened(request_timeout_s=0.2) as client:
        engine.may_answer.clear()
        check_problem(await stow(client, XRAY, LATERAL), 504, "deadline-passed")
        engine.may_answer.set()


async def test_it_needs_a_key_where_there_are_keys(opened: Open, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "api_keys").write_text(key_line(key))
    async with opened(api_keys_file=tmp_path / "api_keys") as client:
        check_problem(await stow(client, XRAY), 401, "unauthorized")
        client.headers["x-api-key"] = key
        module(await stow(client, XRAY), 200)


async def test_the_examples_of_openapi_are_what_the_service_says(sending: Sending) -> None:
    no_boundary = {"content-type": 'multipart/related; type="application/dicom"'}
    defaults = OutboxLimits(items=1000, bytes=2**28, age_s=100, close_s=5)
    async with sending(defaults) as (client, outbox, _):
        analysed = (await stow(client, XRAY)).text.replace(INSTANCE, "2.25.93")
        assert json.loads(analysed) == STORED["analysed"]["value"]
        for status, answer in (
            (400, await client.post(STUDIES, content=XRAY, headers=no_boundary)),
            (400, await stow(client)),
            (413, await stow(client, *[XRAY] * 17)),
            (415, await client.post(STUDIES, json={})),
            (415, await client.post(STUDIES, headers={"content-encoding": "gzip"})),
        ):
            assert answer.json() in examples(STUDIES, status)
        for number in range(999):
            outbox.put(f"{number}", "x", [b"x"])
        assert (await stow(client, XRAY)).json() in examples(STUDIES, 503)


# --- results


async def test_the_results_on_an_image_go_on_as_sr_and_secondary_capture(sending: Sending) -> None:
    async with sending() as (client, outbox, server):
        module(await stow(client, XRAY, LATERAL), 202)
        assert outbox.state.items == 1
        outbox.send_due()
        ((report, capture),) = (
            [dcmread(io.BytesIO(each)) for each in one] for one in server.stored
        )
        assert (report.Modality, capture.Modality) == ("SR", "OT")
        assert report.StudyInstanceUID == capture.StudyInstanceUID == STUDY
        assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == INSTANCE


async def test_an_image_that_is_sent_again_has_the_same_results(sending: Sending) -> None:
    async with sending() as (client, outbox, server):
        for _ in range(2):
            await stow(client, XRAY)
        assert outbox.state.items == 1
        outbox.send_due()
        await stow(client, XRAY)
        outbox.send_due()
        first, second = (
            [dcmread(io.BytesIO(each)).SOPInstanceUID for each in one] for one in server.stored
        )
        assert first == second


async def test_with_a_full_outbox_nothing_is_read_or_analysed(
    sending: Sending, engine: FakeEngine
) -> None:
    async with sending() as (client, outbox, _):
        analysed = engine.calls
        two, headers = related(XRAY, XRAY)
        for number in range(2):
            outbox.put(f"{number}", "x", [b"x"])
        answer = await client.post(STUDIES, content=two, headers=headers)
        check_problem(answer, 503, "outbox-full")
        assert int(answer.headers["retry-after"]) >= 1
        outbox.put("2", "x", [b"x"])
        sent = Body(two, 1000)
        check_problem(await client.post(STUDIES, content=sent, headers=headers), 503, "outbox-full")
        assert sent.sent == 0
        assert engine.calls == analysed


async def test_a_result_that_finds_no_room_makes_the_sender_come_again(sending: Sending) -> None:
    limits = OutboxLimits(items=9, bytes=400_000, age_s=100, close_s=5)
    async with sending(limits) as (client, outbox, _):
        for number in range(9):
            file = dicom(**SHOWN, SOPInstanceUID=f"2.25.{number + 1}")
            if (answer := await stow(client, file)).status_code != 200:
                break
        check_problem(answer, 503, "outbox-full")
        assert outbox.state.items == 2
        assert outbox.state.bytes <= 400_000


async def test_metrics_and_readiness_tell_what_waits(sending: Sending) -> None:
    async with sending() as (client, outbox, _):
        await stow(client, XRAY)
        told = (await client.get("/metrics")).text
        assert "covid_xray_outbox_results 1.0" in told
        assert f"covid_xray_outbox_bytes {float(outbox.state.bytes)}" in told
        assert 'covid_xray_outbox_given_up_total{reason="refused"} 0.0' in told
        assert (await client.get("/health/ready")).json()["waiting_results"] == 1
        outbox.send_due()
        assert "covid_xray_outbox_sent_total 1.0" in (await client.get("/metrics")).text


async def test_without_a_server_readiness_tells_of_no_results(client: httpx.AsyncClient) -> None:
    assert "waiting_results" not in (await client.get("/health/ready")).json()


async def test_nothing_of_a_patient_or_an_image_is_logged(
    sending: Sending, caplog: pytest.LogCaptureFixture
) -> None:
    for library in ("highdicom", "httpx"):  # the first is as `app.logs` has it, the other a client
        caplog.set_level(logging.ERROR, library)
    caplog.set_level(logging.DEBUG)
    async with sending() as (client, outbox, server):
        server.errors = [ZeroDivisionError("Marked")]
        answer = await stow(client, XRAY, LATERAL, path=f"{STUDIES}/{STUDY}")
        outbox.send_due()
        outbox.close()
    formatter = make_formatter("json")
    logged = "".join(formatter.format(record) for record in caplog.records)
    assert '"/dicomweb/studies/{study}"' in logged
    assert "marked" not in (logged + answer.text).lower()
    assert STUDY not in logged
    assert INSTANCE not in logged


async def test_a_client_that_leaves_is_let_go(
    app_of: Callable[..., FastAPI], engine: FakeEngine
) -> None:
    app = app_of()
    async with app.router.lifespan_context(app):
        engine.may_answer.clear()
        leaver = Leaver(STUDIES, *related(XRAY))
        await asyncio.wait_for(app(leaver.scope, leaver.receive, leaver.send), 5)
        engine.may_answer.set()
        assert app.state.uploads.memory.held == 0


async def test_what_is_secret_is_read_at_the_start(
    app_of: Callable[..., FastAPI], tmp_path: Path
) -> None:
    app = app_of(
        dicomweb_url="http://127.0.0.1:1/dicom-web", dicomweb_secret_file=tmp_path / "none"
    )
    with pytest.raises(Exception, match="a password or token"):
        async with app.router.lifespan_context(app):
            pass


async def test_results_that_cannot_be_delivered_are_told_when_the_service_stops(
    app_of: Callable[..., FastAPI], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("Marked-token\n")
    app = app_of(
        dicomweb_url="http://127.0.0.1:1/dicom-web",
        dicomweb_secret_file=tmp_path / "token",
        outbox_close_s=0.2,
    )
    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        app.router.lifespan_context(app),
    ):
        module(await stow(client, XRAY), 200)
        assert "Marked-token" not in repr(app.state.outbox.__dict__)
    assert "was not sent, and is lost" in caplog.text
    assert "Marked-token" not in caplog.text


# --- hostile bodies


def hostile_bodies() -> Iterator[tuple[str, bytes, int, str]]:
    """Give the name, body, expected status and content type of each."""
    whole, headers = related(XRAY)
    start = whole[: whole.index(b"\r\n\r\n") + 4]
    kind = headers["content-type"]

    def case(
        name: str, body: bytes, status: int, content_type: str = kind
    ) -> tuple[str, bytes, int, str]:
        return name, body, status, content_type

    yield case("truncated in an image", whole[:-1000], 400)
    yield case("truncated in a header", whole[:20], 400)
    yield case("truncated in its end", whole[:-6], 400)
    yield case("empty", b"", 400)
    yield case("no part", b"--limit--\r\n", 400)
    yield case("no boundary", whole, 400, 'multipart/related; type="application/dicom"')
    yield case("another boundary", whole, 400, kind.replace("limit", "other"))
    yield case("a huge boundary", whole, 400, kind.replace("limit", "x" * 300))
    yield case("text without a line's end before it", b"hello" + whole, 400)
    yield case("much text before it", b"hello\r\n" * 20_000 + whole, 400)
    yield case("10,000 parts", related(*[b"x"] * 10_000)[0], 413)
    yield case("a huge header", b"--limit\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 400)
    yield case("many headers", b"--limit\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 400)
    yield case("a header of bytes", b"--limit\r\n\xff\x00\r\n\r\nx\r\n--limit--", 400)
    yield case("a part of JSON", start.replace(b"dicom", b"json") + b"{}\r\n--limit--\r\n", 415)
    inner = related(whole, kind="multipart/related")[0]
    yield case("nested", inner, 415)
    gzip = b"--limit\r\nContent-Encoding: gzip\r\n\r\nx\r\n--limit--\r\n"
    yield case("compressed", gzip, 415)
    yield case("a form", whole, 415, "multipart/form-data; boundary=limit")
    yield case("metadata", whole, 415, kind.replace("dicom", "dicom+json"))
    yield case("no type at all", whole, 415, "")
    yield case("a part of nothing", start + b"\r\n--limit--\r\n", 409)


async def test_a_hostile_body_gets_a_4xx(
    client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    for name, body, status, content_type in hostile_bodies():
        with subtests.test(name):
            headers = {"content-type": content_type} if content_type else {}
            answer = await client.post(STUDIES, content=Body(body, 777), headers=headers)
            assert answer.status_code == status, answer.text


async def test_a_body_is_counted_while_it_arrives(opened: Open) -> None:
    body, headers = related(XRAY)
    async with opened(max_upload_bytes=len(body) - 1) as client:
        answer = await client.post(STUDIES, content=Body(body), headers=headers)
        check_problem(answer, 413, "payload-too-large")
    async with opened(max_batch=2) as client:
        check_problem(await stow(client, *[XRAY] * 3), 413, "payload-too-large")
        module(await stow(client, XRAY, XRAY), 200)


async def test_the_ends_of_lines_and_chunks_do_not_matter_to_an_image(
    client: httpx.AsyncClient,
) -> None:
    samples = ramp(12)
    samples.flat[:8] = [0x0A0D, 0x2D2D, 0x696C, 0x696D, 0x0074, 0x0A0D, 0x2D2D, 0x0D0D]
    body, headers = related(dicom(samples & 0x0FFF, **SHOWN))
    for preamble in (b"", b"\r\n", b"a preamble, and no --limit\r\n-\r\n"):
        sent = preamble + body + b"an epilogue"
        for chunk in (7, len(sent)):
            answer = await client.post(STUDIES, content=Body(sent, chunk), headers=headers)
            module(answer, 200)


async def test_a_content_type_is_read_as_senders_write_it(client: httpx.AsyncClient) -> None:
    body, _ = related(XRAY)
    for content_type in (
        "multipart/related; type=application/dicom; boundary=limit",
        'Multipart/Related; boundary="limit"; type="Application/DICOM"; transfer-syntax=*',
        "multipart/related; boundary=limit",
    ):
        headers = {"content-type": content_type}
        module(await client.post(STUDIES, content=body, headers=headers), 200)
