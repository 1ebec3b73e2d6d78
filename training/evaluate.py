"""Measure an exported model: the very file that is served, through the service's own engines."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, roc_auc_score

from app.engines import Engine
from app.imaging import Pixels
from app.release import Cohort, Decision, EngineName, Estimate, Precision
from training.dataset import Record

Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]
Metric = Callable[[Scores, Truth], float]

RESAMPLES = 1000
BINS = 10

# An engine and precision with more difference than this is not served.
MOST_AUC_DIFFERENCE = 0.001
LEAST_SAME_DECISION = 0.998
MOST_PROBABILITY_DIFFERENCE = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a model says of a set of images.

    Attributes:
        records: The images.
        scores: Probability of the positive label, float64 `[n]`.
        positive: Which images are of the positive label, `[n]`.
    """

    records: Sequence[Record]
    scores: Scores
    positive: Truth

    def where(self, **values: str) -> "Measured":
        """Give the part whose records have these values, such as `split="test"`."""
        keep = np.array(
            [all(getattr(r, key) == v for key, v in values.items()) for r in self.records], bool
        )
        records = [r for r, kept in zip(self.records, keep, strict=True) if kept]
        return Measured(records, self.scores[keep], self.positive[keep])


def measure(
    engine: Engine, pixels: Pixels, records: Sequence[Record], label: str, batch: int = 32
) -> Measured:
    """Score images.

    Args:
        engine: What runs the model; its first probability is the positive label's.
        pixels: uint8 `[n, 224, 224, 1]`.
        records: The images' records.
        label: The positive label.
        batch: Images at a time.
    """
    parts = [
        engine.predict(np.ascontiguousarray(pixels[i : i + batch])).probabilities[:, 0]
        for i in range(0, len(pixels), batch)
    ]
    positive = np.array([record.label == label for record in records], dtype=bool)
    return Measured(records, np.concatenate(parts).astype(np.float64), positive)


def cohorts(measured: Measured, decision: Decision, seed: int) -> tuple[Cohort, ...]:
    """Measure each split whole, then each of its parts by cohort and label."""
    return tuple(
        Cohort(
            name=name,
            split=split,
            images=_count(part.records),
            metrics=estimates(part, decision.threshold, seed),
        )
        for name, split, part in _parts(measured)
    )


def estimates(measured: Measured, threshold: float, seed: int) -> dict[str, Estimate]:
    """Measure a set of images, each value with its 95% percentile bootstrap interval.

    Images are drawn anew within each label, 1,000 times (Efron & Tibshirani, 1993, ch. 13). Where
    all images are of one kind, only the share that is called positive can be said.
    """
    scores, positive = measured.scores, measured.positive
    both = bool(positive.any() and not positive.all())
    metrics = _two_label_metrics(threshold) if both else {"called_positive": _called(threshold)}
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


def expected_calibration_error(scores: Scores, positive: Truth) -> float:
    """Mean distance of probability and frequency over 10 equal bins of the positive probability.

    The two-class form of Naeini et al. (AAAI 2015), weighted by the images in each bin.
    """
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    weight = np.bincount(bins, minlength=BINS)
    said = np.bincount(bins, scores, BINS)
    seen = np.bincount(bins, positive, BINS)
    return float(np.abs(said - seen).sum() / weight.sum())


def agreement(
    reference: Measured, other: Measured, threshold: float
) -> tuple[bool, dict[str, float]]:
    """Tell whether an engine gives the reference's answers, and by how much it misses them.

    Returns:
        Whether |ΔAUC| ≤ 0.001, the decision is the same on at least 99.8% of the images, and |Δp|
        is at most 0.02 at its 99th percentile; and these three numbers.
    """
    auc = roc_auc_score(reference.positive, reference.scores)
    difference = np.abs(reference.scores - other.scores)
    same = (reference.scores >= threshold) == (other.scores >= threshold)
    numbers = {
        "auc_difference": abs(float(roc_auc_score(other.positive, other.scores) - auc)),
        "same_decision": float(same.mean()),
        "probability_difference_p99": float(np.percentile(difference, 99)),
    }
    passed = (
        numbers["auc_difference"] <= MOST_AUC_DIFFERENCE
        and numbers["same_decision"] >= LEAST_SAME_DECISION
        and numbers["probability_difference_p99"] <= MOST_PROBABILITY_DIFFERENCE
    )
    return passed, numbers


def precisions(
    reference: Measured, others: dict[EngineName, Measured], threshold: float
) -> dict[EngineName, tuple[Precision, ...]]:
    """Name the engines that give TensorFlow's answers in f32; TensorFlow itself among them."""
    passed: dict[EngineName, tuple[Precision, ...]] = {"tensorflow": ("f32",)}
    for name, measured in others.items():
        if agreement(reference, measured, threshold)[0]:
            passed[name] = ("f32",)
    return passed


def write_predictions(path: Path, measured: Measured) -> None:
    """Write a row an image: file, label, cohort, split, probability of the positive label."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "cohort", "split", "probability"])
        for record, score in zip(measured.records, measured.scores, strict=True):
            row = [record.file, record.label, record.cohort, record.split, f"{score:.6f}"]
            writer.writerow(row)


def _two_label_metrics(threshold: float) -> dict[str, Metric]:
    def accuracy(scores: Scores, positive: Truth) -> float:
        return float(((scores >= threshold) == positive).mean())

    def sensitivity(scores: Scores, positive: Truth) -> float:
        return float((scores[positive] >= threshold).mean())

    def specificity(scores: Scores, positive: Truth) -> float:
        return float((scores[~positive] < threshold).mean())

    return {
        "auc": lambda scores, positive: float(roc_auc_score(positive, scores)),
        "accuracy": accuracy,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "brier": lambda scores, positive: float(brier_score_loss(positive, scores)),
        "expected_calibration_error": expected_calibration_error,
    }


def _called(threshold: float) -> Metric:
    return lambda scores, _: float((scores >= threshold).mean())


def _resamples(positive: Truth, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(positive == kind) for kind in (True, False)]
    for _ in range(RESAMPLES):
        yield np.concatenate([rng.choice(kind, len(kind)) for kind in kinds if len(kind)])


def _parts(measured: Measured) -> Iterator[tuple[str, str, Measured]]:
    for split in sorted({record.split for record in measured.records}, reverse=True):
        whole = measured.where(split=split)
        kinds = sorted({(record.cohort, record.label) for record in whole.records})
        if split != "held-out":
            yield "all", split, whole
        for kind in kinds:
            part = whole.where(cohort=kind[0], label=kind[1])
            yield f"{kind[0] or 'unnamed'} / {kind[1]}", split, part


def _count(records: Sequence[Record]) -> dict[str, int]:
    labels = sorted({record.label for record in records})
    return {label: sum(record.label == label for record in records) for label in labels}
