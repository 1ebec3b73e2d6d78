"""A real Orthanc on free ports of this machine, set up with the files of deploy/orthanc."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import pytest

from tests.integration.server import free_port

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
DEPLOYED = Path(__file__).parents[2] / "deploy" / "orthanc"
USER, PASSWORD = "covid-xray", "of-the-service"
WITHIN_S = 60.0

T = TypeVar("T")


class Orthanc:
    """A PACS that sends chest X-rays to the service, and keeps what it stores.

    Args:
        folder: Where it keeps everything.
        service: Root of the service's DICOMweb.
        key: Its API key for the service.
    """

    def __init__(self, folder: Path, service: str, key: str) -> None:
        for needed in (PROGRAM, PLUGIN):
            if not needed.exists():
                pytest.skip("orthanc and orthanc-dicomweb are not installed")
        if not shutil.which("storescu"):
            pytest.skip("storescu of dcmtk is not installed")
        self._folder = folder
        self._environment = {"ORTHANC_COVID_XRAY_URL": service, "ORTHANC_COVID_XRAY_API_KEY": key}
        self._http_port = free_port()
        self.dicom_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"
        self.url = f"http://127.0.0.1:{self._http_port}/dicom-web"
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self._http_port}", auth=(USER, PASSWORD), timeout=20
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.client.close()

    def start(self) -> None:
        """Start it, with what it had when it was stopped."""
        self.dicom_port = free_port()  # a new one: Orthanc cannot listen on the last one at once
        settings = self._folder / "etc"
        settings.mkdir(exist_ok=True)
        shutil.copy(DEPLOYED / "dicomweb.json", settings)
        (settings / "orthanc.json").write_text(json.dumps(self._configuration()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, settings],
                env=os.environ | self._environment,
                stdout=log,
                stderr=log,
            )
        self.wait_for(self._is_up, "Orthanc to start")

    def _configuration(self) -> dict[str, Any]:
        return {
            "Name": "Test",
            "StorageDirectory": str(self._folder / "db"),
            "IndexDirectory": str(self._folder / "db"),
            "HttpPort": self._http_port,
            "DicomPort": self.dicom_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(PLUGIN)],
            "LuaScripts": [str(DEPLOYED / "covid-xray.lua")],
            "StableAge": 1,
        }

    def _is_up(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log.read_text(errors="replace")
        try:
            return self.client.get("/system").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Stop it in order; by force where it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def send(self, *files: Path) -> None:
        """Send files to it as a modality does (C-STORE)."""
        command = ["storescu", "127.0.0.1", str(self.dicom_port), *map(str, files)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def series(self, study: str) -> dict[str, list[str]]:
        """Find what a study has by QIDO-RS: instance UIDs by modality."""
        asked = {"includefield": "00080060"}
        answer = self.client.get(f"/dicom-web/studies/{study}/instances", params=asked)
        found: dict[str, list[str]] = {}
        for item in answer.raise_for_status().json():
            (modality,) = item["00080060"]["Value"]
            found.setdefault(modality, []).extend(item["00080018"]["Value"])
        return found

    def file(self, uid: str) -> bytes:
        """Fetch an instance by Orthanc's own REST."""
        (found,) = self.client.post("/tools/lookup", content=uid).raise_for_status().json()
        return self.client.get(f"/instances/{found['ID']}/file").raise_for_status().content

    def dump(self, uid: str) -> str:
        """Let dcmtk print a report."""
        path = self._folder / "report.dcm"
        path.write_bytes(self.file(uid))
        command = ["dsrdump", "+Pl", str(path)]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def jobs(self) -> list[str]:
        """Give the states of all orders to send something to the service."""
        jobs = self.client.get("/jobs", params={"expand": ""}).raise_for_status().json()
        return [job["State"] for job in jobs if job["Type"] == "DicomWebStowClient"]

    def wait_for(self, look: Callable[[], T | None], what: str) -> T:
        """Look until something true is seen."""
        until = time.monotonic() + WITHIN_S
        while time.monotonic() < until:
            if seen := look():
                return seen
            time.sleep(0.1)
        raise AssertionError(f"waited for {what}\n{self.log.read_text(errors='replace')}")

    def wait_for_results(self, study: str) -> dict[str, list[str]]:
        """Wait until a study has a report and an overlay."""

        def look() -> dict[str, list[str]] | None:
            found = self.series(study)
            return found if {"SR", "OT"} <= found.keys() else None

        return self.wait_for(look, f"the results of {study}")
