"""Split-conformal prediction sets: the labels that cannot be ruled out at a confidence."""

import numpy as np
from numpy.typing import NDArray

from app.release import PredictionSetRule

CONFIDENCES = (0.90, 0.95)


def calibrate(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    labels: tuple[str, str],
    confidence: float,
) -> PredictionSetRule:
    """Find from which probability upwards each label stays in the set.

    Label-conditional split conformal prediction with one minus the label's probability as the score
    (Sadinle, Lei & Wasserman, JASA 2019; Vovk, ACML 2012). For images that are exchangeable with
    these, the set holds the true label with at least the confidence, whichever label that is: also
    where the labels' shares are other ones. Each probability is laid halfway to the next lower one,
    so that no image sits on it: that keeps the promise, and changes none of these images' sets.

    Args:
        scores: Probability of the positive label `[n]`, of images that were not trained on.
        positive: `[n]`.
        labels: The positive one first.
        confidence: Between 0 and 1.
    """
    own = dict(zip(labels, (positive, ~positive), strict=True))
    chances = dict(zip(labels, (scores, 1 - scores), strict=True))
    return PredictionSetRule(
        confidence=confidence,
        least={label: _least(chances[label], own[label], confidence) for label in labels},
        images={label: int(own[label].sum()) for label in labels},
    )


def covered(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], rule: PredictionSetRule
) -> NDArray[np.bool_]:
    """Tell of which images the set holds the true label, `[n]`."""
    first, second = rule.least.values()
    inside: NDArray[np.bool_] = np.where(positive, scores >= first, 1 - scores >= second)
    return inside


def sizes(scores: NDArray[np.float64], rule: PredictionSetRule) -> NDArray[np.int64]:
    """Count the labels in each image's set, 0 to 2, `[n]`."""
    first, second = rule.least.values()
    return (scores >= first).astype(np.int64) + (1 - scores >= second)


def _least(chances: NDArray[np.float64], own: NDArray[np.bool_], confidence: float) -> float:
    """Just below the k-th smallest of n own images, k = floor((n + 1) (1 - confidence)).

    It is 0 for k = 0.
    """
    place = int(np.floor((own.sum() + 1) * (1 - confidence) + 1e-9))
    if not place:
        return 0.0
    quantile = np.sort(chances[own])[place - 1]
    below = chances[chances < quantile]
    return float((quantile + (below.max() if len(below) else 0.0)) / 2)
