"""What becomes of a connection, seen by a client with a socket of its own."""

import asyncio
import io
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from app import connections
from app.connections import Protocol
from app.logs import make_formatter
from tests.integration.load import until

pytestmark = pytest.mark.anyio

UPLOAD = b"POST / HTTP/1.1\r\nHost: test\r\n"
CLOSE = b"Connection: close\r\n"
LENGTH = b"Content-Length: 4000000\r\n\r\n"
BODY = bytes(4_000_000)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = (b"10000\r\n" + bytes(0x10000) + b"\r\n") * 60 + b"0\r\n\r\n"
REFUSED = b"no: " + b"because" * 1000


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run tests with both loops: uvicorn takes uvloop where it is installed."""
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


@dataclass
class Service:
    """A server in this process."""

    port: int
    state: ServerState

    async def run(self, client: Callable[[socket.socket], bytes]) -> bytes:
        """Let a client do what it does, and give what it has received."""
        return await asyncio.to_thread(self._run, client)

    def _run(self, client: Callable[[socket.socket], bytes]) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            return client(connection)

    async def is_left(self, seconds: float = 5) -> None:
        """Wait for the end of all connections."""
        await asyncio.to_thread(until, lambda: not self.state.connections, seconds)


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[Service]:
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, ws="none")
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Protocol(config, state, {}), "127.0.0.1", 0)
    try:
        yield Service(server.sockets[0].getsockname()[1], state)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer before the upload is there."""
    await Response(REFUSED, 413)(scope, receive, send)


async def read(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer when it is."""
    await Response(str(len(await Request(scope, receive).body())))(scope, receive, send)


def receive_all(connection: socket.socket) -> bytes:
    """Read to the end; a reset is an error."""
    return b"".join(iter(partial(connection.recv, 2**16), b""))


def upload(connection: socket.socket, head: bytes, body: bytes) -> bytes:
    """Send all, and read then, as most clients do."""
    connection.sendall(head)
    time.sleep(0.2)  # it is answered meanwhile
    connection.sendall(body)
    return receive_all(connection)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (UPLOAD + CLOSE + LENGTH, BODY),
        (UPLOAD + CLOSE + CHUNKED, CHUNKS),
        (b"POST / HTTP/1.0\r\n" + LENGTH, BODY),
    ],
    ids=["length", "chunked", "HTTP/1.0"],
)
async def test_a_client_that_is_refused_and_sends_on_reads_its_answer(
    head: bytes, body: bytes
) -> None:
    async with serving(refuse) as service:
        received = await service.run(partial(upload, head=head, body=body))
        assert received.startswith(b"HTTP/1.1 413 ")
        assert received.endswith(REFUSED)
        await service.is_left()


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"no HTTP\r\n\r\n" + BODY, 400), (UPLOAD + b"A: " + bytes([97]) * 4_000_000, 431)],
    ids=["no HTTP", "too large"],
)
async def test_what_is_not_read_is_refused_with_an_id_that_the_log_has_too(
    sent: bytes, status: int, log: Callable[[], list[dict[str, Any]]]
) -> None:
    async with serving(read) as service:
        received = await service.run(partial(upload, head=sent[:100], body=sent[100:]))
    head, _, body = received.partition(b"\r\n\r\n")
    assert json.loads(body)["status"] == status
    (request_id,) = re.findall(r"(?i)^x-request-id: ([0-9a-f]{32})\r$", head.decode(), re.MULTILINE)
    assert re.search(rb"(?i)\r\ndate: \w{3}, .* GMT\r\n", head)
    (event,) = (each for each in log() if each["event"] == "request")
    assert (event["request_id"], event["status"]) == (request_id, status)


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(make_formatter("json"))
    logger = logging.getLogger("app.access")
    level = logger.level
    logger.setLevel(logging.INFO)  # also forgets what loggers have found out of levels before
    logger.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(level)


def send_for_ever(connection: socket.socket) -> bytes:
    connection.sendall(UPLOAD + CLOSE + CHUNKED)
    received = receive_all(connection)
    with suppress(ConnectionError):
        while True:
            connection.sendall(b"1\r\nx\r\n")
            time.sleep(0.01)
    return received


async def test_a_client_that_never_stops_sending_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.5)
    async with serving(refuse) as service:
        began = time.monotonic()
        received = await service.run(send_for_ever)
        assert received.endswith(REFUSED)
        assert 0.4 < time.monotonic() - began < 5


async def test_where_an_answer_breaks_off_the_connection_ends_at_once() -> None:
    async def fail(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    async with serving(fail) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(UPLOAD + LENGTH)
            await asyncio.sleep(0.1)
            await service.is_left(2)


async def test_a_client_that_never_stops_sending_does_not_hold_up_a_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "LAST_HEAD_TIMEOUT_S", 0.2)
    async with serving(refuse) as service:
        client = asyncio.create_task(service.run(send_for_ever))
        await asyncio.sleep(0.3)
        (connection,) = service.state.connections
        assert isinstance(connection, Protocol)
        connection.shutdown()
        await service.is_left(2)
        assert (await client).endswith(REFUSED)


async def test_after_the_rest_of_a_refused_upload_the_connection_waits_as_usual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.5)

    def client(connection: socket.socket) -> bytes:
        connection.sendall(UPLOAD + LENGTH)
        time.sleep(0.2)
        connection.sendall(BODY)
        time.sleep(1)
        connection.sendall(UPLOAD + CLOSE + b"Content-Length: 0\r\n\r\n")
        return receive_all(connection)

    async with serving(refuse) as service:
        received = await service.run(client)
    assert received.count(b"HTTP/1.1 413 ") == 2
    assert received.endswith(REFUSED)


async def test_after_an_upload_that_came_early_the_connection_waits_as_usual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second began to come while the first was answered."""
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.5)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.2)
        await read(scope, receive, send)

    def client(connection: socket.socket) -> bytes:
        connection.sendall(UPLOAD + b"Content-Length: 0\r\n\r\n")
        connection.sendall(UPLOAD + b"Content-Length: 2\r\n\r\n1")
        time.sleep(0.4)
        connection.sendall(b"2")
        time.sleep(1.5)
        connection.sendall(UPLOAD + CLOSE + b"Content-Length: 0\r\n\r\n")
        return receive_all(connection)

    async with serving(slow) as service:
        received = await service.run(client)
    assert received.count(b"HTTP/1.1 200 ") == 3


