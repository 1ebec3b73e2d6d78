"""What is measured of probabilities and the truth, as functions of these two."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata

from app.release import Estimate, PredictionSetRule
from training.conformal import covered, sizes

Scores = NDArray[np.float64]
"""Probability of the positive label, `[n]`."""

Truth = NDArray[np.bool_]
"""Which images are of the positive label, `[n]`."""

Metric = Callable[[Scores, Truth], float]

Hits = Callable[[Scores, Truth], NDArray[np.bool_]]
"""Tells of each image that counts whether it is one of those meant."""

RESAMPLES = 1000
BINS = 10
PREVALENCES = (0.02, 0.1, 0.3)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of images, such as those of the positive label that are called so."""

    hits: Hits

    def __call__(self, scores: Scores, positive: Truth) -> float:
        """Give the share."""
        return float(self.hits(scores, positive).mean())

    def exact(self, scores: Scores, positive: Truth) -> tuple[float, float]:
        """Give Clopper and Pearson's 95% interval of the share."""
        hits = self.hits(scores, positive)
        return _clopper_pearson(int(hits.sum()), len(hits))


@dataclass(frozen=True, slots=True)
class Predictive:
    """A predictive value at a prevalence (Altman & Bland, BMJ 1994); 0 where nobody is called so.

    Attributes:
        right: Share of those with the label that are called so: sensitivity, of the positive one.
        other: The same of the other label.
        prevalence: Of the label.
    """

    right: Share
    other: Share
    prevalence: float

    def __call__(self, scores: Scores, positive: Truth) -> float:
        """Give the predictive value."""
        return self._value(self.right(scores, positive), self.other(scores, positive))

    def exact(self, scores: Scores, positive: Truth) -> tuple[float, float]:
        """Give the values at the lower ends of both shares' exact intervals, and at the upper."""
        right, other = (share.exact(scores, positive) for share in (self.right, self.other))
        return self._value(right[0], other[0]), self._value(right[1], other[1])

    def _value(self, right: float, other: float) -> float:
        true, false = right * self.prevalence, (1 - other) * (1 - self.prevalence)
        return true / (true + false) if true + false else 0.0


def intervals(
    metrics: Mapping[str, Metric], scores: Scores, positive: Truth, seed: int
) -> dict[str, Estimate]:
    """Take each metric with its 95% interval.

    It is the percentile bootstrap's: images are drawn anew within each label, 1,000 times (Efron &
    Tibshirani, 1993, ch. 13). Where all draws are alike they say nothing: of shares of 0 or 1, and
    what follows from them. Then a share's is Clopper and Pearson's exact interval (Biometrika
    1934), and a predictive value's follows from those of sensitivity and specificity. An AUC of 0
    or 1 counts as a share of independent pairs: each image of the rarer label makes one, with an
    image of its own of the other label, and all have the same order.
    """
    values = {name: metric(scores, positive) for name, metric in metrics.items()}
    draws = np.array(
        [
            [metric(scores[drawn], positive[drawn]) for metric in metrics.values()]
            for drawn in _resamples(positive, seed)
        ]
    )
    ends = np.percentile(draws, (2.5, 97.5), axis=0).T  # [metrics, 2]
    for end, metric in zip(ends, metrics.values(), strict=True):
        if end[0] == end[1]:
            end[:] = _exact(metric, scores, positive) or end
    return {
        name: Estimate(value=value, low=float(low), high=float(high))
        for (name, value), (low, high) in zip(values.items(), ends, strict=True)
    }


def of_one_label(threshold: float) -> dict[str, Metric]:
    """What can be said of images of one kind."""
    return {"called_positive": Share(partial(_called, threshold))}


def of_two_labels(threshold: float) -> dict[str, Metric]:
    """What can be said of images of both labels, predictive values at each prevalence included."""
    sensitivity = Share(partial(_positive_called_so, threshold))
    specificity = Share(partial(_negative_called_so, threshold))
    metrics: dict[str, Metric] = {
        "auc": auc,
        "accuracy": Share(partial(_called_right, threshold)),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "brier": brier,
        "expected_calibration_error": expected_calibration_error,
    }
    for prevalence in PREVALENCES:
        metrics[f"ppv_at_{prevalence:g}"] = Predictive(sensitivity, specificity, prevalence)
        metrics[f"npv_at_{prevalence:g}"] = Predictive(specificity, sensitivity, 1 - prevalence)
    return metrics


def of_prediction_sets(rules: Sequence[PredictionSetRule]) -> dict[str, Metric]:
    """How often a set holds the true label, and how often it holds none or both."""
    metrics: dict[str, Metric] = {}
    for rule in rules:
        level = f"{rule.confidence:g}"
        metrics[f"coverage_{level}"] = Share(partial(_covered, rule))
        metrics[f"set_of_none_{level}"] = Share(partial(_of_size, rule, 0))
        metrics[f"set_of_both_{level}"] = Share(partial(_of_size, rule, 2))
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


def _called(threshold: float, scores: Scores, _: Truth) -> NDArray[np.bool_]:
    return scores >= threshold


def _called_right(threshold: float, scores: Scores, positive: Truth) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = (scores >= threshold) == positive
    return right


def _positive_called_so(threshold: float, scores: Scores, positive: Truth) -> NDArray[np.bool_]:
    return scores[positive] >= threshold


def _negative_called_so(threshold: float, scores: Scores, positive: Truth) -> NDArray[np.bool_]:
    return scores[~positive] < threshold


def _covered(rule: PredictionSetRule, scores: Scores, positive: Truth) -> NDArray[np.bool_]:
    return covered(scores, positive, rule)


def _of_size(rule: PredictionSetRule, size: int, scores: Scores, _: Truth) -> NDArray[np.bool_]:
    hits: NDArray[np.bool_] = sizes(scores, rule) == size
    return hits


def _exact(metric: Metric, scores: Scores, positive: Truth) -> tuple[float, float] | None:
    if isinstance(metric, Share | Predictive):
        return metric.exact(scores, positive)
    if metric is auc and (value := auc(scores, positive)) in {0, 1}:
        pairs = int(min(positive.sum(), (~positive).sum()))
        return _clopper_pearson(pairs * int(value), pairs)
    return None


def _clopper_pearson(hits: int, count: int) -> tuple[float, float]:
    found = binomtest(hits, count).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def _resamples(positive: Truth, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(positive == kind) for kind in (True, False)]
    for _ in range(RESAMPLES):
        yield np.concatenate([rng.choice(kind, len(kind)) for kind in kinds if len(kind)])
