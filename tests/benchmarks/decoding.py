"""Pillow beside other decoders of PNG and JPEG that are installed, and Pillow's scaled decoding.

python -m tests.benchmarks.decoding [--images DIR] [--repeats 20]

Prints tables and writes `decoding.json` into `--out`. For JPEG, `draft` lets the decoder leave out
what a reduction to the model's input would average away: a table tells how much that changes the
input and, by the release, the probability.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from app.engines import Engine, create_engine
from app.imaging import SIZE, Pixels, to_model_input
from tests.benchmarks.figures import Spread, cell, table
from tests.benchmarks.machine import ROOT, describe, newest_release
from tests.benchmarks.xrays import KINDS, Inputs, make_inputs, read_inputs

Decoder = Callable[[bytes], Pixels]
"""From a file's bytes to uint8 `[height, width]`, gray."""

OUT = ROOT / "build" / "benchmarks"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder did with one kind of file.

    Attributes:
        decoder: Its name.
        kind: Of the files.
        milliseconds: Of one file.
        difference: Largest to Pillow's pixels, in gray levels; None where the size is another.
    """

    decoder: str
    kind: str
    milliseconds: Spread | None
    difference: int | None


@dataclass(frozen=True, slots=True)
class Drafted:
    """What scaled decoding does to one kind of JPEG.

    Attributes:
        kind: Of the files.
        width: Of the image that is decoded, in pixels.
        height: Of it.
        whole_ms: Milliseconds from a file to the model's input without it.
        drafted_ms: And with it.
        largest: Difference of the two inputs, in gray levels.
        mean: Difference, in gray levels.
        probability: Largest difference of the release's probability.
    """

    kind: str
    width: int
    height: int
    whole_ms: Spread | None
    drafted_ms: Spread | None
    largest: int
    mean: float
    probability: float


def pillow(file: bytes) -> Pixels:
    """Decode as the service does with gray images."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("L"))


def drafted(side: int, file: bytes) -> Pixels:
    """Decode a JPEG at the smallest of its scales (halves) whose sides are not below `side`."""
    image = Image.open(io.BytesIO(file))
    image.draft("L", (side, side))
    return np.asarray(image.convert("L"))


def opencv() -> Decoder:
    cv2 = import_module("cv2")
    return lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE)


def simplejpeg() -> Decoder:
    decode = import_module("simplejpeg").decode_jpeg
    return lambda file: decode(file, colorspace="GRAY")[..., 0]


def turbojpeg() -> Decoder:
    module = import_module("turbojpeg")
    decode = module.TurboJPEG().decode
    return lambda file: decode(file, pixel_format=module.TJPF_GRAY)[..., 0]


def pyvips() -> Decoder:
    read = import_module("pyvips").Image.new_from_buffer

    def decode(file: bytes) -> Pixels:
        image = read(file, "", access="sequential").colourspace("b-w")
        pixels: Pixels = image.extract_band(0).numpy()
        return pixels

    return decode


def imagecodecs() -> Decoder:
    module = import_module("imagecodecs")

    def decode(file: bytes) -> Pixels:
        if is_jpeg(file):
            gray: Pixels = module.jpeg8_decode(file, outcolorspace="GRAYSCALE")
            return gray
        pixels: Pixels = module.png_decode(file)
        return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))

    return decode


OTHERS: tuple[Callable[[], Decoder], ...] = (opencv, simplejpeg, turbojpeg, pyvips, imagecodecs)
SIDES = (SIZE, 2 * SIZE)
"""Of scaled decoding, in pixels: as small as the model's input allows, and with room to average."""

JPEG_ONLY = {"simplejpeg", "turbojpeg"}


def is_jpeg(file: bytes) -> bool:
    """Tell by the first bytes."""
    return file.startswith(b"\xff\xd8")


def find_decoders() -> tuple[dict[str, Decoder], list[str]]:
    """Load the decoders that are installed, Pillow first, and name those that are not."""
    found: dict[str, Decoder] = {"pillow": pillow}
    absent = []
    for load in OTHERS:
        try:
            found[load.__name__] = load()
        except (ImportError, OSError, RuntimeError):  # of the last two, a missing system library
            absent.append(load.__name__)
    return found, absent


