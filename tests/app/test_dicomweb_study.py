import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
import pytest

from app import cli, commands
from app.dicomweb import study
from app.dicomweb.server import DicomWebServer, Instance
from app.dicomweb.study import Analysis, analyse_all
from app.errors import DicomWebRefused, DicomWebUnavailable
from app.opening import open_service
from app.settings import Settings
from tests import fakes
from tests.app.dicoms import INSTANCE, dicom
from tests.fakes import Answer, FakeWeb

Run = Callable[..., tuple[int, str, str]]

UNAVAILABLE = DicomWebUnavailable("an answer", "none")
REFUSED = DicomWebRefused("an instance", "failure reason 0x0122")
CHEST, LATERAL, GONE = (Instance("1.2", "1.3", f"1.4.{number}") for number in range(3))


class FakeArchive(DicomWebServer):
    """Has three images of which one cannot be fetched; stores what it is not told to refuse."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1/dicom-web")
        self.files = {
            CHEST: dicom(SOPInstanceUID=CHEST.uid),
            LATERAL: dicom(SOPInstanceUID=LATERAL.uid, ViewPosition="LL"),
        }
        self.failures: list[Exception] = []
        self.stored: list[Sequence[bytes]] = []

    def find_images(self, study: str, series: str | None = None) -> list[Instance]:
        assert (study, series) == ("1.2", None)
        return list(self.files)

    def retrieve(self, instance: Instance) -> bytes:
        if instance not in self.files:
            raise UNAVAILABLE
        return self.files[instance]

    def store(self, instances: Sequence[bytes]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.stored.append(instances)


@pytest.fixture
def archive() -> FakeArchive:
    return FakeArchive()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    fakes.write_fake_release(tmp_path)
    return Settings(model_store=tmp_path, threads=1)


async def analyse(
    archive: FakeArchive,
    settings: Settings,
    *images: Instance,
    store: bool = True,
) -> list[Analysis]:
    async with open_service(settings, fakes.loader(fakes.FakeEngine())) as service:
        work = analyse_all(images, archive, service, store=store, waits_s=(0, 0))
        return [each async for each in work]


@pytest.mark.anyio
async def test_a_report_and_an_overlay_of_each_xray_are_stored(
    archive: FakeArchive, settings: Settings
) -> None:
    (done,) = await analyse(archive, settings, CHEST)
    assert done.prediction
    assert done.stored
    ((report, overlay),) = archive.stored
    assert pydicom.dcmread(io.BytesIO(report)).Modality == "SR"
    (source,) = pydicom.dcmread(io.BytesIO(overlay)).SourceImageSequence
    assert source.ReferencedSOPInstanceUID == CHEST.uid


@pytest.mark.anyio
async def test_nothing_is_stored_where_nothing_is_to_be(
    archive: FakeArchive, settings: Settings
) -> None:
    (done,) = await analyse(archive, settings, CHEST, store=False)
    assert done.prediction
    assert done.stored is None
    assert not archive.stored
    assert "stored" not in done.as_row()


@pytest.mark.anyio
async def test_an_image_that_no_report_can_be_written_on_has_an_answer_where_none_is_to_be(
    archive: FakeArchive, settings: Settings
) -> None:
    archive.files[CHEST] = dicom(SOPClassUID="1.2.3")
    (told,) = await analyse(archive, settings, CHEST, store=False)
    assert told.prediction
    assert told.error is None
    (lost,) = await analyse(archive, settings, CHEST)
    assert "SOPClassUID" in str(lost.error)


@pytest.mark.anyio
async def test_one_image_without_an_answer_does_not_stop_the_others(
    archive: FakeArchive, settings: Settings
) -> None:
    gone, lateral, chest = await analyse(archive, settings, GONE, LATERAL, CHEST)
    assert gone.error is UNAVAILABLE
    assert not gone.is_none_of_ours
    assert lateral.is_none_of_ours
    assert lateral.as_row() == f"-          -                   {LATERAL.uid}  {lateral.error}"
    assert chest.stored
    assert len(archive.stored) == 1


@pytest.mark.anyio
async def test_results_are_tried_again_until_they_are_stored(
    archive: FakeArchive, settings: Settings
) -> None:
    archive.failures = [UNAVAILABLE, UNAVAILABLE]
    (done,) = await analyse(archive, settings, CHEST)
    assert done.stored
    assert len(archive.stored) == 1


@pytest.mark.parametrize(("failures", "left"), [([UNAVAILABLE] * 3, 0), ([REFUSED] * 3, 2)])
@pytest.mark.anyio
async def test_results_that_are_not_stored_are_told_with_the_answer(
    archive: FakeArchive, settings: Settings, failures: list[Exception], left: int
) -> None:
    archive.failures = list(failures)
    (done,) = await analyse(archive, settings, CHEST)
    assert done.is_lost
    assert len(archive.failures) == left
    told = json.loads(done.as_json())
    assert told["stored"] is False
    assert told["label"] in fakes.LABELS
    assert told["problem"]["detail"] == str(failures[0])
    assert "NOT STORED" in done.as_row()


def test_the_waits_for_another_try_grow() -> None:
    assert list(study.WAITS_S) == sorted(study.WAITS_S)
    assert math.fsum(study.WAITS_S) == 30


def found(**tags: str) -> Answer:
    item = {tag.strip("_"): {"vr": "UI", "Value": [value]} for tag, value in tags.items()}
    return 200, {"Content-Type": "application/dicom+json"}, [json.dumps([item]).encode()]


FOUND = [found(_0020000E="1.3", _00080060="DX"), *[found(_00080018=INSTANCE)] * 2]


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    with FakeWeb() as web:
        yield web


@pytest.fixture
def run(
    web: FakeWeb,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.setenv("COVID_XRAY_MODEL_STORE", str(settings.model_store))
    load = fakes.loader(fakes.FakeEngine())
    monkeypatch.setattr(commands, "open_service", lambda chosen: open_service(chosen, load))

    def run(*options: str) -> tuple[int, str, str]:
        words = ["covid-xray", "analyse", "--study", "1.2", "--dicomweb", web.url, *options]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        return caught.value.code, *capsys.readouterr()

    return run


def image(**elements: Any) -> Answer:
    part = b"--b\r\n\r\n%b\r\n--b--" % dicom(**elements)
    return 200, {"Content-Type": "multipart/related; boundary=b"}, [part]


def test_the_program_prints_what_came_of_each_image(web: FakeWeb, run: Run) -> None:
    web.answers = [*FOUND, image()]
    code, out, err = run("--no-store")
    assert (code, err) == (0, "")
    assert re.fullmatch(
        rf"(COVID-19|Normal) +p\(COVID-19\)=\d+\.\d% +{re.escape(INSTANCE)} .*\n", out
    )
    assert all(method == "GET" for method, *_ in web.asked)


def test_results_that_are_not_stored_end_the_program_with_3_and_a_sentence(
    web: FakeWeb, run: Run
) -> None:
    web.answers = [*FOUND, image(), (413, {}, [])]
    code, out, err = run("--json")
    assert code == 3
    assert json.loads(out)["problem"]["detail"].endswith("status 413 (Request Entity Too Large).")
    assert err == (
        "covid-xray: Expected the server to store all results; received a refusal, or nothing, for "
        "1 of 1 images. Their results are kept nowhere: run this again.\n"
    )


@pytest.mark.parametrize("answer", [image(ViewPosition="LL"), (404, {}, []), image(Rows=None)])
def test_a_study_without_any_answer_ends_the_program_with_1_and_a_sentence(
    web: FakeWeb, run: Run, answer: Answer
) -> None:
    web.answers = [*FOUND, answer]
    code, out, err = run()
    assert code == 1
    assert INSTANCE in out
    assert re.fullmatch(r"covid-xray: Expected an answer for each chest X-ray; [^\n]+\.\n", err)


def test_credentials_go_to_the_server_of_the_settings_and_to_no_other(
    web: FakeWeb, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("token")
    monkeypatch.setenv("COVID_XRAY_DICOMWEB_SECRET_FILE", str(tmp_path / "token"))
    for url in (web.url, "http://pacs.example/dicom-web"):
        monkeypatch.setenv("COVID_XRAY_DICOMWEB_URL", url)
        web.answers = [(404, {}, [])]
        code, _, err = run()
        assert code == 1
        assert err.endswith("received status 404 (Not Found).\n")
    ours, other = (headers for _, _, headers, _ in web.asked)
    assert ours["Authorization"] == "Bearer token"
    assert other["Authorization"] is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--study", "1.2 or 1=1"], "a UID such as"),
        (["--series", "../1.2"], "a UID such as"),
        (["--dicomweb", ""], "COVID_XRAY_DICOMWEB_URL"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_server_is_asked(
    web: FakeWeb, run: Run, options: list[str], told: str
) -> None:
    code, _, err = run(*options)
    assert code == 2
    assert told in err
    assert not web.asked
