"""What is measured of probabilities and the truth, as functions of these two."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, rankdata

from app.release import Estimate, PredictionSetRule
from training.conformal import covered, sizes

Scores = NDArray[np.float64]
"""Probability of the positive label, `[n]`."""

Truth = NDArray[np.bool_]
"""Which images are of the positive label, `[n]`."""

Groups = NDArray[np.int64]
"""Which images are of one patient or near-duplicates of each other, by number, `[n]`."""

Metric = Callable[[Scores, Truth], float]

Hits = Callable[[Scores, Truth], NDArray[np.bool_]]
"""Tells of each image whether it is one of those meant, `[n]`."""

RESAMPLES = 1000
BINS = 10
PREVALENCES = (0.02, 0.1, 0.3)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of images, such as those of the positive label that are called so.

    Attributes:
        hits: Which are meant.
        kind: Of the images of the positive label (True), of the others (False), or of all (None).
    """

    hits: Hits
    kind: bool | None = None

    def __call__(self, scores: Scores, positive: Truth) -> float:
        """Give the share."""
        return float(self.hits(scores, positive)[self._counted(positive)].mean())

    def interval(self, scores: Scores, positive: Truth, groups: Groups) -> tuple[float, float]:
        """Give the share's 95% interval, see `share_interval`."""
        counted = self._counted(positive)
        return share_interval(self.hits(scores, positive)[counted], groups[counted])

    def _counted(self, positive: Truth) -> NDArray[np.bool_]:
        return np.ones_like(positive) if self.kind is None else positive == self.kind


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

    def interval(self, scores: Scores, positive: Truth, groups: Groups) -> tuple[float, float]:
        """Give the values at the lower ends of both shares' intervals, and at the upper.

        It is wider than need be, since both are seldom at their ends at once.
        """
        shares = self.right, self.other
        right, other = (share.interval(scores, positive, groups) for share in shares)
        return self._value(right[0], other[0]), self._value(right[1], other[1])

    def _value(self, right: float, other: float) -> float:
        true, false = right * self.prevalence, (1 - other) * (1 - self.prevalence)
        return true / (true + false) if true + false else 0.0


def intervals(
    metrics: Mapping[str, Metric],
    scores: Scores,
    positive: Truth,
    seed: int,
    groups: Groups | None = None,
) -> dict[str, Estimate]:
    """Take each metric with its 95% interval.

    A share's is Clopper and Pearson's, see `share_interval`, and a predictive value's follows from
    those of sensitivity and specificity. The others' is the percentile bootstrap's: groups are
    drawn anew within each label, 1,000 times (Efron & Tibshirani, 1993, ch. 13; Field & Welsh,
    JRSS B 2007). An AUC of 0 or 1, of which all draws are alike, counts as a share of independent
    pairs: each group of the rarer label makes one, with a group of the other label, and all have
    the same order.

    Args:
        metrics: By name.
        scores: Probability of the positive label, `[n]`.
        positive: `[n]`.
        seed: Of the bootstrap.
        groups: `[n]`; each image is a group of its own where None.
    """
    groups = np.arange(len(scores)) if groups is None else groups
    drawn = {name: m for name, m in metrics.items() if not isinstance(m, Share | Predictive)}
    ends = _bootstrap(drawn, scores, positive, groups, seed) if drawn else {}
    found = {}
    for name, metric in metrics.items():
        value = metric(scores, positive)
        if isinstance(metric, Share | Predictive):
            low, high = metric.interval(scores, positive, groups)
        elif metric is auc and value in {0, 1}:
            pairs = min(len(np.unique(groups[positive == kind])) for kind in (True, False))
            low, high = clopper_pearson(pairs * value, pairs)
        else:
            low, high = ends[name]
        found[name] = Estimate(value=value, low=low, high=high)
    return found


def share_interval(hits: NDArray[np.bool_], groups: Groups) -> tuple[float, float]:
    """Give the 95% interval of a share.

    Clopper and Pearson's exact one (Biometrika 1934), of as many independent images as there would
    have to be for the share to vary as it does between groups (Korn & Graubard, Survey Methodology
    1998, without their correction for few groups): as many as there are where each is a group of
    its own, as there are groups where all have the same share.

    Args:
        hits: Which images are meant, `[n]`, n at least 1.
        groups: `[n]`.
    """
    share, count = float(hits.mean()), float(len(hits))
    members = np.unique(groups, return_inverse=True)[1]
    apart = np.bincount(members, hits - share)  # [groups], from what each would have
    between = float(np.square(apart).sum())
    within = share * (1 - share) * count
    count = min(count, count * within / between) if between else float(len(apart))
    return clopper_pearson(share * count, count)


def clopper_pearson(hits: float, count: float) -> tuple[float, float]:
    """Give the exact 95% interval of a share (Biometrika 1934); the numbers need not be whole."""
    low = beta.ppf(0.025, hits, count - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0
    return float(low), float(high)


def of_one_label(threshold: float) -> dict[str, Metric]:
    """What can be said of images of one kind."""
    return {"called_positive": Share(partial(_called, threshold))}


def of_two_labels(threshold: float) -> dict[str, Metric]:
    """What can be said of images of both labels, predictive values at each prevalence included."""
    sensitivity = Share(partial(_called_right, threshold), kind=True)
    specificity = Share(partial(_called_right, threshold), kind=False)
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


def as_served(threshold: float) -> dict[str, Metric]:
    """Sensitivity and specificity, of scores in which what is refused was put on the wrong side."""
    return {
        f"{name}_as_served": Share(partial(_called_right, threshold), kind)
        for name, kind in (("sensitivity", True), ("specificity", False))
    }


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


def _covered(rule: PredictionSetRule, scores: Scores, positive: Truth) -> NDArray[np.bool_]:
    return covered(scores, positive, rule)


def _of_size(rule: PredictionSetRule, size: int, scores: Scores, _: Truth) -> NDArray[np.bool_]:
    hits: NDArray[np.bool_] = sizes(scores, rule) == size
    return hits


def _bootstrap(
    metrics: Mapping[str, Metric], scores: Scores, positive: Truth, groups: Groups, seed: int
) -> dict[str, tuple[float, float]]:
    draws = [
        [metric(scores[places], positive[places]) for metric in metrics.values()]
        for places in _resamples(positive, groups, seed)
    ]
    ends = np.percentile(draws, (2.5, 97.5), axis=0).T  # [metrics, 2]
    return {
        name: (float(low), float(high)) for name, (low, high) in zip(metrics, ends, strict=True)
    }


def _resamples(positive: Truth, groups: Groups, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draw groups within each label, and give the places of their images."""
    rng = np.random.default_rng(seed)
    kinds = [_places(np.flatnonzero(positive == kind), groups) for kind in (True, False)]
    for _ in range(RESAMPLES):
        chosen = [(kind, rng.integers(len(kind), size=len(kind))) for kind in kinds if kind]
        yield np.concatenate([kind[i] for kind, numbers in chosen for i in numbers])


def _places(images: NDArray[np.int64], groups: Groups) -> list[NDArray[np.int64]]:
    """Cut the places of images into one array a group."""
    ordered = images[np.argsort(groups[images], kind="stable")]
    ends = np.flatnonzero(np.diff(groups[ordered])) + 1
    return np.split(ordered, ends) if len(ordered) else []
