"""A DICOMweb server as it should not be; tests/integration/test_pacs.py has a real one."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from app.dicomweb.destination import Credentials
from app.dicomweb.server import MAX_INSTANCES, DicomWebServer, Instance
from app.errors import DicomWebError, DicomWebRefused, DicomWebUnavailable
from app.reports.device import MANUFACTURER, OVERLAY_SERIES
from tests.app.dicoms import INSTANCE, dicom
from tests.fakes import FakeWeb

JSON = {"Content-Type": "application/dicom+json"}
PATIENT = "Marked^Name"
OTHER = "1.2.3.6"


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    with FakeWeb() as web:
        yield web


@pytest.fixture
def server(web: FakeWeb) -> DicomWebServer:
    return DicomWebServer(web.url, timeout_s=10, max_bytes=10_000)


def uids(tag: str, *found: str, reason: int | None = None) -> dict[str, object]:
    items: list[dict[str, object]] = [
        {"00081155": {"vr": "UI", "Value": [uid]}}
        | ({} if reason is None else {"00081197": {"vr": "US", "Value": [reason]}})
        for uid in found
    ]
    return {tag: {"vr": "SQ", "Value": items}}


def stored(*found: str) -> dict[str, object]:
    return uids("00081199", *found)


def failed(reason: int, *found: str) -> dict[str, object]:
    return uids("00081198", *found, reason=reason)


def found(*values: dict[str, str]) -> Iterable[bytes]:
    tags = {
        "Modality": ("00080060", "CS"),
        "Manufacturer": ("00080070", "LO"),
        "SeriesDescription": ("0008103E", "LO"),
        "SeriesInstanceUID": ("0020000E", "UI"),
        "SOPInstanceUID": ("00080018", "UI"),
    }
    items = [
        {tags[name][0]: {"vr": tags[name][1], "Value": [text]} for name, text in value.items()}
        for value in values
    ]
    return [json.dumps(items).encode()]


def related(*parts: bytes) -> tuple[dict[str, str], list[bytes]]:
    kind = 'multipart/related; type="application/dicom"; boundary="b"'
    body = b"".join(
        b"--b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n" % each for each in parts
    )
    return {"Content-Type": kind}, [body + b"--b--\r\n"]


def test_instances_are_stored_as_they_are_in_the_name_of_the_credentials(
    web: FakeWeb, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("täglich-neu\n", encoding="utf-8")
    web.answers = [(200, JSON, [json.dumps(stored(INSTANCE, OTHER)).encode()])] * 2
    files = [dicom(), dicom(SOPInstanceUID=OTHER)]
    server = DicomWebServer(f"{web.url}/", Credentials(tmp_path / "token"))
    server.store(files)
    (tmp_path / "token").write_text("renewed")
    server.store(files)
    (method, path, headers, body), (_, _, again, _) = web.asked
    assert (method, path) == ("POST", "/dicom-web/studies")
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"')
    assert headers["Host"] == web.url.split("/")[2]
    assert all(each in body for each in files)
    assert headers["Authorization"].encode("latin-1").decode() == "Bearer täglich-neu"
    assert again["Authorization"] == "Bearer renewed"


@pytest.mark.parametrize(
    ("status", "content", "kind", "told"),
    [
        (200, stored(INSTANCE), None, ""),
        (409, failed(0x0111, INSTANCE), None, ""),
        (202, stored("1.9") | failed(0xA700, INSTANCE), DicomWebUnavailable, "0xA700"),
        (409, failed(0x0110, INSTANCE), DicomWebUnavailable, "0x0110"),
        (409, failed(0xA900, INSTANCE), DicomWebRefused, "0xA900"),
        (409, failed(0x0122, INSTANCE), DicomWebRefused, "0x0122"),
        (202, stored("1.9"), DicomWebUnavailable, "leaves out 1 of 1"),
        (200, None, DicomWebUnavailable, "cannot be read"),
        (409, None, DicomWebRefused, "status 409"),
        (400, None, DicomWebRefused, "status 400"),
        (413, None, DicomWebRefused, "status 413"),
        (401, None, DicomWebUnavailable, "status 401 (Unauthorized)"),
        (404, None, DicomWebUnavailable, "status 404"),
        (429, None, DicomWebUnavailable, "status 429"),
        (500, None, DicomWebUnavailable, "status 500"),
        (503, None, DicomWebUnavailable, "status 503"),
        (599, None, DicomWebUnavailable, "status 599 (unknown)"),
    ],
)
def test_what_is_not_stored_is_told_with_its_reason_and_whether_to_try_again(  # noqa: PLR0913, PLR0917 -- columns of a table
    web: FakeWeb,
    server: DicomWebServer,
    status: int,
    content: dict[str, object] | None,
    kind: type[DicomWebError] | None,
    told: str,
) -> None:
    headers = {"Content-Type": "application/dicom+json; charset=utf-8"} if content else {}
    web.answers = [(status, headers, [json.dumps(content or PATIENT).encode()])]
    if kind is None:
        server.store([dicom()])
        return
    with pytest.raises(kind) as caught:
        server.store([dicom()])
    assert told in str(caught.value)
    assert PATIENT not in str(caught.value)


def test_a_redirect_is_not_followed_into_a_request_that_stores_nothing(
    web: FakeWeb, server: DicomWebServer
) -> None:
    web.answers = [(302, {"Location": f"{web.url}/elsewhere"}, [])]
    with pytest.raises(DicomWebUnavailable, match="a redirect"):
        server.store([dicom()])
    assert len(web.asked) == 1


def drip(piece: bytes = b"x", wait_s: float = 0.03) -> Iterator[bytes]:
    while True:
        time.sleep(wait_s)
        yield piece


@pytest.mark.parametrize(
    ("pieces", "kind", "told"),
    [
        (drip(wait_s=0.5), DicomWebUnavailable, "no connection, or a broken"),
        (drip(), DicomWebUnavailable, "goes on and on"),
        (drip(bytes(2**16), 0.001), DicomWebRefused, "at most 75536 bytes"),
    ],
    ids=["silent", "slow", "endless"],
)
def test_an_answer_has_bounds_in_time_and_size(
    web: FakeWeb, pieces: Iterator[bytes], kind: type[Exception], told: str
) -> None:
    server = DicomWebServer(web.url, timeout_s=0.1, max_bytes=10_000)
    web.answers = [(200, related()[0], pieces)]
    start = time.monotonic()
    with pytest.raises(kind, match=told):
        server.retrieve(Instance("1.2", "1.3", "1.4"))
    assert time.monotonic() - start < 5
    assert web.given < 2**23


@pytest.mark.parametrize("headers", [{"Content-Length": "9999"}, {"Transfer-Encoding": "chunked"}])
def test_an_answer_that_breaks_off_is_no_image(
    web: FakeWeb, server: DicomWebServer, headers: dict[str, str]
) -> None:
    kind, pieces = related(dicom())
    web.answers = [(200, kind | headers, [b"fff0\r\n", *pieces])]
    with pytest.raises(DicomWebUnavailable):
        server.retrieve(Instance("1.2", "1.3", "1.4"))


def test_a_server_that_is_not_there_or_says_nothing_is_told(web: FakeWeb) -> None:
    with FakeWeb() as gone:
        url = gone.url
    with pytest.raises(DicomWebUnavailable, match="no connection"):
        DicomWebServer(url).store([dicom()])
    web.answers = [(200, JSON, drip(wait_s=0.2))]
    with pytest.raises(DicomWebUnavailable):
        DicomWebServer(web.url, timeout_s=0.1).store([dicom()])


def test_a_secret_that_cannot_be_read_is_told_by_its_file(web: FakeWeb, tmp_path: Path) -> None:
    server = DicomWebServer(web.url, Credentials(tmp_path / "none", "user"))
    with pytest.raises(DicomWebUnavailable, match="none; received No such file"):
        server.store([dicom()])
    assert not web.asked


def test_only_series_that_may_hold_xrays_of_others_are_looked_into(
    web: FakeWeb, server: DicomWebServer
) -> None:
    series = [
        {"SeriesInstanceUID": "1.1", "Modality": "CT"},
        {"SeriesInstanceUID": "1.2", "Modality": "DX"},
        {"SeriesInstanceUID": "1.3", "Modality": "SR"},
        {"SeriesInstanceUID": "1.4", "Modality": "OT", "Manufacturer": MANUFACTURER},
        {"SeriesInstanceUID": "1.5", "Modality": "OT", "SeriesDescription": OVERLAY_SERIES},
        {"SeriesInstanceUID": "1.6", "Modality": "CR"},
        {"SeriesInstanceUID": "1.7"},
    ]
    web.answers = [
        (200, JSON, found(*series)),
        (200, JSON, found({"SOPInstanceUID": "1.2.1"}, {"SOPInstanceUID": "1.2.2"})),
        (200, JSON, found({"SOPInstanceUID": "1.2.3"})),
        (204, {}, []),
        (200, JSON, found({"SOPInstanceUID": "1.6.1"})),
        (200, JSON, found({"SOPInstanceUID": "1.6.1"})),  # one that knows no `offset`
    ]
    images = server.find_images("1")
    assert [each.uid for each in images] == ["1.2.1", "1.2.2", "1.2.3", "1.6.1"]
    assert images[0] == Instance("1", "1.2", "1.2.1")
    assert [path.partition("?")[0] for _, path, *_ in web.asked[1:]] == [
        *["/dicom-web/studies/1/series/1.2/instances"] * 3,
        *["/dicom-web/studies/1/series/1.6/instances"] * 2,
    ]


def test_one_series_is_asked_for_by_its_uid(web: FakeWeb, server: DicomWebServer) -> None:
    web.answers = [(200, JSON, found({"SeriesInstanceUID": "1.3", "Modality": "SR"}))]
    assert server.find_images("1", "1.3") == []
    assert "SeriesInstanceUID=1.3" in web.asked[0][1]


@pytest.mark.parametrize(("status", "body"), [(204, b""), (200, b"[]")])
def test_a_study_that_is_not_there_is_told(
    web: FakeWeb, server: DicomWebServer, status: int, body: bytes
) -> None:
    web.answers = [(status, JSON, [body])]
    with pytest.raises(DicomWebRefused, match=r"images of study 1\.2; received none"):
        server.find_images("1.2")


def test_a_study_with_too_many_images_is_refused(web: FakeWeb, server: DicomWebServer) -> None:
    images = found(*({"SOPInstanceUID": f"1.{n}"} for n in range(MAX_INSTANCES + 1)))
    web.answers = [
        (200, JSON, found({"SeriesInstanceUID": "1.3", "Modality": "DX"})),
        (200, JSON, images),
    ]
    with pytest.raises(DicomWebRefused, match="at most 1000 images"):
        server.find_images("1")


def test_a_study_of_just_as_many_images_as_may_be_is_found(
    web: FakeWeb, server: DicomWebServer
) -> None:
    web.answers = [
        (200, JSON, found({"SeriesInstanceUID": "1.3", "Modality": "DX"})),
        (200, JSON, found(*({"SOPInstanceUID": f"1.{n}"} for n in range(MAX_INSTANCES)))),
        (204, JSON, [b""]),
    ]
    assert len(server.find_images("1")) == MAX_INSTANCES


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "text/html"}, PATIENT),
        (JSON, PATIENT),
        (JSON, "[[]]"),
        (JSON, '[{"1":2}]'),
    ],
)
def test_what_is_no_answer_of_dicomweb_is_told_and_not_repeated(
    web: FakeWeb, server: DicomWebServer, headers: dict[str, str], body: str
) -> None:
    web.answers = [(200, headers, [body.encode()])] * 2
    for ask in (server.find_images, lambda uid: server.retrieve(Instance(uid, uid, uid))):
        with pytest.raises(DicomWebUnavailable, match=r"^[^\n]*cannot be read.$") as caught:
            ask("1.2")
        assert PATIENT not in str(caught.value)


def test_an_image_is_fetched_as_the_server_has_it(web: FakeWeb, server: DicomWebServer) -> None:
    data = dicom()
    web.answers = [(200, *related(data))]
    assert server.retrieve(Instance("1.2", "1.3", "1.4")) == data
    _, path, headers, _ = web.asked[0]
    assert path == "/dicom-web/studies/1.2/series/1.3/instances/1.4"
    assert headers["Accept"] == ('multipart/related; type="application/dicom"; transfer-syntax=*')


def test_an_answer_with_two_images_is_refused(web: FakeWeb, server: DicomWebServer) -> None:
    web.answers = [(200, *related(b"one", b"two"))]
    with pytest.raises(DicomWebRefused, match="one instance; received 2"):
        server.retrieve(Instance("1.2", "1.3", "1.4"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pacs.example",
        "ftp://pacs.example",
        "http://",
        "http://user:secret@pacs.example/dicom-web",
        "http://pacs.example:port/dicom-web",
        "http://[::1/dicom-web",
        "http://pacs.example/dicom-web?token=secret",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(DicomWebUnavailable, match=r"such as http://127\.0\.0\.1:8042") as caught:
        DicomWebServer(url)
    assert "secret" not in str(caught.value)
