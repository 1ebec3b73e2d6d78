"""What docs/pacs.md says, as far as it needs no PACS; tests/integration/test_pacs.py has one."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from app.errors import NotAChestRadiograph
from app.imaging import decode
from app.imaging.dicom_rules import XRAY_MODALITIES
from app.reports.device import MANUFACTURER
from app.settings import Settings
from tests.app.dicoms import dicom

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "pacs.md").read_text(encoding="utf-8")
DEPLOYED = ROOT / "deploy" / "orthanc"
DEBIANS = Path("/etc/orthanc/orthanc.json")


def test_every_setting_that_is_named_exists() -> None:
    names = set(re.findall(r"(?<!ORTHANC_)COVID_XRAY_([A-Z_]+)", TEXT))
    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_every_file_and_section_that_is_linked_is_there() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        name, _, section = link.partition("#")
        content = (ROOT / "docs" / name).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", content, re.MULTILINE)
        assert not section or section in {
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
        }


def test_every_variable_of_orthanc_that_is_named_is_in_its_configuration() -> None:
    variables = set(re.findall(r"\bORTHANC_\w+", TEXT))
    assert variables
    assert variables == set(re.findall(r"\bORTHANC_\w+", (DEPLOYED / "dicomweb.json").read_text()))


def test_the_manufacturer_of_results_is_the_one_that_is_not_routed() -> None:
    assert f'"{MANUFACTURER}"' in (DEPLOYED / "covid-xray.lua").read_text()
    assert f"`{MANUFACTURER}`" in TEXT


def table(name: str) -> set[str]:
    """Read a table of the script: its keys or its texts."""
    script = (DEPLOYED / "covid-xray.lua").read_text()
    (found,) = re.findall(rf"^local {name} = {{(.*?)}}", script, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\b[A-Z]+\b", re.sub("--.*", "", found)))


@pytest.mark.parametrize("view", sorted(table("SIDE_VIEWS")))
def test_the_script_keeps_back_only_views_that_the_service_refuses(view: str) -> None:
    with pytest.raises(NotAChestRadiograph, match="View Position"):
        decode(dicom(ViewPosition=f"X {view}"))


@pytest.mark.parametrize("part", ["CHEST", "THORAX", "THORACIC", "TORAX", "LUNGS"])
def test_the_script_sends_the_body_parts_that_the_service_takes(part: str) -> None:
    assert decode(dicom(BodyPartExamined=part)).format == "DICOM"
    assert any(word in part for word in table("CHEST"))


def test_the_script_sends_the_modalities_that_are_xrays() -> None:
    assert table("MODALITIES") == XRAY_MODALITIES


def test_the_script_is_put_into_the_configuration_that_debian_has(tmp_path: Path) -> None:
    if not DEBIANS.exists():
        pytest.skip("orthanc is not installed")
    (edit,) = re.findall(r"^sed .*$", TEXT, re.MULTILINE)
    (tmp_path / "orthanc.json").write_text(DEBIANS.read_text())
    command = edit.replace(str(DEBIANS), str(tmp_path / "orthanc.json"))
    subprocess.run(["/bin/sh", "-c", command], check=True, timeout=20)
    text = re.sub(
        r"^\s*//.*$|/\*.*?\*/", "", (tmp_path / "orthanc.json").read_text(), flags=re.MULTILINE
    )
    (scripts,) = re.findall(r'"LuaScripts" : (\[[^]]*\])', text)
    assert json.loads(scripts) == ["/etc/orthanc/covid-xray.lua"]
