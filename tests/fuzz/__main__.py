"""Feed the service's readers with bytes that a fuzzer makes up, guided by what they reach.

`python -m tests.fuzz decode` reads images, `python -m tests.fuzz form` reads uploads, until it is
stopped or there is a finding: an error that is not of the tree, more than 10 s, more than 1 GB.
Options of libFuzzer may follow, such as `-max_total_time=600`.
"""

import argparse
import asyncio
import logging
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["PIL", "app", "pydicom", "python_multipart", "starlette"]):
    from starlette.requests import Request

    import app.imaging.dicom  # noqa: F401 -- the service imports it when a file comes
    from app.errors import CovidXrayError, InputError
    from app.imaging import Limits, decode
    from app.uploads import UploadLimits, UploadReader

from tests.app.test_dicom_hostile import seeds as dicoms
from tests.fakes import IdleService, encode, gray_png

MAX_PIXELS = 2**20
MAX_BYTES = 2**16
READER = UploadReader(UploadLimits(MAX_BYTES, 4, 5.0, 5.0, 2 * MAX_BYTES))
FORM = b'--a\r\nContent-Disposition: form-data; name="files"; filename="f"\r\n\r\nx\r\n'


def fuzz_decode(data: bytes) -> None:
    """Read an image; what is no image is an InputError."""
    try:
        radiograph = decode(data, Limits(max_pixels=MAX_PIXELS))
    except InputError:
        return
    assert radiograph.pixels.dtype == np.uint8
    assert radiograph.pixels.shape == (radiograph.height, radiograph.width)
    assert radiograph.width * radiograph.height <= MAX_PIXELS


def fuzz_form(data: bytes) -> None:
    """Read an upload: its content type up to a line's end, then its body."""
    content_type, _, body = data.partition(b"\n")
    with suppress(CovidXrayError):
        asyncio.run(_read(content_type, body))
    assert READER.memory.held == 0


async def _read(content_type: bytes, body: bytes) -> None:
    chunks = [body[at : at + 1000] for at in range(0, len(body), 1000)] or [b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    headers = [(b"content-type", b"multipart/form-data;" + content_type)]
    scope = {"type": "http", "method": "POST", "headers": headers, "app": IdleService()}
    async with READER.read(Request(scope, receive), "files", 4) as upload:
        assert sum(map(len, upload.files)) <= len(body)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:  # noqa: ARG001 -- libFuzzer's own
    """Change some bytes, and make a PNG's checksums right again: its decoder would stop there."""
    mutated: bytes = atheris.Mutate(data, max_size)
    return with_checksums(mutated)


def with_checksums(data: bytes) -> bytes:
    """Correct the checksum of every whole chunk of what begins like a PNG."""
    if not data.startswith(b"\x89PNG"):
        return data
    mended, at = bytearray(data), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 <= len(data):
            struct.pack_into(">I", mended, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def images() -> list[bytes]:
    """Make what the fuzzer starts from: an image of each form."""
    noise = np.random.default_rng(0).integers(0, 256, (66, 68, 4), np.uint8)
    gray, color = noise[..., 0], noise[..., :3]
    return [
        gray_png(),
        *(encode(each) for each in (color[::3], noise[::3], gray.astype(np.uint16) << 4)),
        *(encode(each, "JPEG", quality=30) for each in (gray, color)),
        encode(color, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        *dicoms(),
    ]


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "decode": (fuzz_decode, images()),
    "form": (fuzz_form, [b"boundary=a\n" + FORM * 2 + b"--a--\r\n", b"boundary=a;charset=x\n"]),
}


def main() -> None:
    """Run one target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    arguments, options = parser.parse_known_args()
    target, seeds = TARGETS[arguments.target]
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # as the service does
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            Path(corpus, str(number)).write_bytes(seed)
        limits = ["-timeout=10", "-rss_limit_mb=1024", f"-max_len={MAX_BYTES}"]
        extra = {"custom_mutator": mutate} if target is fuzz_decode else {}
        atheris.Setup([sys.argv[0], *limits, *options, corpus], target, **extra)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
