"""Plain replicas of the service behind HAProxy, as `deploy/haproxy` says."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.app.calls import check_problem
from tests.fakes import gray_png
from tests.integration.balancer import CONFIG, HAPROXY, balanced
from tests.integration.load import Load, until
from tests.integration.server import Server, Start

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="needs HAProxy")


@pytest.fixture
def replicas(start: Start, tiny_store: Path) -> list[Server]:
    servers = [start(model_store=tiny_store, threads=1, log_level="warning") for _ in range(2)]
    return [server.wait_until_ready() for server in servers]


@pytest.fixture
def client(replicas: list[Server], tmp_path: Path) -> Iterator[httpx.Client]:
    ports = [server.client.base_url.port or 0 for server in replicas]
    with (
        balanced(tmp_path, ports) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        until(lambda: is_ready(client))
        yield client


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_haproxy_takes_the_shipped_configuration() -> None:
    assert HAPROXY is not None
    command = [HAPROXY, "-c", "-f", str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize("file", sorted((CONFIG.parent / "errors").iterdir()), ids=str)
def test_what_haproxy_says_itself_is_a_problem(file: Path) -> None:
    head, _, body = file.read_bytes().rpartition(b"\r\n\r\n")
    problem = json.loads(body)
    assert problem["code"]
    if head:
        assert f"Content-Length: {len(body)}".encode() in head
        assert head.startswith(f"HTTP/1.1 {problem['status']} ".encode())


def test_a_replica_that_is_stopped_under_load_loses_no_request_and_one_that_is_killed_gives_503s(
    client: httpx.Client, replicas: list[Server]
) -> None:
    with Load(client.base_url) as load:
        time.sleep(1)
        replicas[0].process.terminate()
        assert replicas[0].process.wait(60) == 0
        answered = load.met[200]
        until(lambda: load.met[200] > answered + 20)
    assert load.met.keys() == {200}, load.met
    assert replicas[1].predict(gray_png()).status_code == 200
    with Load(client.base_url, 2) as load:
        until(lambda: load.met[200] > 5)
        replicas[1].process.send_signal(signal.SIGKILL)
        until(lambda: load.met[503] > 2)
        load.give_up()
    assert load.met.keys() == {200, 503}, load.met
    check_problem(client.get("/health/ready"), 503, "not-ready")


def test_a_body_that_is_announced_as_too_large_and_metrics_of_one_replica_are_refused(
    client: httpx.Client,
) -> None:
    headers = {"content-length": str(2**26 + 1), "content-type": "application/dicom"}
    refused = client.post("/v1/predictions", content=iter([b"a"]), headers=headers)
    check_problem(refused, 413, "payload-too-large")
    check_problem(client.get("/metrics"), 404, "not-found")
