"""Of what is uploaded, nothing is left: a marker in images is looked for wherever it could be."""

import io
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from uuid import uuid4

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from tests import fakes
from tests.integration.server import Server, Start

ROOT = Path(__file__).parents[2]
MARKER = f"patient-{uuid4().hex}"
SIDE = 2300
CALLS = {"/v1/predictions": "file", "/v1/predictions/batch": "files", "/v1/heatmaps": "file"}

# What a service would do that keeps Starlette's own way with large files.
WITH_TEMPORARY_FILES = """
from app import bodies
bodies._InMemoryParser.spool_max_size = 1000
"""


def marked_images() -> dict[str, bytes]:
    """Make files of about 5 MB that say the marker in their pixels and beside them."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    marker = np.frombuffer(MARKER.encode(), np.uint8)
    pixels[::50, : len(marker)] = marker
    texts = PngImagePlugin.PngInfo()
    texts.add_text("PatientName", MARKER)
    png = stored(pixels, texts)
    jpeg = fakes.encode(pixels, "JPEG", quality=95, comment=MARKER.encode())
    at = len(png) // 2
    assert len(png) > 5_000_000
    assert png.count(MARKER.encode()) > 40
    return {
        "good.png": png,
        "good.jpg": jpeg,
        "corrupt.png": png[:at] + bytes(100) + png[at + 100 :],
        "cut-off.png": png[:at],
        "cut-off.jpg": jpeg[:-5000],
        "text.txt": MARKER.encode() * 100_000,
        "animated.png": animated(pixels, texts),
    }


def stored(pixels: NDArray[np.uint8], texts: PngImagePlugin.PngInfo) -> bytes:
    """Write a PNG that holds its pixels as they are; of those with a palette none is filtered."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.putpalette(bytes(value for value in range(256) for _ in range(3)))
    image.save(buffer, "PNG", compress_level=0, pnginfo=texts)
    return buffer.getvalue()


def animated(pixels: NDArray[np.uint8], texts: PngImagePlugin.PngInfo) -> bytes:
    frame = Image.fromarray(255 - pixels[:100])
    return fakes.encode(pixels[:100], save_all=True, append_images=[frame], pnginfo=texts)


def upload(server: Server, path: str, field: str, name: str, data: bytes) -> httpx.Response:
    """Send a file piece by piece, with the marker wherever a sender could write it."""
    file = (f"{MARKER}-{name}", data, "image/png", {"X-Patient": MARKER})
    request = server.client.build_request("POST", path, files={field: file})
    content = request.read()
    pieces = (content[at : at + 2**18] for at in range(0, len(content), 2**18))
    headers = {"content-type": request.headers["content-type"], "x-patient": MARKER}
    return server.client.post(path, params={"patient": MARKER}, content=pieces, headers=headers)


def upload_partly(server: Server, data: bytes) -> None:
    """Send half of what was announced, and go away."""

    def half() -> Iterator[bytes]:
        yield b'--a\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        yield data[: len(data) // 2]
        raise ConnectionAbortedError

    headers = {"content-type": "multipart/form-data; boundary=a"}
    with suppress(ConnectionAbortedError):
        server.client.post("/v1/predictions", content=half(), headers=headers)


def upload_all(server: Server) -> list[httpx.Response]:
    """Send every image to every call, several at the same time."""
    images = marked_images()
    with ThreadPoolExecutor(6) as pool:
        jobs = [
            pool.submit(upload, server, *call, *image)
            for call in CALLS.items()
            for image in images.items()
        ]
        pool.submit(upload_partly, server, images["good.png"]).result()
        return [job.result() for job in jobs]


def holds_marker(path: Path) -> bool:
    try:
        return S_ISREG(path.stat().st_mode) and MARKER.encode() in path.read_bytes()
    except OSError:  # it was closed meanwhile
        return False


@contextmanager
def watched(server: Server, home: Path) -> Iterator[set[str]]:
    """Collect every file that holds the marker while it can be seen, also such without a name."""
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    found: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            for path in (*descriptors.iterdir(), *home.rglob("*")):
                if holds_marker(path):
                    found.add(path.name if path.parent != descriptors else "open file")

    with ThreadPoolExecutor(1) as pool:
        watch = pool.submit(look)
        try:
            yield found
        finally:
            done.set()
            watch.result()


def pages(server: Server) -> Iterator[str]:
    """Every page that the service has, with its headers."""
    document = server.client.get("/openapi.json").json()
    described = [path for path, operations in document["paths"].items() if "get" in operations]
    for path in (*described, "/docs", "/openapi.json", "/metrics"):
        response = server.client.get(path.replace("{version}", "1"))
        yield f"{response.headers} {response.text}"


def temporary_files() -> set[Path]:
    """What is in the folders that every program may write to."""
    return {each for place in ("/tmp", "/var/tmp", "/dev/shm") for each in Path(place).iterdir()}  # noqa: S108 -- to look only


def test_nothing_of_an_upload_is_left_in_logs_pages_or_files(
    start: Start, tiny_store: Path, tmp_path: Path
) -> None:
    before = temporary_files()
    options = {"home": tmp_path, "path": ROOT, "model_store": tiny_store, "log_level": "debug"}
    server = start(**options, acceptance="warn").wait_until_ready()
    with watched(server, tmp_path) as found:
        responses = upload_all(server)
        said = list(pages(server))
    assert {response.status_code for response in responses} >= {200, 415, 422}
    assert len([response for response in responses if response.status_code == 200]) >= 10
    assert MARKER not in "".join(said)
    assert not [each for each in responses if MARKER.encode() in each.content]
    assert MARKER not in "".join(str(response.headers) for response in responses)
    _, log = server.stop()
    assert "Started server process" in log
    assert MARKER not in log
    assert not found
    written = [*tmp_path.rglob("*"), *(temporary_files() - before)]
    assert not [path for path in written if holds_marker(path)]


def test_a_service_with_temporary_files_would_be_found_out(
    start: Start, tiny_store: Path, tmp_path: Path
) -> None:
    modules, home = tmp_path / "modules", tmp_path / "home"
    modules.mkdir()
    home.mkdir()
    (modules / "sitecustomize.py").write_text(WITH_TEMPORARY_FILES)
    path = f"{modules}{os.pathsep}{ROOT}"
    server = start(home=home, path=path, model_store=tiny_store).wait_until_ready()
    data = marked_images()["good.png"]
    with watched(server, home) as found:
        for _ in range(3):
            assert upload(server, "/v1/predictions", "file", "good.png", data).status_code == 200
    assert "open file" in found
