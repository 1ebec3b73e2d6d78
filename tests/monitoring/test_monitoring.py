"""Prometheus' and Grafana's files: that they are valid, and about what the service really tells."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from app.main import create_app
from app.settings import Settings
from tests import fakes
from tests.app.calls import asking
from tests.container import compose
from tests.fakes import FakeEngine, gray_png

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "covid-xray.json"
METRIC = re.compile(r"\b(?:covid_xray|process)_[a-z0-9_]+\b(?!:)")
RECORDED = re.compile(r"\bcovid_xray:[a-z0-9_:]+")


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((MONITORING / "rules.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    document = json.loads(DASHBOARD.read_text())
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """Give everything that Prometheus is asked by a rule or by the dashboard."""
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    (variable,) = json.loads(DASHBOARD.read_text())["templating"]["list"]
    yield variable["definition"]


def promtool(*arguments: object) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool (Debian's package prometheus)")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_one_that_prometheus_reads() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")


@pytest.mark.parametrize("name", ["requests", "images"])
def test_alerts_are_raised_when_they_should_be_and_only_then(name: str) -> None:
    promtool("test", "rules", Path(__file__).with_name(f"{name}.test.yml"))


def test_every_alert_is_tested_and_told_of_in_the_operators_guide() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.test.yml"))
    guide = (ROOT / "docs" / "operations.md").read_text()
    names = {rule["alert"] for rule in rules() if "alert" in rule}
    assert names == set(re.findall(r"alertname: (\w+)", tests))
    assert names == set(re.findall(r"^### (CovidXray\w+)$", guide, re.MULTILINE))
    for rule in rules():
        if "alert" in rule:
            anchor = f"docs/operations.md#{rule['alert'].lower()}"
            assert rule["annotations"]["runbook"] == anchor


@pytest.fixture
async def samples(tmp_path: Path) -> list[Sample]:
    """Give all that the service shows when it has answered something."""
    fakes.write_fake_release(tmp_path)
    settings = Settings(model_store=tmp_path, threads=1)
    app = create_app(settings, fakes.loader(FakeEngine()))
    async with asking(app) as client:
        await client.post("/v1/predictions", files={"file": gray_png()})
        await client.post("/v1/predictions/batch", files={"files": gray_png()})
        page = (await client.get("/metrics")).text
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


@pytest.mark.anyio
async def test_every_metric_that_is_asked_for_is_told_by_the_service(
    samples: list[Sample],
) -> None:
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(asked) > 15
    assert asked <= {sample.name for sample in samples}


@pytest.mark.anyio
async def test_every_metric_of_the_service_is_in_the_operators_guide(samples: list[Sample]) -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name, *_ in samples}
    assert {name for name in families if f"`{name}" not in guide} == set()


def test_every_recorded_series_that_is_asked_for_is_recorded() -> None:
    asked = {name for expression in expressions() for name in RECORDED.findall(expression)}
    assert asked == {rule["record"] for rule in rules() if "record" in rule}


def test_every_panel_asks_the_data_source_that_is_provisioned() -> None:
    folder = MONITORING / "grafana" / "provisioning" / "datasources"
    (source,) = yaml.safe_load((folder / "prometheus.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    ids = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(set(ids)) == len(ids)


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_compose_starts_monitoring_only_when_asked_and_cannot_change_its_files(name: str) -> None:
    service = compose.read_service(name)
    assert service["profiles"] == ["monitoring"]
    assert re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", service["image"])
    mounts = [volume for volume in service["volumes"] if isinstance(volume, dict)]
    assert mounts
    for mount in mounts:
        assert mount["read_only"] is True
        assert (ROOT / mount["source"]).is_dir()


def test_prometheus_asks_the_service_where_compose_runs_it() -> None:
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == "covid-xray"
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"service:{compose.read_service()['environment']['COVID_XRAY_PORT']}"
