import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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
