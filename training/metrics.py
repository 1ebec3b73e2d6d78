"""What is measured of probabilities and the truth, as functions of these two."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from app.release import Estimate, PredictionSetRule
from training.conformal import covered, sizes

Scores = NDArray[np.float64]
"""Probability of the positive label, `[n]`."""

Truth = NDArray[np.bool_]
"""Which images are of the positive label, `[n]`."""

Metric = Callable[[Scores, Truth], float]

RESAMPLES = 1000
BINS = 10
PREVALENCES = (0.02, 0.1, 0.3)


def intervals(
    metrics: Mapping[str, Metric], scores: Scores, positive: Truth, seed: int
) -> dict[str, Estimate]:
    """Take each metric with its 95% percentile bootstrap interval.

    Images are drawn anew within each label, 1,000 times (Efron & Tibshirani, 1993, ch. 13).
    """
    values = {name: metric(scores, positive) for name, metric in metrics.items()}
    draws = np.array(
        [
            [metric(scores[drawn], positive[drawn]) for metric in metrics.values()]
            for drawn in _resamples(positive, seed)
        ]
    )
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    return {
        name: Estimate(value=value, low=float(low[i]), high=float(high[i]))
        for i, (name, value) in enumerate(values.items())
    }


def of_one_label(threshold: float) -> dict[str, Metric]:
    """What can be said of images of one kind."""
    return {"called_positive": partial(_called, threshold)}


def of_two_labels(threshold: float) -> dict[str, Metric]:
    """What can be said of images of both labels, predictive values at each prevalence included."""
    metrics: dict[str, Metric] = {
        "auc": auc,
        "accuracy": partial(_accuracy, threshold),
        "sensitivity": partial(_sensitivity, threshold),
        "specificity": partial(_specificity, threshold),
        "brier": brier,
        "expected_calibration_error": expected_calibration_error,
    }
    for prevalence in PREVALENCES:
        metrics[f"ppv_at_{prevalence:g}"] = partial(_ppv, threshold, prevalence)
        metrics[f"npv_at_{prevalence:g}"] = partial(_npv, threshold, prevalence)
    return metrics


def of_prediction_sets(rules: Sequence[PredictionSetRule]) -> dict[str, Metric]:
    """How often a set holds the true label, and how often it holds none or both."""
    metrics: dict[str, Metric] = {}
    for rule in rules:
        level = f"{rule.confidence:g}"
        metrics[f"coverage_{level}"] = partial(_coverage, rule)
        metrics[f"set_of_none_{level}"] = partial(_share_of_size, rule, 0)
        metrics[f"set_of_both_{level}"] = partial(_share_of_size, rule, 2)
    return metrics


def auc(scores: Scores, positive: Truth) -> float:
    """Area under the receiver operating characteristic, from the ranks (Hanley & McNeil, 1982).

    scikit-learn's function gives the same and takes ten times as long, a thousand times over.
    """
    positives = int(positive.sum())
    above = rankdata(scores)[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(scores) - positives)))


def brier(scores: Scores, positive: Truth) -> float:
    """Mean squared distance of probability and truth (Brier, 1950)."""
    return float(np.square(scores - positive).mean())


def expected_calibration_error(scores: Scores, positive: Truth) -> float:
    """Mean distance of probability and frequency over 10 equal bins of the positive probability.

    The two-class form of Naeini et al. (AAAI 2015), weighted by the images in each bin.
    """
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    weight = np.bincount(bins, minlength=BINS)
    said = np.bincount(bins, scores, BINS)
    seen = np.bincount(bins, positive, BINS)
    return float(np.abs(said - seen).sum() / weight.sum())


def _called(threshold: float, scores: Scores, _: Truth) -> float:
    return float((scores >= threshold).mean())


def _accuracy(threshold: float, scores: Scores, positive: Truth) -> float:
    return float(((scores >= threshold) == positive).mean())


def _sensitivity(threshold: float, scores: Scores, positive: Truth) -> float:
    return float((scores[positive] >= threshold).mean())


def _specificity(threshold: float, scores: Scores, positive: Truth) -> float:
    return float((scores[~positive] < threshold).mean())


def _ppv(threshold: float, prevalence: float, scores: Scores, positive: Truth) -> float:
    """Positive predictive value at a prevalence (Altman & Bland, BMJ 1994); 0 if none is called."""
    right = _sensitivity(threshold, scores, positive) * prevalence
    wrong = (1 - _specificity(threshold, scores, positive)) * (1 - prevalence)
    return right / (right + wrong) if right + wrong else 0.0


def _npv(threshold: float, prevalence: float, scores: Scores, positive: Truth) -> float:
    """Negative predictive value at a prevalence (Altman & Bland, BMJ 1994); 0 if all are called."""
    right = _specificity(threshold, scores, positive) * (1 - prevalence)
    wrong = (1 - _sensitivity(threshold, scores, positive)) * prevalence
    return right / (right + wrong) if right + wrong else 0.0


def _coverage(rule: PredictionSetRule, scores: Scores, positive: Truth) -> float:
    return float(covered(scores, positive, rule).mean())


def _share_of_size(rule: PredictionSetRule, size: int, scores: Scores, _: Truth) -> float:
    return float((sizes(scores, rule) == size).mean())


def _resamples(positive: Truth, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(positive == kind) for kind in (True, False)]
    for _ in range(RESAMPLES):
        yield np.concatenate([rng.choice(kind, len(kind)) for kind in kinds if len(kind)])
