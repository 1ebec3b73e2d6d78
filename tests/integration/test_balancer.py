"""Plain replicas of the service behind HAProxy, as `deploy/haproxy` says."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.app.calls import check_problem
from tests.fakes import gray_png
from tests.integration.balancer import CONFIG, HAPROXY, balanced
from tests.integration.load import CLIENTS, Load, until
from tests.integration.server import Server, Start, free_port

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="needs HAProxy")


@pytest.fixture
def replicas(start: Start, tiny_store: Path) -> list[Server]:
    servers = [start(model_store=tiny_store, threads=1, log_level="warning") for _ in range(2)]
    return [server.wait_until_ready() for server in servers]


@pytest.fixture
def client(replicas: list[Server], tmp_path: Path) -> Iterator[httpx.Client]:
    ports = [server.client.base_url.port or 0 for server in replicas]
    with balanced(tmp_path, ports) as client:
        until(lambda: is_ready(client))
        yield client


@contextmanager
def held(port: int) -> Iterator[None]:
    """Keep a port that nobody listens on: no other test's server gets it, and this test's load."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        yield


def is_ready(client: httpx.Client) -> bool:
    return is_listening(client) and client.get("/health/ready").status_code == 200


def is_listening(client: httpx.Client) -> bool:
    try:
        client.get("/metrics")
    except httpx.TransportError:
        return False
    return True


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
    assert problem["error"] == problem["detail"]  # for clients of /v2
    if head:
        assert f"Content-Length: {len(body)}".encode() in head
        assert head.startswith(f"HTTP/1.1 {problem['status']} ".encode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_replica_that_ends_under_load_loses_no_request_and_stopped_in_order_fails_none(
    client: httpx.Client, replicas: list[Server], number: signal.Signals
) -> None:
    with Load(client.base_url) as load:
        until(lambda: load.met[200] > CLIENTS)
        replicas[0].process.send_signal(number)
        replicas[0].process.wait(60)
        with held(replicas[0].client.base_url.port or 0):
            answered = load.met[200]
            until(lambda: load.met[200] > answered + 4 * CLIENTS)
    assert load.lost == 0, load.met
    assert load.met.keys() <= ({200} if number == signal.SIGTERM else {200, 503}), load.met


def test_where_no_replica_is_left_haproxy_answers_as_the_service_would(tmp_path: Path) -> None:
    with balanced(tmp_path, (free_port(), free_port())) as client:
        until(lambda: is_listening(client))
        until(lambda: client.get("/health/ready").status_code == 503)
        response = client.post("/v1/predictions", files={"file": gray_png()})
        check_problem(response, 503, "not-ready")
        assert response.headers["retry-after"] == "1"
        check_problem(client.get("/metrics"), 404, "not-found")
        head = f"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {2**26 + 1}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 30) as connection:
            connection.sendall(head.encode())
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"payload-too-large" in answer
