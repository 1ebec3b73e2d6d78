"""A real server under load: it is stopped, overloaded, given new releases, and made to hang."""

import shutil
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

import httpx
import psutil
import pytest

from tests import fakes
from tests.fakes import gray_png
from tests.integration.load import until
from tests.integration.server import Server, Start

CLIENTS = 16
QUIET = {"log_level": "warning"}  # nobody reads the log's pipe while there is load
HANGS = """
import threading
from app.engines import OpenVinoEngine

predict = OpenVinoEngine.predict

def hang(self, images, **options):
    if images.max() == 77:
        threading.Event().wait()
    return predict(self, images, **options)

OpenVinoEngine.predict = hang
"""


class Load:
    """Clients that ask again and again, and count what became of it.

    Args:
        server: Whom they ask.
        clients: How many at once.

    Attributes:
        answered: At least so many answers came until now.
    """

    def __init__(self, server: Server, clients: int = CLIENTS) -> None:
        self._url = server.client.base_url
        self._image = gray_png()
        self._done = Event()
        self.answered = 0
        self._pool = ThreadPoolExecutor(clients)
        self._clients = [self._pool.submit(self._ask) for _ in range(clients)]

    def stop(self) -> Counter[object]:
        """End, and give how often each status or way to fail was met."""
        self._done.set()
        self._pool.shutdown()
        return sum((client.result() for client in self._clients), Counter())

    def _ask(self) -> Counter[object]:
        met: Counter[object] = Counter()
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._done.is_set():
                try:
                    response = client.post("/v1/predictions", files={"file": self._image})
                except httpx.ConnectError:  # refused before it was sent: the server has left
                    return met
                except httpx.TransportError as error:
                    met[type(error).__name__] += 1
                    continue
                met[response.status_code] += 1
                self.answered += 1
                if response.status_code == 503:
                    check_refusal(response)
        return met


def check_refusal(response: httpx.Response) -> None:
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["code"] == "overloaded"


def serves(server: Server, version: int) -> bool:
    found: int = server.client.get("/health/ready").json()["version"]
    return found == version


def test_before_a_stop_readiness_fails_while_requests_are_answered(
    start: Start, tiny_store: Path
) -> None:
    server = start(model_store=tiny_store, leaving_s=2, **QUIET).wait_until_ready()
    server.process.terminate()
    until(lambda: server.client.get("/health/ready").status_code == 503)
    answer = server.predict(gray_png())
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    assert server.process.wait(60) == 0


@pytest.mark.parametrize("leaving_s", [0, 1])
def test_a_stop_under_load_loses_no_request(
    start: Start, tiny_store: Path, leaving_s: float
) -> None:
    server = start(model_store=tiny_store, leaving_s=leaving_s, **QUIET).wait_until_ready()
    load = Load(server)
    until(lambda: load.answered > 2 * CLIENTS)
    server.process.terminate()
    assert server.process.wait(60) == 0
    met = load.stop()
    assert met.keys() == {200}, met
    assert met[200] > CLIENTS


def test_clients_that_connected_before_a_stop_are_answered_after_it(
    start: Start, tiny_store: Path
) -> None:
    """One has sent nothing yet, one a part of its head, one has had an answer already."""
    server = start(model_store=tiny_store, leaving_s=0, **QUIET).wait_until_ready()
    port = server.client.base_url.port or 0
    clients = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
    request = b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
    clients[1].sendall(request[:20])
    clients[2].sendall(request)
    answer = b""
    while b"alive" not in answer:  # the head may come first
        answer += clients[2].recv(65536)
        assert answer
    server.process.terminate()
    until(lambda: not is_listening(port))
    for client, part in zip(clients, (request, request[20:], request), strict=True):
        client.sendall(part)
        answer = client.recv(65536).lower()
        assert answer.startswith(b"http/1.1 200")
        assert b"connection: close" in answer
        client.close()
    assert server.process.wait(60) == 0


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_beyond_its_places_requests_are_refused_in_good_form_and_memory_stays(
    start: Start, tiny_store: Path
) -> None:
    server = start(
        model_store=tiny_store, threads=1, queue_limit=16, max_batch=16, **QUIET
    ).wait_until_ready()
    process = psutil.Process(server.process.pid)
    first = Load(server, 100)
    time.sleep(2)
    before = process.memory_info().rss
    time.sleep(3)
    met = first.stop()
    assert met.keys() == {200, 503}, met
    assert process.memory_info().rss < 1.1 * before
    assert server.predict(gray_png()).status_code == 200


def test_new_releases_under_load_fail_no_request_and_leave_no_memory(
    start: Start, tiny_store: Path, tmp_path: Path
) -> None:
    """Each takes the place of the one before, which is removed then."""
    family = tmp_path / fakes.NAME
    shutil.copytree(tiny_store / fakes.NAME, family)
    server = start(model_store=tmp_path, follow_s=0.05, **QUIET).wait_until_ready()
    process = psutil.Process(server.process.pid)
    load = Load(server, 4)
    before = 0
    for version in range(2, 14):
        folder = shutil.copytree(family / str(version - 1), family / f".{version}")
        (folder / "manifest.json").unlink()
        fakes.write_manifest(folder.rename(family / str(version)))
        until(partial(serves, server, version))
        shutil.rmtree(family / str(version - 1))
        if version == 4:  # what is allocated once has been
            before = process.memory_info().rss
    after = process.memory_info().rss
    met = load.stop()
    assert met.keys() == {200}, met
    assert after < 1.1 * before


def test_a_bad_release_is_refused_while_the_old_one_goes_on_and_the_list_says_why(
    start: Start, tiny_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_store / fakes.NAME, tmp_path / fakes.NAME)
    server = start(model_store=tmp_path, follow_s=0.05).wait_until_ready()
    # Its hashes are right, but nothing can run it. It comes whole, or it would be refused twice.
    bad = fakes.write_fake_release(tmp_path / "elsewhere", 2)
    bad.rename(tmp_path / fakes.NAME / "2")

    def states() -> dict[int, str]:
        listed = server.client.get("/v1/models").json()["models"]
        return {entry["version"]: entry["state"] for entry in listed}

    until(lambda: states() == {1: "serving", 2: "refused"})
    reason = server.client.get("/v1/models/2").json()["reason"]
    assert "a SavedModel that OpenVINO reads" in reason
    assert str(tmp_path) not in reason
    assert server.predict(gray_png()).status_code == 200


def test_an_engine_that_hangs_ends_the_process_for_its_supervisor(
    start: Start, tiny_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    server = start(
        model_store=tiny_store, path=tmp_path, threads=2, hang_timeout_s=1
    ).wait_until_ready()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(server.predict, gray_png(77))
        until(lambda: server.client.get("/health/ready").status_code == 503)
        assert server.predict(gray_png()).status_code == 200  # the other thread still answers
        with pytest.raises(httpx.TransportError):
            lost.result()
    code, log = server.end()
    assert code == 70
    assert "hangs" in log
