"""The examples and codes of `docs/reports.md`, against what the code gives."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.reports import codes, device, fhir, write_sr
from app.reports.codes import Code
from app.reports.example import ISSUED, example_finding
from app.reports.fhir import make_observation
from app.reports.source import FILED_BY
from tests.fakes import dicom_header

TEXT = (Path(__file__).parents[1] / "docs" / "reports.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


def shown() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(block("json"))
    return document


@pytest.fixture(autouse=True)
def _as_the_version_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    version = shown()["contained"][0]["version"][1]["value"]
    for module in (device, fhir):
        monkeypatch.setattr(module, "VERSION", version)


def test_the_shown_observation_is_the_one_that_is_given() -> None:
    assert shown() == make_observation(example_finding(), ISSUED)


def test_the_shown_tree_is_the_one_that_dsrdump_prints(tmp_path: Path) -> None:
    program = shutil.which("dsrdump")
    if program is None:
        pytest.skip("dsrdump is not installed (dcmtk)")
    finding = example_finding()
    radiograph = dataclasses.replace(finding.radiograph, header=dicom_header())
    file = tmp_path / "report.dcm"
    file.write_bytes(write_sr(dataclasses.replace(finding, radiograph=radiograph)))
    printed = subprocess.run(
        [program, "-Ph", "+Pc", "+Pl", file],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == block("text").strip()


def rows() -> dict[str, str]:
    """Map each code that a table lists to its row."""
    return dict(re.findall(r"^\| `([^`]+)` \| (.*)$", TEXT, re.MULTILINE))


CODES = [
    *(value for value in vars(codes).values() if isinstance(value, Code)),
    codes.label_code("COVID-19"),
    codes.label_code("Normal"),
    codes.label_code("LABEL"),
    codes.probability_code("LABEL"),
    codes.threshold_code("LABEL"),
    codes.prediction_set_code("CONFIDENCE"),
]


@pytest.mark.parametrize("code", CODES, ids=str)
def test_every_code_is_listed_with_its_meaning(code: Code) -> None:
    assert code.meaning in rows()[code.value]


def test_the_private_scheme_is_named_as_in_dicom_and_in_fhir() -> None:
    assert codes.PRIVATE in TEXT
    assert codes.FHIR_SYSTEMS[codes.PRIVATE] in TEXT


@pytest.mark.parametrize("keyword", FILED_BY)
def test_every_attribute_that_is_copied_is_named(keyword: str) -> None:
    assert f"`{keyword}`" in TEXT
