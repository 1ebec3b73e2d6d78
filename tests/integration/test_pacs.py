"""The service beside a real PACS, Orthanc, as docs/pacs.md sets them up."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from app.api_keys import key_line, new_key
from app.dicomweb.destination import Credentials
from app.dicomweb.server import DicomWebServer
from app.imaging import phantom
from app.reports.device import MANUFACTURER
from tests.app.dicoms import dicom
from tests.integration.orthanc import PASSWORD, USER, Orthanc
from tests.integration.server import Server, free_port

ROOT = Path(__file__).parents[2]
DOCUMENTATION = (ROOT / "docs" / "pacs.md").read_text(encoding="utf-8")
SAMPLES = ROOT.parent / "shared" / "samples"
ACCEPTANCE = "enforce" if SAMPLES.is_dir() else "warn"  # a drawn chest is none to the model
FILM: dict[str, Any] = {"Modality": "OT", "SOPClassUID": SecondaryCaptureImageStorage}
"""What is digitised comes so, and is not routed to the service."""
COMMAND = [sys.executable, "-c", "from app.cli import main; main()", "analyse"]
PREFIX = "1.2.826.0.1.3680043.8.498"
ROUTED, EARLY, LATER, PULLED, KEPT = (f"{PREFIX}.{number}" for number in range(1, 6))


@dataclass(frozen=True)
class Pacs:
    """An Orthanc and the service that belong together; a folder for files."""

    orthanc: Orthanc
    server: Server
    folder: Path

    @property
    def service(self) -> DicomWebServer:
        """The service's own DICOMweb, as another router sees it."""
        url = str(self.server.client.base_url.join("dicomweb"))
        return DicomWebServer(url, Credentials(self.folder / "key"))


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    folder = tmp_path_factory.mktemp("pacs")
    key, port = new_key(), free_port()
    (folder / "key").write_text(key)
    (folder / "api_keys").write_text(key_line(key))
    (folder / "password").write_text(PASSWORD)
    with contextlib.ExitStack() as opened:
        orthanc = opened.enter_context(Orthanc(folder, f"http://127.0.0.1:{port}/dicomweb/", key))
        orthanc.send(write_xray(folder, EARLY))  # the service is not there yet
        orthanc.wait_for(lambda: orthanc.jobs() == ["Failure"], "an order that fails")
        cache = folder / "cache"
        cache.mkdir()
        settings = {
            "cache_dir": str(cache),
            "port": str(port),
            "model_store": str(ROOT / "model_store"),
            "acceptance": ACCEPTANCE,
            "api_keys_file": str(folder / "api_keys"),
            "dicomweb_url": orthanc.url,
            "dicomweb_user": USER,
            "dicomweb_secret_file": str(folder / "password"),
            "path": str(ROOT),
        }
        server = Server(settings)
        opened.callback(server.client.close)
        opened.callback(server.kill)
        yield Pacs(orthanc, server.wait_until_ready(), folder)


def read_pixels() -> NDArray[np.uint8]:
    """Read a chest X-ray of a person; where there is none, draw one."""
    samples = sorted(SAMPLES.glob("covid-*.png"))
    return np.asarray(Image.open(samples[0]).convert("L")) if samples else phantom()[..., 0]


def write_xray(folder: Path, study: str, series: int = 1, **elements: Any) -> Path:
    """Write a DICOM file with a frontal chest X-ray."""
    attributes = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.{series}",
        "SOPInstanceUID": f"{study}.{series}.1",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "AccessionNumber": "MARKED-ACCESS",
        **elements,
    }
    path = folder / f"{study}.{series}.dcm"
    path.write_bytes(dicom(read_pixels(), **attributes))
    return path


