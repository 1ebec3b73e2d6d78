import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fakes
from tests.integration.server import Server, Start


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("COVID_XRAY_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with one tiny release that every engine runs; tests must not change it."""
    pytest.importorskip("tensorflow", reason="writes a SavedModel")
    store = tmp_path_factory.mktemp("store")
    fakes.write_tiny_release(store)
    return store


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of X-rays beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("there are no X-rays at ../shared")
    return folder


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests with asyncio, as uvicorn does."""
    return "asyncio"


@pytest.fixture
def start() -> Iterator[Start]:
    servers = []

    def start(**environment: object) -> Server:
        servers.append(Server({key: str(value) for key, value in environment.items()}))
        return servers[-1]

    yield start
    for server in servers:
        server.client.close()
        server.kill()