async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "WRITE_TIMEOUT_S", 0.3)
    async with serving(Response(bytes(20_000_000))) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(UPLOAD + CLOSE + b"Content-Length: 0\r\n\r\n")
            await asyncio.sleep(0.1)
            assert service.state.connections
            await service.is_left()


async def test_a_client_that_takes_its_answer_slowly_gets_it_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "WRITE_TIMEOUT_S", 0.3)
    length = 10_000_000

    def client(connection: socket.socket) -> bytes:
        connection.sendall(UPLOAD + CLOSE + b"Content-Length: 0\r\n\r\n")
        received = b""
        while part := connection.recv(200_000):
            received += part
            time.sleep(0.04)
        return received

    async with serving(Response(bytes(length))) as service:
        assert (await service.run(client)).endswith(b"\r\n\r\n" + bytes(length))


# --- what a head may ask for, and how a body may be framed

GET = b"GET / HTTP/1.1\r\nHost: smuggled\r\n\r\n"
WISH = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
FRAMED = {
    "length": b"Content-Length: %d\r\n\r\n%b" % (len(GET), GET),
    "chunked": CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GET), GET),
}
LAST = UPLOAD + CLOSE + b"X: \t 5 a\t \r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body, and with a header."""
    request = Request(scope, receive)
    headers = {"x-got": repr(request.headers.get("x"))}
    await Response(await request.body(), headers=headers)(scope, receive, send)


def send_pieces(connection: socket.socket, pieces: list[bytes]) -> bytes:
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(0.03)
    return receive_all(connection)


