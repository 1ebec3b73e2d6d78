from pathlib import Path

import pytest
from prometheus_client import generate_latest

from app.metrics import Metrics, memory_limit, merge

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