def run_example(pacs: Pacs, beginning: str, **replaced: str) -> str:
    """Run an example of docs/pacs.md with this Orthanc, and give what it prints."""
    examples = re.findall(r"^```sh\n(.*?)^```$", DOCUMENTATION, re.MULTILINE | re.DOTALL)
    (example,) = (each for each in examples if each.startswith(beginning))
    changes = {
        "http://127.0.0.1:8042": str(pacs.orthanc.client.base_url).rstrip("/"),
        "4242": str(pacs.orthanc.dicom_port),
        "curl ": f"curl --user {USER}:{PASSWORD} ",
        **replaced,
    }
    for old, new in changes.items():
        example = example.replace(old, new)
    command = ["/bin/bash", "-euo", "pipefail", "-c", example]
    done = subprocess.run(
        command, cwd=pacs.folder, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def analyse(pacs: Pacs, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    chosen = {
        "cache_dir": str(pacs.folder / "cache"),
        "model_store": str(ROOT / "model_store"),
        "acceptance": ACCEPTANCE,
        "dicomweb_url": pacs.orthanc.url,
        "dicomweb_user": USER,
        "dicomweb_secret_file": str(pacs.folder / "password"),
        **settings,
    }
    environment = {f"COVID_XRAY_{name.upper()}": value for name, value in chosen.items()}
    return subprocess.run(
        [*COMMAND, *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_xray_that_is_sent_to_the_pacs_gets_a_report_and_an_overlay_beside_it(
    pacs: Pacs,
) -> None:
    path = write_xray(pacs.folder, ROUTED, StudyDate="20260131").rename(pacs.folder / "xray.dcm")
    run_example(pacs, "study=")
    found = pacs.orthanc.wait_for_results(ROUTED)
    assert {modality: len(uids) for modality, uids in found.items()} == {"DX": 1, "SR": 1, "OT": 1}
    source = pydicom.dcmread(path)
    report = hd.sr.srread(io.BytesIO(pacs.orthanc.file(found["SR"][0])))
    (evidence,) = report.get_evidence()
    assert evidence[2] == source.SOPInstanceUID
    overlay = pydicom.dcmread(io.BytesIO(pacs.orthanc.file(found["OT"][0])))
    for result in (report, overlay):
        assert result.Manufacturer == MANUFACTURER
        assert result.PatientID == source.PatientID
        assert result.AccessionNumber == source.AccessionNumber
    assert overlay.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert overlay.pixel_array.shape[0] > source.Rows * 0.9
    assert sorted(run_example(pacs, "study=").splitlines()) == [
        "DX",
        "OT COVID-19 heatmap (research)",
        "SR COVID-19 prediction (research)",
    ]
    assert run_example(pacs, "export", **{"covid-xray analyse --study": "echo"}).split() == [
        "1.2.826.0.1.3680043.8.498.1",
        ROUTED,
    ]
    printed = pacs.orthanc.dump(found["SR"][0])
    assert "Probability of COVID-19" in printed
    assert "Research software, no medical device" in printed


def test_the_pacs_sends_again_what_came_while_the_service_was_away(pacs: Pacs) -> None:
    pacs.orthanc.wait_for_results(EARLY)


def test_what_the_service_may_take_is_sent_to_it(pacs: Pacs) -> None:
    doubtful: list[dict[str, Any]] = [
        {"BodyPartExamined": "TORAX"},
        {"ViewPosition": "LORDOTIC"},
        {"Modality": "dx"},
    ]
    for number, elements in enumerate(doubtful):
        study = f"{PREFIX}.6.{number}"
        pacs.orthanc.send(write_xray(pacs.folder, study, **elements))
        pacs.orthanc.wait_for_results(study)


def test_neither_results_nor_other_images_are_sent_to_the_service(pacs: Pacs) -> None:
    orders = len(pacs.orthanc.jobs())
    others = [
        write_xray(pacs.folder, LATER, 2, ViewPosition="LL"),
        write_xray(pacs.folder, LATER, 3, BodyPartExamined="HAND"),
        write_xray(pacs.folder, LATER, 4, PresentationIntentType="FOR PROCESSING"),
        write_xray(pacs.folder, LATER, 5, Modality="CT", SOPClassUID=CTImageStorage),
        write_xray(pacs.folder, LATER, 6, Manufacturer=MANUFACTURER),
    ]
    # The chest X-ray comes last: once its results are there, all before it were looked at.
    pacs.orthanc.send(*others, write_xray(pacs.folder, LATER))
    pacs.orthanc.wait_for_results(LATER)
    assert len(pacs.orthanc.jobs()) == orders + 1


def test_a_study_is_pulled_analysed_and_its_results_are_stored(pacs: Pacs) -> None:
    film = write_xray(pacs.folder, PULLED, **FILM)
    lateral = write_xray(pacs.folder, PULLED, 2, ViewPosition="LATERAL")
    other = write_xray(pacs.folder, PULLED, 3, Modality="CT", SOPClassUID=CTImageStorage)
    pacs.orthanc.send(film, lateral, other)
    done = analyse(pacs, "--study", PULLED, "--json")
    lines = {line["instance"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert (done.returncode, done.stderr) == (0, "")
    assert lines.keys() == {f"{PULLED}.1.1", f"{PULLED}.2.1"}
    answer = lines[f"{PULLED}.1.1"]
    assert answer["stored"]
    assert answer["image"]["sha256"] == sha256(pacs.orthanc.file(f"{PULLED}.1.1")).hexdigest()
    assert lines[f"{PULLED}.2.1"]["problem"]["code"] == "not-a-chest-radiograph"
    found = {modality: len(uids) for modality, uids in pacs.orthanc.series(PULLED).items()}
    assert found == {"OT": 2, "DX": 1, "CT": 1, "SR": 1}


def test_results_wait_while_the_pacs_is_away_and_nothing_of_a_patient_is_logged(
    pacs: Pacs,
) -> None:
    pacs.orthanc.stop()
    pacs.service.store([write_xray(pacs.folder, KEPT).read_bytes()])
    asked = analyse(pacs, "--study", KEPT)
    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr == (
        "covid-xray: Expected an answer of the DICOMweb server; received no connection, or a "
        "broken one.\n"
    )
    pacs.orthanc.start()
    found = pacs.orthanc.wait_for_results(KEPT)
    assert {modality: len(uids) for modality, uids in found.items()} == {"SR": 1, "OT": 1}
    code, log = pacs.server.stop()
    assert code == 0
    assert "Results cannot be sent; they wait." in log
    assert "Results can be sent again." in log
    assert "MARKED" not in log.upper()
