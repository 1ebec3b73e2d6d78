"""What a connection can do to a real server, byte by byte."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from app.connections import HEAD_TIMEOUT_S
from tests.fakes import gray_png
from tests.integration.server import Server

HEAD = b"POST /v1/predictions HTTP/1.1\r\nHost: test\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=a\r\n"


@pytest.fixture
def connection(server: Server) -> Iterator[socket.socket]:
    with connect(server) as connection:
        yield connection


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.client.base_url.port or 0), timeout=30)


def answer(connection: socket.socket) -> tuple[int, dict[str, str], dict[str, object]]:
    """Read until the connection is closed: the status, the headers and the problem."""
    received = b""
    while part := connection.recv(65536):
        received += part
    head, _, body = received.decode().partition("\r\n\r\n")
    line, *lines = head.splitlines()
    headers = dict(each.lower().split(": ", 1) for each in lines)
    return int(line.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"A: b\r\n" * 60_000,
        HEAD + b"A: " + b"b" * 300_000 + b"\r\n",
        HEAD + b"A" * 300_000,
        b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n",
        HEAD + b"A: " + b"b" * 66_000 + b"\r\n\r\n",
        HEAD + b"A:\r\n" * 30_000 + b"\r\n",
    ],
    ids=["headers", "long header", "long name", "long path", "finished", "many, finished"],
)
def test_a_head_that_is_too_large_is_a_431(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head)
    status, headers, problem = answer(connection)
    assert (status, problem["status"]) == (431, 431)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "close"


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"no HTTP\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + FORM + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"GET /health/live HTTP/1.1\r\n\r\n",
    ],
    ids=["TLS", "text", "negative", "overflow", "two framings", "two lengths", "chunk", "no host"],
)
def test_what_is_no_http_is_a_problem_too(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head)
    status, headers, problem = answer(connection)
    assert (status, problem["status"]) == (400, 400)
    assert headers["content-type"] == "application/problem+json"


def test_an_upload_of_a_client_that_would_like_http_2_is_answered(server: Server) -> None:
    """`curl --http2` and Java's `HttpClient` ask so in their first request."""
    wish = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    files = {"file": gray_png()}
    response = server.client.post("/v1/predictions", files=files, headers=wish)
    assert response.status_code == 200


def test_a_head_of_usual_size_is_read(server: Server) -> None:
    headers = {f"x-{number}": "a" * 1000 for number in range(50)}
    assert server.client.get("/health/live", headers=headers).status_code == 200


def test_a_body_without_any_length_is_malformed(connection: socket.socket) -> None:
    connection.sendall(HEAD + FORM + b"Connection: close\r\n\r\n")
    status, _, problem = answer(connection)
    assert (status, problem["code"]) == (400, "malformed-request")


def test_who_sends_more_than_is_taken_reads_the_whole_answer(connection: socket.socket) -> None:
    """Its connection is to be closed, as behind a balancer, and it reads when it has sent all."""
    length = 70_000_000
    head = FORM + f"Connection: close\r\nContent-Length: {length}\r\n\r\n".encode()
    connection.sendall(HEAD + head)
    connection.sendall(bytes(length))
    status, headers, problem = answer(connection)
    assert (status, problem["status"]) == (413, 413)
    assert headers["connection"] == "close"


def test_what_does_not_go_on_is_cut_off(server: Server) -> None:
    upload = HEAD + FORM + b"Content-Length: 100000000000\r\n\r\n"  # is answered at once
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(4)]
        start = time.monotonic()
        for connection, sent in zip(connections, (b"", HEAD, HEAD + FORM, upload), strict=True):
            connection.sendall(sent)
        assert connections[-1].recv(65536).startswith(b"HTTP/1.1 413 ")
        drip(connections[-1])
        assert time.monotonic() - start < HEAD_TIMEOUT_S + 5
        for connection in connections[:-1]:
            assert connection.recv(100) == b""
        assert time.monotonic() - start > HEAD_TIMEOUT_S - 1


def drip(connection: socket.socket) -> None:
    """Send a byte now and then, until the server has had enough."""
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(300):
            connection.sendall(b"x")
            time.sleep(0.1)


def test_a_connection_serves_one_request_after_another(connection: socket.socket) -> None:
    get = b"GET /health/live HTTP/1.1\r\nHost: test\r\n"
    connection.sendall((get + b"\r\n") * 3 + get + b"Connection: close\r\n\r\n")
    received = b""
    while part := connection.recv(65536):
        received += part
    assert len(re.findall(rb"HTTP/1.1 200 OK", received)) == 4


def test_after_all_this_the_server_still_answers(server: Server) -> None:
    assert server.predict(gray_png()).status_code == 200


def test_an_answer_comes_in_one_piece(connection: socket.socket) -> None:
    """So that a process that is killed leaves none of which a balancer has passed on a half."""
    for _ in range(300):
        connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: test\r\n\r\n")
        head, _, body = connection.recv(2**20).partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}\r\n".encode() in head
        assert body


@pytest.mark.parametrize("target", ["/", "/v1/models", "/health/ready"])
def test_a_head_that_nothing_comes_after_is_sent(connection: socket.socket, target: str) -> None:
    connection.sendall(f"HEAD {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    assert connection.recv(2**20).startswith(b"HTTP/1.1 ")


def test_who_waits_for_a_100_is_told_to_continue(connection: socket.socket) -> None:
    head = HEAD + FORM + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head)
    assert connection.recv(2**20) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"no")
    assert connection.recv(2**20).startswith(b"HTTP/1.1 400 ")
