"""Files for benchmarks: X-ray-like images made here, or a folder of real ones."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from app.imaging import Pixels, phantom

Inputs = dict[str, tuple[bytes, ...]]
"""Name of a kind of file → files of that kind."""

KINDS: dict[str, tuple[str, int, int]] = {
    "png-224": ("PNG", 224, 224),
    "png-1024": ("PNG", 1024, 1024),
    "jpeg-2048x2500": ("JPEG", 2048, 2500),
}
"""Name → format, width and height in pixels: a thumbnail, a public data set's, a detector's."""

FILES_A_KIND = 2
"""So that nothing gains from seeing the same bytes again and again."""

_QUANTUM_NOISE = 0.15  # its deviation over the root of the brightness, in gray levels
_JPEG_QUALITY = 90
_SUFFIXES = {".png", ".jpg", ".jpeg"}


def make_inputs(kinds: Iterable[str] = tuple(KINDS)) -> Inputs:
    """Make the files of some of `KINDS`; the same to the byte each time."""
    return {
        kind: tuple(make_file(*KINDS[kind], seed) for seed in range(FILES_A_KIND)) for kind in kinds
    }


def make_file(kind: str, width: int, height: int, seed: int) -> bytes:
    """Write an X-ray-like image as PNG or JPEG, about as large as a real one's file."""
    buffer = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if kind == "JPEG" else {}
    Image.fromarray(make_pixels(width, height, seed)).save(buffer, kind, **options)
    return buffer.getvalue()


def make_pixels(width: int, height: int, seed: int) -> Pixels:
    """Enlarge the phantom and add noise as X-ray quanta do, and a coarser one as tissue does.

    Without it, the files would be small and quickly decoded, as no X-ray's are.

    Returns:
        uint8 `[height, width]`.
    """
    rng = np.random.default_rng(seed)
    chest = Image.fromarray(phantom()[..., 0]).resize((width, height), Image.Resampling.BICUBIC)
    coarse = rng.normal(0, 4, (height // 4, width // 4)).astype(np.float32)
    tissue = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(chest, np.float32) + np.asarray(tissue)
    quanta = rng.standard_normal(pixels.shape, np.float32)
    pixels += quanta * _QUANTUM_NOISE * np.sqrt(np.clip(pixels, 1, None))
    rounded: Pixels = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return rounded


def read_inputs(folder: Path) -> Inputs:
    """Read a folder's PNG and JPEG files; each folder in it is a kind of its own.

    Raises:
        FileNotFoundError: There are none.
    """
    found: dict[str, list[bytes]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _SUFFIXES:
            kind = file.parent.relative_to(folder).as_posix()
            found.setdefault(folder.name if kind == "." else kind, []).append(file.read_bytes())
    if not found:
        raise FileNotFoundError(f"Expected PNG or JPEG files in {folder}; received none.")
    return {kind: tuple(files) for kind, files in found.items()}
