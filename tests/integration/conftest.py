import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fakes
from tests.integration.ray_nodes import Either, RayServer
from tests.integration.server import Server


@pytest.fixture(scope="module")
def server(tiny_store: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("COVID_XRAY_")]:
            patch.delenv(name)
        server = Server({"model_store": str(tiny_store)})
    yield server.wait_until_ready()
    server.client.close()
    server.stop()


@pytest.fixture(scope="session")
def ray_server(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    """The service on two Ray nodes; its store is its own, and what it serves is pinned."""
    pytest.importorskip("ray", reason="needs the extra `scale`")
    store = tmp_path_factory.mktemp("cluster")
    shutil.copytree(tiny_store / fakes.NAME, store / fakes.NAME)
    settings = {"model_store": str(store), "model_version": "1", "log_level": "warning"}
    server = RayServer(2, settings, max_constructor_retry_count=1, health_check_period_s=0.5)
    try:
        yield server.wait_until_ready()
    finally:
        server.stop()


@pytest.fixture(scope="module", params=["single", "ray"])
def either_server(request: pytest.FixtureRequest) -> Either:
    """The service on one machine, and on a cluster: it answers the same."""
    found: Either = request.getfixturevalue("server" if request.param == "single" else "ray_server")
    return found
