"""Images that no release should answer for, to learn acceptance from and to measure it on.

Three sources: pictures of other things, drawings, and X-rays that are turned, inverted or cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
from numpy.random import Generator
from PIL import Image

from app.imaging import Pixels, to_model_input
from training.drawings import DRAWINGS
from training.pictures import Picture, pictures

MEASURED_SHARE = 3
"""Every third picture of a kind is kept from training and measured on; the threshold is chosen on
views of the others. Of a clip or a volume some pictures are kept and others are not."""


@dataclass(frozen=True, slots=True, eq=False)
class Foreign:
    """Images that are no upright frontal chest X-rays.

    Attributes:
        pixels: uint8 `[n, 224, 224, 1]`.
        kinds: What each is, `n` names.
        pictures: Kind → of how many pictures its images are views, and how many of these are of an
            origin that training has pictures of, too; only of kinds that are views of pictures.
    """

    pixels: Pixels
    kinds: tuple[str, ...]
    pictures: dict[str, tuple[int, int]]


def foreign(
    xrays: Pixels, count: int, seed: int, *, measured: bool, spoiled_weight: int = 1
) -> Foreign:
    """Make images, as many of every kind but the turned, inverted and cut X-rays.

    Args:
        xrays: X-rays to turn, invert and cut, uint8 `[n, 224, 224, 1]`.
        count: About how many in all; there are two of each kind at least.
        seed: Of everything random.
        measured: From the pictures that are kept from training.
        spoiled_weight: How many X-rays that are turned, inverted or cut for each other image.

    Returns:
        The images, kind by kind.
    """
    rng = np.random.default_rng([seed, int(measured)])
    made: list[tuple[str, Pixels]] = []
    shown, others = (_by_kind(pictures(), measured=m) for m in (measured, not measured))
    each = max(2, count // (len(shown) + len(DRAWINGS) + spoiled_weight * len(SPOILED)))
    for kind, found in shown.items():
        made += [(kind, view(found[i % len(found)].pixels, rng)) for i in range(each)]
    for kind, draw in DRAWINGS.items():
        made += [(kind, to_model_input(draw[i % len(draw)](rng))) for i in range(each)]
    for kind, spoil in SPOILED.items():
        made += [(kind, spoil(xrays, rng)) for _ in range(spoiled_weight * each)]
    made.sort(key=lambda one: one[0])
    divided = {picture.origin for found in others.values() for picture in found}
    return Foreign(
        np.stack([pixels for _, pixels in made]),
        tuple(kind for kind, _ in made),
        {
            kind: (len(found[:each]), sum(one.origin in divided for one in found[:each]))
            for kind, found in shown.items()
        },
    )


def view(picture: Pixels, rng: Generator) -> Pixels:
    """Show a picture whole or a part of it, mirrored, turned or of another exposure.

    Args:
        picture: uint8 `[height, width]`.
        rng: What decides.

    Returns:
        uint8 `[224, 224, 1]`.
    """
    height, width = picture.shape
    shares = rng.uniform(0.35, 1, 2) if rng.random() < 2 / 3 else np.ones(2)
    rows, columns = max(8, int(height * shares[0])), max(8, int(width * shares[1]))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    part = picture[top : top + rows, left : left + columns]
    part = np.rot90(part, int(rng.choice([0, 0, 0, 1, 2, 3])))
    part = part[:, ::-1] if rng.random() < 1 / 2 else part
    part = 255 - part if rng.random() < 1 / 8 else part
    exposed = 255 * (part / 255) ** 2 ** rng.uniform(-1, 1)
    return to_model_input(np.ascontiguousarray(exposed.astype(np.uint8)))


def upside_down(xrays: Pixels, rng: Generator) -> Pixels:
    """Turn an X-ray by 180 degrees, or mirror it so."""
    image = _one(xrays, rng)[::-1]
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < 1 / 2 else image)


def sideways(xrays: Pixels, rng: Generator) -> Pixels:
    """Turn an X-ray by 90 degrees, either way."""
    return np.ascontiguousarray(np.rot90(_one(xrays, rng), int(rng.choice([1, 3]))))


def inverted(xrays: Pixels, rng: Generator) -> Pixels:
    """Show air white and bone black."""
    return np.invert(_one(xrays, rng))


def crop(xrays: Pixels, rng: Generator) -> Pixels:
    """Cut out a part of 15% to 45% of each side: a lung or less."""
    image = _one(xrays, rng)[..., 0]
    size = image.shape[0]
    rows, columns = (int(size * share) for share in rng.uniform(0.15, 0.45, 2))
    top, left = rng.integers(size - rows), rng.integers(size - columns)
    return to_model_input(np.ascontiguousarray(image[top : top + rows, left : left + columns]))


def half(xrays: Pixels, rng: Generator) -> Pixels:
    """Show one half of a chest, or both laid over each other as a lateral X-ray shows them."""
    image = _one(xrays, rng)[..., 0]
    middle = int(image.shape[1] * rng.uniform(0.42, 0.58))
    part = image[:, :middle]
    if rng.random() < 2 / 3:
        other = np.asarray(Image.fromarray(image[:, :middle:-1]).resize((middle, len(image))))
        part = ((part.astype(np.uint16) + other) // 2).astype(np.uint8)
    part = part[:, ::-1] if rng.random() < 1 / 2 else part
    beside = int(rng.choice([0, 1])) * int(middle * rng.uniform(0, 0.6))
    return to_model_input(np.pad(part, ((0, 0), (beside, beside))))


def tiles(xrays: Pixels, rng: Generator) -> Pixels:
    """Lay two to nine X-rays side by side."""
    rows, columns = [(1, 2), (2, 1), (2, 2), (2, 3), (3, 3)][rng.integers(5)]
    same = _one(xrays, rng) if rng.random() < 1 / 3 else None
    lines = [
        np.hstack([_one(xrays, rng) if same is None else same for _ in range(columns)])
        for _ in range(rows)
    ]
    return to_model_input(np.vstack(lines)[..., 0])


def tilted(xrays: Pixels, rng: Generator) -> Pixels:
    """Turn an X-ray by 40 to 140 degrees, either way."""
    degrees = rng.uniform(40, 140) * rng.choice([-1, 1])
    image = Image.fromarray(_one(xrays, rng)[..., 0])
    return to_model_input(np.asarray(image.rotate(degrees, Image.Resampling.BILINEAR)))


SPOILED: dict[str, Callable[[Pixels, Generator], Pixels]] = {
    "X-ray upside down": upside_down,
    "X-ray sideways": sideways,
    "X-ray inverted": inverted,
    "X-ray cropped to a part": crop,
    "X-ray of one half, or folded": half,
    "X-rays in tiles": tiles,
    "X-ray tilted": tilted,
}
"""Kind → what makes it of X-rays."""


def _by_kind(found: Sequence[Picture], *, measured: bool) -> dict[str, list[Picture]]:
    """Give those of a kind that are measured on, or those that are learned from."""
    chosen: dict[str, list[Picture]] = {}
    kind_of = attrgetter("kind")
    for kind, group in groupby(sorted(found, key=kind_of), key=kind_of):
        members = list(group)
        kept = [i % MEASURED_SHARE == MEASURED_SHARE - 1 for i in range(len(members))]
        chosen[kind] = [p for p, k in zip(members, kept, strict=True) if k is measured]
    return {kind: members for kind, members in chosen.items() if members}


def _one(xrays: Pixels, rng: Generator) -> Pixels:
    image: Pixels = xrays[rng.integers(len(xrays))]
    return image