@pytest.mark.parametrize("wish", [WISH, WISH.replace(b"h2c", b"websocket")])
@pytest.mark.parametrize("framed", FRAMED.values(), ids=FRAMED)
@pytest.mark.parametrize("cut", [0, 20, len(UPLOAD + WISH), len(UPLOAD + WISH) + 40, -1])
async def test_a_wish_for_another_protocol_leaves_a_body_a_body(
    wish: bytes, framed: bytes, cut: int
) -> None:
    """One that looks like a request is not taken for one."""
    sent = UPLOAD + wish + framed
    async with serving(echo) as service:
        pieces = [sent[:cut], sent[cut:] + LAST]
        received = await service.run(partial(send_pieces, pieces=pieces))
    assert received.count(b"HTTP/1.1 200 ") == 2
    assert received.count(GET) == 1


async def test_an_upload_with_such_a_wish_may_be_the_last_of_its_connection() -> None:
    sent = UPLOAD + WISH.replace(b": U", b": close, U") + FRAMED["length"]
    async with serving(echo) as service:
        received = await service.run(partial(send_pieces, pieces=[sent]))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n\r\n" + GET)


async def test_what_comes_together_with_such_a_wish_is_answered_too() -> None:
    async with serving(echo) as service:
        pieces = [(UPLOAD + WISH + b"\r\n") * 3 + LAST]
        received = await service.run(partial(send_pieces, pieces=pieces))
    assert received.count(b"HTTP/1.1 200 ") == 4


FORBIDDEN = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "no host, wish": b"GET / HTTP/1.1\r\n" + WISH + b"\r\n",
    "hosts": UPLOAD + b"HOST: test\r\n\r\n",
    "tunnel": b"CONNECT / HTTP/1.1\r\nHost: test\r\n\r\n",
    "coding": UPLOAD + b"Transfer-Encoding: xchunked\r\n\r\n",
    "negative": UPLOAD + CHUNKED + b"-1\r\n",
    "line feeds": UPLOAD + CHUNKED + b"1\na\n0\n\n",
    "too long": UPLOAD + CHUNKED + b"1\r\naa0\r\n\r\n",
}


@pytest.mark.parametrize("sent", FORBIDDEN.values(), ids=FORBIDDEN)
async def test_what_rfc_9112_forbids_is_a_400_and_the_last_of_its_connection(sent: bytes) -> None:
    async with serving(echo) as service:
        received = await service.run(partial(send_pieces, pieces=[sent + GET]))
        await service.is_left()
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 400 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["status"] == 400


async def test_a_request_of_http_1_0_needs_no_host() -> None:
    async with serving(echo) as service:
        received = await service.run(partial(send_pieces, pieces=[b"GET / HTTP/1.0\r\n\r\n"]))
    assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("before", [b"", UPLOAD + b"\r\n"], ids=["alone", "second"])
async def test_a_bad_body_is_answered_but_not_in_place_of_an_earlier_request(before: bytes) -> None:
    left = asyncio.Event()

    async def wait(_: Scope, receive: Receive, __: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with serving(wait) as service:
        pieces = [before + UPLOAD + CHUNKED + b"1\r\na\r\n", b"-1\r\n"]
        received = await service.run(partial(send_pieces, pieces=pieces))
        if not before:
            await asyncio.wait_for(left.wait(), 5)
    assert received[:13] == (b"" if before else b"HTTP/1.1 400 ")


@pytest.mark.parametrize("trailer", [b"A: ", b"A"], ids=["value", "name"])
async def test_trailers_without_an_end_are_too_large_as_a_head_is(trailer: bytes) -> None:
    pieces = [UPLOAD + CHUNKED + b"1\r\na\r\n0\r\n", trailer, bytes([97]) * 400_000]
    async with serving(echo) as service:
        received = await service.run(partial(send_pieces, pieces=pieces))
    assert received.startswith(b"HTTP/1.1 431 ")


async def test_blanks_around_a_header_are_not_of_its_value() -> None:
    async with serving(echo) as service:
        received = await service.run(partial(send_pieces, pieces=[LAST]))
    assert b"\r\nx-got: '5 a'\r\n" in received
