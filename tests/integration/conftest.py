import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import gray_png
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of six files, of which one is no X-ray."""
    folder = tmp_path / "xrays"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(gray_png(40 * number))
    (folder / "3.png").write_bytes(b"text")
    return folder