def time_in_turns(
    works: Mapping[str, Callable[[bytes], object]], files: tuple[bytes, ...], repeats: int
) -> dict[str, Spread | None]:
    """Time each piece of work on each file in milliseconds, in turns, after one try of each."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for file in files:
            for name, work in works.items():
                start = time.perf_counter()
                work(file)
                if repeat:
                    found[name].append(1000 * (time.perf_counter() - start))
    return {name: Spread.of(values) for name, values in found.items()}


def difference(pixels: Pixels, other: Pixels) -> int | None:
    """Find the largest difference in gray levels; None where the sizes differ."""
    if pixels.shape != other.shape:
        return None
    return int(np.abs(pixels.astype(np.int16) - other).max())


def compare(
    kind: str, files: tuple[bytes, ...], decoders: Mapping[str, Decoder], repeats: int
) -> list[Decoded]:
    """Try every decoder on one kind of file."""
    jpeg = all(map(is_jpeg, files))
    able = {name: each for name, each in decoders.items() if jpeg or name not in JPEG_ONLY}
    milliseconds = time_in_turns(able, files, repeats)
    rows = []
    for name, decode in able.items():
        found = [difference(decode(file), pillow(file)) for file in files]
        known = [each for each in found if each is not None]
        worst = max(known) if len(known) == len(found) else None
        rows.append(Decoded(name, kind, milliseconds[name], worst))
    return rows


def compare_draft(
    kind: str, files: tuple[bytes, ...], side: int, engine: Engine, repeats: int
) -> Drafted:
    """Decode one kind of JPEG whole and scaled, to the model's input."""
    works: dict[str, Callable[[bytes], Pixels]] = {
        "whole": lambda file: to_model_input(pillow(file)),
        "drafted": lambda file: to_model_input(drafted(side, file)),
    }
    milliseconds = time_in_turns(works, files, repeats)
    whole, other = (np.stack([work(file) for file in files]) for work in works.values())
    distance = np.abs(whole.astype(np.int16) - other)
    one, two = (_probabilities(engine, images) for images in (whole, other))
    height, width = drafted(side, files[0]).shape
    return Drafted(
        kind=kind,
        width=width,
        height=height,
        whole_ms=milliseconds["whole"],
        drafted_ms=milliseconds["drafted"],
        largest=int(distance.max()),
        mean=float(distance.mean()),
        probability=float(np.abs(one - two).max()),
    )


def _probabilities(engine: Engine, images: Pixels) -> NDArray[np.float32]:
    """Ask one by one: a folder may hold more images than the memory a batch of them takes."""
    answers = [engine.predict(image[np.newaxis]).probabilities for image in images]
    return np.concatenate(answers)


def write_tables(decoded: list[Decoded], drafts: list[Drafted], absent: list[str]) -> str:
    """Write what was found for a terminal: median, and minimum to maximum."""
    rows = [["file", "decoder", "ms", "largest difference"]]
    rows += [[e.kind, e.decoder, cell(e.milliseconds, 2), _or_dash(e.difference)] for e in decoded]
    parts = [table(rows)]
    if drafts:
        rows = [["to input", "decoded", "whole ms", "draft ms", "largest", "mean", "probability"]]
        rows += [
            [
                each.kind,
                f"{each.width}x{each.height}",
                cell(each.whole_ms, 2),
                cell(each.drafted_ms, 2),
                str(each.largest),
                f"{each.mean:.2f}",
                f"{each.probability:.4f}",
            ]
            for each in drafts
        ]
        parts.append(table(rows))
    if absent:
        parts.append(f"not installed: {', '.join(absent)}")
    return "\n\n".join(parts)


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def split_formats(inputs: Inputs) -> Inputs:
    """Give PNG and JPEG files of one folder kinds of their own."""
    found: dict[str, tuple[bytes, ...]] = {}
    for kind, files in inputs.items():
        jpegs = tuple(filter(is_jpeg, files))
        others = tuple(file for file in files if not is_jpeg(file))
        if jpegs and others:
            found |= {f"{kind} (PNG)": others, f"{kind} (JPEG)": jpegs}
        else:
            found[kind] = files
    return found


def main() -> None:
    """Compare, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of real PNG and JPEG files")
    parser.add_argument("--inputs", default=",".join(KINDS), help="kinds of synthetic files")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--release", type=Path, help="the newest in model_store if not given")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    asked = parser.parse_args()
    machine = describe()
    made = read_inputs(asked.images) if asked.images else make_inputs(asked.inputs.split(","))
    inputs = split_formats(made)
    decoders, absent = find_decoders()
    decoded = [
        row
        for kind, files in inputs.items()
        for row in compare(kind, files, decoders, asked.repeats)
    ]
    jpegs = {kind: files for kind, files in inputs.items() if all(map(is_jpeg, files))}
    drafts = []
    if jpegs:
        engine = create_engine(asked.release or newest_release())
        drafts = [
            compare_draft(kind, files, side, engine, asked.repeats)
            for kind, files in jpegs.items()
            for side in SIDES
        ]
    content = {
        "machine": machine,
        "decoders": [asdict(each) for each in decoded],
        "draft": [asdict(each) for each in drafts],
        "absent": absent,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "decoding.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    typer.echo(write_tables(decoded, drafts, absent))


if __name__ == "__main__":
    main()
