from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest

from app.metrics import Metrics, memory_limit, merge
from app.registry import Registry
from tests import fakes

MEMINFO = "MemTotal:       1024 kB\nMemFree:         512 kB\n"


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    return path


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_the_memory_limit_is_the_control_groups(tmp_path: Path, meminfo: Path, name: str) -> None:
    path = tmp_path / "cgroup" / name
    path.parent.mkdir(parents=True)
    path.write_text("65536\n")
    assert memory_limit(tmp_path / "cgroup", meminfo) == 65536


@pytest.mark.parametrize("content", ["max\n", "9223372036854771712\n"])
def test_without_a_limit_it_is_what_the_machine_has(
    tmp_path: Path, meminfo: Path, content: str
) -> None:
    (tmp_path / "memory.max").write_text(content)
    assert memory_limit(tmp_path, meminfo) == 2**20


def test_without_control_groups_it_is_what_the_machine_has(tmp_path: Path, meminfo: Path) -> None:
    assert memory_limit(tmp_path / "none", meminfo) == 2**20


def test_what_replicas_measured_stands_side_by_side() -> None:
    measured = {}
    for replica in ("a", "b"):
        metrics = Metrics(lambda: None, lambda: None)
        metrics.requests.labels("GET", "/metrics", "200").inc()
        measured[replica] = list(metrics.registry.collect())
    merged = merge(measured)
    labels = {"method": "GET", "route": "/metrics", "status": "200"}
    for replica in ("a", "b"):
        asked = labels | {"replica": replica}
        assert merged.get_sample_value("covid_xray_http_requests_total", asked) == 1
    assert generate_latest(merged).count(b"# TYPE covid_xray_http_requests_total counter") == 1


@pytest.mark.anyio
async def test_ready_is_what_the_probe_says_also_of_a_service_that_leaves(
    app_of: Callable[..., FastAPI],
) -> None:
    app = app_of()
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        assert "covid_xray_ready 1.0" in (await client.get("/metrics")).text
        app.state.service.leave("a service that is stopping")
        assert (await client.get("/health/ready")).status_code == 503
        assert "covid_xray_ready 0.0" in (await client.get("/metrics")).text


@pytest.mark.anyio
async def test_releases_that_should_be_served_and_are_refused_are_counted(
    app_of: Callable[..., FastAPI], tmp_path: Path
) -> None:
    app = app_of()
    fakes.write_fake_release(tmp_path, 2)
    folder = fakes.write_fake_release(tmp_path, 3)
    (folder / "saved_model.pb").write_bytes(b"changed")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        registry: Registry = app.state.service.registry
        assert "covid_xray_releases_refused 1.0" in (await client.get("/metrics")).text
        shown = (await client.get("/v1/models")).json()["models"]
        states = {3: "refused", 2: "serving", 1: "available"}
        assert {each["version"]: each["state"] for each in shown} == states
        fakes.write_manifest(folder)
        registry.refresh()
        assert "covid_xray_releases_refused 0.0" in (await client.get("/metrics")).text
