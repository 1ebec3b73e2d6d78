"""How a port is taken; `integration/test_server.py` starts whole processes."""

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvicorn
from fastapi import FastAPI

from app.errors import AddressUnavailable
from app.server import LeavingServer, bound
from app.service import InferenceService
from tests.integration.server import free_port


def test_a_port_is_taken_before_anybody_can_connect() -> None:
    with bound("127.0.0.1", free_port()) as (listener,):
        address = listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 5)
        listener.listen()
        socket.create_connection(address, 5).close()
        with pytest.raises(AddressUnavailable, match="address already in use"), bound(*address):
            pass
    with bound(*address):  # it was let go
        pass


def test_a_name_of_several_addresses_stands_for_those_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host in ("192.0.2.1", "127.0.0.1")  # the first is nobody's (RFC 5737)
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bound("two.test", port) as (listener,):
        assert listener.getsockname() == ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "cannot assign requested address"),
        ("::1%nowhere", "no such host"),
        ("a..b", "no such host"),
    ],
)
def test_an_address_that_is_not_there_is_told(host: str, reason: str) -> None:
    with pytest.raises(AddressUnavailable) as raised, bound(host, 8000):
        pass
    assert str(raised.value) == (
        "Expected a free port and an address of this machine in COVID_XRAY_PORT and "
        f"COVID_XRAY_HOST; received 8000 and {host}: {reason}."
    )


def test_who_is_late_to_listen_at_a_port_that_both_took_is_told(
    app_of: Callable[..., FastAPI],
) -> None:
    port = free_port()
    config = uvicorn.Config(app_of(), port=port, lifespan="off", log_config=None)

    async def serve(sockets: list[socket.socket]) -> None:
        service = InferenceService.__new__(InferenceService)  # which nobody asks
        await LeavingServer(config, service, 0).serve(sockets)

    with bound("127.0.0.1", port) as (first,), bound("127.0.0.1", port) as second:
        first.listen()
        with (
            asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
            pytest.raises(AddressUnavailable, match="address already in use"),
        ):
            runner.run(serve(second))
