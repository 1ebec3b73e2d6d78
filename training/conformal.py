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
    where the labels' shares are other ones.

    Args:
        scores: Probability of the positive label `[n]`, of images that were not trained on.
        positive: `[n]`.
        labels: The positive one first.
        confidence: Between 0 and 1.
    """
    own = {labels[0]: scores[positive], labels[1]: 1 - scores[~positive]}
    return PredictionSetRule(
        confidence=confidence,
        least={label: _quantile(values, confidence) for label, values in own.items()},
        images={label: len(values) for label, values in own.items()},
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


def _quantile(own: NDArray[np.float64], confidence: float) -> float:
    """The k-th smallest of n probabilities, k = floor((n + 1) (1 - confidence)); 0 for k = 0."""
    place = int(np.floor((len(own) + 1) * (1 - confidence) + 1e-9))
    return float(np.sort(own)[place - 1]) if place else 0.0
