"""Measure an exported model: the very file that is served, through the service's own engines."""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.engines import Engine
from app.imaging import Pixels
from app.release import (
    Cohort,
    Decision,
    Estimate,
    Mistake,
    PredictionSetRule,
)
from training import metrics
from training.dataset import Record
from training.metrics import Scores, Truth

MISTAKES = 12
FLAT = 1e-6
"""A heatmap whose values differ by no more has no form to compare, only rounding."""

# An engine and precision with more difference than this is not served.
MOST_AUC_DIFFERENCE = 0.001
LEAST_SAME_DECISION = 0.998
MOST_PROBABILITY_DIFFERENCE = 0.02


@dataclass(frozen=True, slots=True)
class Rules:
    """What makes labels out of probabilities.

    Attributes:
        labels: The positive one first.
        decision: The threshold.
        prediction_sets: By confidence.
        least_acceptance: From which score upwards an image is answered for.
    """

    labels: tuple[str, str]
    decision: Decision
    prediction_sets: Sequence[PredictionSetRule] = ()
    least_acceptance: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a model says of a set of images.

    Attributes:
        records: The images.
        scores: Probability of the positive label, float64 `[n]`.
        positive: Which images are of the positive label, `[n]`.
        acceptance: How much each looks like a frontal chest X-ray, float64 `[n]`.
        heatmaps: Where the positive label is seen, float32 `[n, 7, 7]`.
    """

    records: Sequence[Record]
    scores: Scores
    positive: Truth
    acceptance: Scores
    heatmaps: NDArray[np.float32]

    @property
    def both_labels(self) -> bool:
        """Whether there are images of the positive label, and others."""
        return bool(self.positive.any() and not self.positive.all())

    def only(self, keep: Truth) -> "Measured":
        """Give the part that is to be kept, `[n]`."""
        records = [r for r, kept in zip(self.records, keep, strict=True) if kept]
        return Measured(
            records,
            self.scores[keep],
            self.positive[keep],
            self.acceptance[keep],
            self.heatmaps[keep],
        )

    def where(self, **values: str) -> "Measured":
        """Give the part whose records have these values, such as `split="test"`."""
        keep = np.array(
            [all(getattr(r, key) == v for key, v in values.items()) for r in self.records], bool
        )
        return self.only(keep)

    def of(self, labels: Collection[str]) -> "Measured":
        """Give the part that is of these labels."""
        keep = np.array([record.label in labels for record in self.records], bool)
        return self.only(keep)


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
    answers = [
        engine.predict(np.ascontiguousarray(pixels[i : i + batch]))
        for i in range(0, len(pixels), batch)
    ]
    return Measured(
        records,
        np.concatenate([a.probabilities[:, 0] for a in answers]).astype(np.float64),
        np.array([record.label == label for record in records], dtype=bool),
        np.concatenate([a.acceptance for a in answers]).astype(np.float64),
        np.concatenate([a.heatmap for a in answers]),
    )


def all_scores(engine: Engine, pixels: Pixels, batch: int = 32) -> Scores:
    """Probability of the positive label, float64 `[n]`, of uint8 `[n, 224, 224, 1]`."""
    return measure(engine, pixels, [], "", batch).scores


def cohorts(measured: Measured, rules: Rules, seed: int) -> tuple[Cohort, ...]:
    """Measure each split whole, then each cohort of both labels, then each cohort and label."""
    return tuple(
        cohort(name, split, part, rules, seed)
        for name, split, part in _parts(measured, rules.labels)
    )


def cohort(name: str, split: str, part: Measured, rules: Rules, seed: int) -> Cohort:
    """Measure some images of a split."""
    images = _count(part.records)
    return Cohort(name=name, split=split, images=images, metrics=estimates(part, rules, seed))


def estimates(measured: Measured, rules: Rules, seed: int) -> dict[str, Estimate]:
    """Measure a set of images, each value with its 95% interval.

    Where all images are of one label, the share that is called positive stands for the measures
    that take two; where they are of neither, nothing can be covered by a prediction set. What the
    service refuses counts as it is scored, but for the two measures "as served": there it is wrong.
    """
    positive, scores, threshold = measured.positive, measured.scores, rules.decision.threshold
    groups = np.array([record.group for record in measured.records], np.int64)
    chosen, served = metrics.of_one_label(threshold), {}
    if measured.both_labels:
        chosen, served = metrics.of_two_labels(threshold), metrics.as_served(threshold)
    if {record.label for record in measured.records} <= set(rules.labels):
        chosen |= metrics.of_prediction_sets(rules.prediction_sets)
    refused = measured.acceptance < rules.least_acceptance
    wrong = np.where(refused, np.where(positive, -1.0, 2.0), scores)
    found = metrics.intervals(chosen, scores, positive, seed, groups)
    return found | metrics.intervals(served, wrong, positive, seed, groups)


def agreement(
    reference: Measured, other: Measured, threshold: float, least_acceptance: float
) -> tuple[bool, dict[str, float]]:
    """Tell whether an engine gives the reference's answers, and by how much it misses them.

    Args:
        reference: TensorFlow's answers.
        other: The engine's, for the same images.
        threshold: Of the decision.
        least_acceptance: From which score upwards an image is answered for.

    Returns:
        Whether |ΔAUC| ≤ 0.001, the decision is the same on at least 99.8% of the images, and |Δp|
        is at most 0.02 at its 99th percentile; these three numbers (of images of one label, without
        the first), the share of the images with the same acceptance, and the median and 5th
        percentile of the heatmaps' correlation.
    """
    difference = np.abs(reference.scores - other.scores)
    same = (reference.scores >= threshold) == (other.scores >= threshold)
    accepted = [each.acceptance >= least_acceptance for each in (reference, other)]
    correlations = _correlations(reference.heatmaps, other.heatmaps)
    numbers: dict[str, float] = {}
    if reference.both_labels:
        first, second = (metrics.auc(each.scores, each.positive) for each in (reference, other))
        numbers["auc_difference"] = abs(second - first)
    numbers |= {
        "same_decision": float(same.mean()),
        "probability_difference_p99": float(np.percentile(difference, 99)),
        "same_acceptance": float((accepted[0] == accepted[1]).mean()),
        "heatmap_correlation_median": float(np.median(correlations)),
        "heatmap_correlation_p5": float(np.percentile(correlations, 5)),
    }
    passed = (
        numbers.get("auc_difference", 0.0) <= MOST_AUC_DIFFERENCE
        and numbers["same_decision"] >= LEAST_SAME_DECISION
        and numbers["probability_difference_p99"] <= MOST_PROBABILITY_DIFFERENCE
    )
    return passed, numbers


def _correlations(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pearson's correlation of each pair of maps `[n, 7, 7]`, `[n]`; 1 for equal, flat ones."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True)]
    return np.array(
        [
            np.corrcoef(a, b)[0, 1]
            if min(np.ptp(a), np.ptp(b)) > FLAT
            else float(np.allclose(a, b, atol=0.01))
            for a, b in pairs
        ]
    )


def mistakes(measured: Measured, rules: Rules, most: int = MISTAKES) -> tuple[Mistake, ...]:
    """Name the images that are called the wrong label, the surest first."""
    called = measured.scores >= rules.decision.threshold
    sureness = np.where(called, measured.scores, 1 - measured.scores)
    wrong = [i for i in np.argsort(-sureness, kind="stable") if called[i] != measured.positive[i]]
    return tuple(
        Mistake(
            file=measured.records[i].file,
            label=measured.records[i].label,
            probability=float(measured.scores[i]),
        )
        for i in wrong[:most]
    )


def write_predictions(path: Path, measured: Measured, rules: Rules) -> None:
    """Write a row an image: what it is, and what the model says of it."""
    sets = [f"set_{rule.confidence:g}" for rule in rules.prediction_sets]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["file", "label", "cohort", "split", "probability", "called", "acceptance", *sets]
        )
        for record, score, accepted in zip(
            measured.records, measured.scores, measured.acceptance, strict=True
        ):
            said = dict(zip(rules.labels, (score, 1 - score), strict=True))
            writer.writerow(
                [
                    *(record.file, record.label, record.cohort, record.split, f"{score:.6f}"),
                    rules.labels[0 if score >= rules.decision.threshold else 1],
                    f"{accepted:.6f}",
                    *("|".join(rule.labels(said)) for rule in rules.prediction_sets),
                ]
            )


def _parts(measured: Measured, labels: tuple[str, str]) -> Iterator[tuple[str, str, Measured]]:
    for split in sorted({record.split for record in measured.records}, reverse=True):
        whole = measured.where(split=split)
        kinds = sorted({(record.cohort, record.label) for record in whole.records})
        two = whole.of(labels)
        if two.both_labels:
            yield "all", split, two
        names = sorted({record.cohort for record in two.records})
        for name in names if len(names) > 1 else ():  # the only one is the whole
            if (part := two.where(cohort=name)).both_labels:
                yield name or "unnamed", split, part
        for kind in kinds:
            part = whole.where(cohort=kind[0], label=kind[1])
            yield f"{kind[0] or 'unnamed'} / {kind[1]}", split, part


def _count(records: Sequence[Record]) -> dict[str, int]:
    labels = sorted({record.label for record in records})
    return {label: sum(record.label == label for record in records) for label in labels}
