"""Negative controls: how well the labels are told apart where the lungs do not show.

COVID-19 and Normal X-rays come from different hospitals. What a model gets out of an image without
lungs, it has from the hospital's borders, letters and exposure (Maguolo & Nanni, Inf. Fusion 2021;
DeGrave, Janizek & Lee, Nat. Mach. Intell. 2021). 0.5 is what a model that looks at lungs only gets.
"""

import numpy as np

from app.engines import Engine
from app.imaging import SIZE, Pixels
from app.release import Control
from training import metrics
from training.evaluate import all_scores
from training.metrics import Truth

CENTRE_BLACK = "the central two thirds of both sides black"
BORDER_ONLY = "all but the outer tenth of the sides black"
CENTRE_SWAPPED = "the central two thirds from an image of the other label"

CENTRE = slice(SIZE // 6, SIZE - SIZE // 6)
BORDER = SIZE // 10


def controls(engine: Engine, pixels: Pixels, positive: Truth, seed: int) -> tuple[Control, ...]:
    """Measure every control.

    Args:
        engine: What runs the model.
        pixels: uint8 `[n, 224, 224, 1]`, of both labels.
        positive: `[n]`.
        seed: Of the bootstrap, and of which image lends its centre to which.
    """
    rng = np.random.default_rng(seed)
    images = {
        CENTRE_BLACK: without_centre(pixels),
        BORDER_ONLY: border_only(pixels),
        CENTRE_SWAPPED: with_swapped_centre(pixels, positive, rng),
    }
    auc = {"auc": metrics.auc}
    return tuple(
        Control(
            name=name, auc=metrics.intervals(auc, all_scores(engine, image), positive, seed)["auc"]
        )
        for name, image in images.items()
    )


def without_centre(pixels: Pixels) -> Pixels:
    """Black out the central two thirds of both sides."""
    changed = pixels.copy()
    changed[:, CENTRE, CENTRE] = 0
    return changed


def border_only(pixels: Pixels) -> Pixels:
    """Black out all but the outer tenth of the sides."""
    changed = pixels.copy()
    changed[:, BORDER:-BORDER, BORDER:-BORDER] = 0
    return changed


def with_swapped_centre(pixels: Pixels, positive: Truth, rng: np.random.Generator) -> Pixels:
    """Put the central two thirds of an image of the other label into each image."""
    changed = pixels.copy()
    for kind in (True, False):
        own, other = np.flatnonzero(positive == kind), np.flatnonzero(positive != kind)
        lenders = rng.permutation(np.resize(other, len(own)))
        changed[own, CENTRE, CENTRE] = pixels[lenders, CENTRE, CENTRE]
    return changed
