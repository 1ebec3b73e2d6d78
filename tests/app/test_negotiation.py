"""In which form a prediction is answered, over HTTP."""

import base64
import io
import threading
from typing import Any

import highdicom as hd
import httpx
import pydicom
import pytest
from fhir.resources.R4B.observation import Observation
from PIL import Image

from app import negotiation, service
from app.errors import MalformedRequest, NotAcceptable
from app.imaging import DicomInstance, Radiograph, decode
from app.negotiation import DICOM, FHIR, JSON, RELATED, choose
from app.reports.source import UIDS
from tests.app.calls import HEATMAPS, PREDICTIONS, check_problem
from tests.fakes import FakeEngine, dicom_header, gray_png

pytestmark = pytest.mark.anyio

WIDTH, HEIGHT = 400, 300
PNG = {"file": gray_png(height=HEIGHT, width=WIDTH)}


@pytest.fixture
def dicom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every file decoded as if it were a DICOM file with a made-up patient."""

    def decode_as_dicom(*arguments: Any, **options: Any) -> Radiograph:
        plain = decode(*arguments, **options)
        header = dicom_header()
        instance = DicomInstance(**{name: header[keyword].value for keyword, name in UIDS.items()})
        return Radiograph(plain.pixels, "DICOM", plain.sha256, dicom=instance, header=header)

    monkeypatch.setattr(service, "decode", decode_as_dicom)


async def ask(client: httpx.AsyncClient, accept: str, **query: Any) -> httpx.Response:
    return await client.post(PREDICTIONS, params=query, headers={"accept": accept}, files=PNG)


# --- Accept


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("APPLICATION/JSON", JSON),
        ("application/fhir+json", FHIR),
        ("application/fhir+json; fhirVersion=4.0", FHIR),
        ("application/dicom", DICOM),
        ("application/dicom; transfer-syntax=*", DICOM),
        ('multipart/related; type="application/dicom"', RELATED),
        ("multipart/related; type=application/dicom; q=0.5", RELATED),
        ("multipart/related", RELATED),
        ("application/json, application/dicom", JSON),
        ("application/json;q=0.4, application/dicom;q=0.5", DICOM),
        ("application/dicom, */*;q=0.1", DICOM),
        ("*/*, application/json;q=0.5", FHIR),
        ("application/json;q=0, */*", FHIR),
        ("text/html, application/fhir+json;q=0.2", FHIR),
        ("text/html, */*;q=0.8", JSON),
    ],
)
def test_the_client_gets_what_it_likes_best(accept: str, chosen: str) -> None:
    assert choose(accept) == chosen


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/json;q=0",
        "*/*;q=0",
        "application/fhir+xml",
        'multipart/related; type="application/dicom+json"',
    ],
)
def test_what_is_not_offered_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=r"application/json, .*application/dicom"):
        choose(accept)


@pytest.mark.parametrize("accept", ["json", "application/json/x", "a, application/json"])
def test_a_malformed_accept_is_malformed(accept: str) -> None:
    with pytest.raises(MalformedRequest, match="Accept"):
        choose(accept)


def test_an_accept_that_would_take_long_to_parse_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="2000 characters; received one of 60005"):
        choose('a/b;"' + ";" * 60_000)


async def test_an_accept_of_nothing_that_is_offered_is_a_406(client: httpx.AsyncClient) -> None:
    problem = check_problem(await ask(client, "application/xml"), 406, "not-acceptable")
    assert JSON in problem["expected"]
    assert DICOM in problem["expected"]


async def test_several_accept_headers_are_one(client: httpx.AsyncClient) -> None:
    headers = [("accept", "text/html"), ("accept", FHIR)]
    response = await client.post(PREDICTIONS, headers=headers, files=PNG)
    assert response.headers["content-type"] == FHIR


# --- JSON


async def test_json_is_without_heatmap_and_dicom_unless_there_is_one(
    client: httpx.AsyncClient,
) -> None:
    answer = (await ask(client, JSON)).json()
    assert "heatmap" not in answer
    assert "dicom" not in answer["image"]


@pytest.mark.usefixtures("dicom")
async def test_json_tells_the_uids_of_a_dicom_file_and_nothing_else_of_it(
    client: httpx.AsyncClient,
) -> None:
    response = await ask(client, JSON)
    assert response.json()["image"]["dicom"] == {
        "study_instance_uid": "2.25.91",
        "series_instance_uid": "2.25.92",
        "sop_instance_uid": "2.25.93",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
    }
    assert "Phantom" not in response.text


async def test_a_heatmap_is_included_where_asked_for(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    calls = engine.calls
    response = await ask(client, JSON, include="heatmap", legend="false")
    assert engine.calls == calls + 1
    answer = response.json()
    assert answer["label"] == "COVID-19"
    assert answer["heatmap"]["media_type"] == "image/png"
    png = base64.b64decode(answer["heatmap"]["data"], validate=True)
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.size) == ("PNG", (WIDTH, HEIGHT))


@pytest.mark.parametrize(("query", "taller"), [({}, True), ({"legend": "false"}, False)])
async def test_the_heatmap_in_json_is_the_one_of_its_own_call(
    client: httpx.AsyncClient, query: dict[str, str], *, taller: bool
) -> None:
    answer = (await ask(client, JSON, include="heatmap", **query)).json()
    alone = await client.post(HEATMAPS, params=query, files=PNG)
    assert base64.b64decode(answer["heatmap"]["data"]) == alone.content
    with Image.open(io.BytesIO(alone.content)) as image:
        assert (image.height > HEIGHT) == taller


@pytest.mark.parametrize(
    ("accept", "include"),
    [(JSON, "secondary-capture"), (FHIR, "heatmap"), (DICOM, "heatmap"), (RELATED, "heatmap")],
)
async def test_what_does_not_go_together_is_told(
    client: httpx.AsyncClient, accept: str, include: str
) -> None:
    problem = check_problem(await ask(client, accept, include=include), 400, "malformed-request")
    assert f"include={include}" in problem["expected"]
    assert accept in problem["received"]


async def test_an_unknown_extra_is_told_which_there_are(client: httpx.AsyncClient) -> None:
    problem = check_problem(await ask(client, JSON, include="gradients"), 400, "malformed-request")
    assert problem["expected"] == "include of 'heatmap' or 'secondary-capture'"


# --- FHIR


async def test_fhir_is_an_observation(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    calls = engine.calls
    response = await ask(client, FHIR)
    assert engine.calls == calls + 1
    assert response.headers["content-type"] == FHIR
    observation: Any = Observation.model_validate_json(response.content)
    assert observation.derivedFrom is None


@pytest.mark.usefixtures("dicom")
async def test_fhir_of_a_dicom_file_is_derived_from_its_study(client: httpx.AsyncClient) -> None:
    response = await ask(client, FHIR)
    observation: Any = Observation.model_validate_json(response.content)
    assert observation.derivedFrom[0].identifier.value == "urn:oid:2.25.91"
    assert "Phantom" not in response.text


# --- DICOM


@pytest.mark.parametrize("accept", [DICOM, RELATED])
async def test_a_png_has_no_dicom_answer(client: httpx.AsyncClient, accept: str) -> None:
    problem = check_problem(await ask(client, accept), 406, "not-acceptable")
    assert "a DICOM file" in problem["expected"]
    assert problem["received"] == "a PNG file"


@pytest.mark.usefixtures("dicom")
async def test_dicom_is_a_structured_report(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    calls = engine.calls
    response = await ask(client, DICOM)
    assert engine.calls == calls + 1
    assert response.headers["content-type"] == DICOM
    report = hd.sr.srread(io.BytesIO(response.content))
    assert report.StudyInstanceUID == "2.25.91"


def parts_of(response: httpx.Response) -> list[pydicom.Dataset]:
    """Take a body of DICOMweb apart."""
    kind, boundary = response.headers["content-type"].split("; boundary=")
    assert kind == RELATED
    first, *parts, last = (b"\r\n" + response.content).split(b"\r\n--" + boundary.encode())
    assert (first, last) == (b"", b"--\r\n")
    head = b"\r\nContent-Type: application/dicom\r\n\r\n"
    assert all(part.startswith(head) for part in parts)
    return [pydicom.dcmread(io.BytesIO(part.removeprefix(head))) for part in parts]


@pytest.mark.usefixtures("dicom")
@pytest.mark.parametrize("accept", [DICOM, RELATED])
async def test_the_secondary_capture_comes_as_a_second_part(
    client: httpx.AsyncClient, engine: FakeEngine, accept: str
) -> None:
    calls = engine.calls
    report, capture = parts_of(await ask(client, accept, include="secondary-capture"))
    assert engine.calls == calls + 1
    assert (report.Modality, capture.Modality) == ("SR", "OT")
    assert capture.StudyInstanceUID == report.StudyInstanceUID == "2.25.91"
    assert capture.SeriesInstanceUID != report.SeriesInstanceUID
    assert capture.pixel_array.shape == (capture.Rows, WIDTH, 3)


@pytest.mark.usefixtures("dicom")
async def test_a_client_of_dicomweb_gets_one_part(client: httpx.AsyncClient) -> None:
    (report,) = parts_of(await ask(client, RELATED))
    assert report.Modality == "SR"


@pytest.mark.usefixtures("dicom")
async def test_reports_are_written_on_the_schedulers_threads(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []

    def write(_: object) -> bytes:
        names.append(threading.current_thread().name)
        return b"report"

    monkeypatch.setattr(negotiation, "write_sr", write)
    monkeypatch.setattr(negotiation, "write_secondary_capture", write)
    await ask(client, DICOM, include="secondary-capture")
    assert len(names) == 2
    assert all(name.startswith("worker") for name in names)


@pytest.mark.usefixtures("dicom")
async def test_what_is_no_chest_xray_has_no_report(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.acceptance = 0.1
    check_problem(await ask(client, DICOM), 422, "not-a-chest-radiograph")


async def test_what_cannot_be_referred_to_has_no_report(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = decode(PNG["file"])
    nothing = DicomInstance(None, None, None, None)
    radiograph = Radiograph(
        plain.pixels, "DICOM", plain.sha256, dicom=nothing, header=dicom_header()
    )
    monkeypatch.setattr(service, "decode", lambda *_, **__: radiograph)
    problem = check_problem(await ask(client, DICOM), 422, "unsupported-image")
    assert problem["expected"] == "a DICOM file with a valid StudyInstanceUID"


# --- OpenAPI


async def test_openapi_describes_every_form_and_shows_those_that_can_be_read(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json")).json()
    content = document["paths"][PREDICTIONS]["post"]["responses"]["200"]["content"]
    assert set(content) == {JSON, FHIR, DICOM, RELATED}
    assert content[JSON]["schema"] == {"$ref": "#/components/schemas/PredictionSchema"}
    (example,) = content[FHIR]["examples"].values()
    Observation.model_validate(example["value"])
