import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fakes
from tests.integration.server import Server, Start

LONG = [
    "test_end_to_end.py",
    "test_bulk_on_ray.py",
    "test_fit.py",
    "test_walkthrough.py",
    "test_cluster.py",  # not beside the other with Ray
    "test_page_in_browser.py",
    "test_crossval.py",
    "test_continuation.py",
]
"""Files that take a minute and more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that workers beside each other end at about the same time."""
    assert len({item.nodeid for item in items}) == len(items), "of tests of one name, one would run"
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


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
