from collections.abc import Iterator

import pytest

from tests.integration.server import Server, Start


@pytest.fixture
def start() -> Iterator[Start]:
    servers = []

    def start(**environment: object) -> Server:
        servers.append(Server({key: str(value) for key, value in environment.items()}))
        return servers[-1]

    yield start
    for server in servers:
        server.client.close()
        server.process.kill()
        server.process.communicate()
