"""Cross-validation: how far a recipe's numbers move when other images are kept out.

The images are cut into folds once, by the seed: no group of near-duplicates crosses folds, and each
has the whole's shares of labels and cohorts. Each fold is then kept out once. The one after it is
validation, for curves, scaling and threshold; the network is fitted on the rest, always from
the recipe's seed, so that only the images differ.

A fold is measured by Keras in float32, at the size of the recipe's last stage: a release's
arithmetic but for folding and the rounding of kernels, without an export a fold (a test compares it
with a graph whose kernels are rounded to float16).

The folds' standard deviation is a spread, not a standard error: any two fits share training images,
and no unbiased estimate of the mean's variance exists (Bengio & Grandvalet, JMLR 2004).

In the work folder, so that a run that is killed goes on:

    crossval/<fold>-of-<folds>/             the fold's fit, see `training.fit`
    crossval/<fold>-of-<folds>/fold.json    what was measured; the fold is done
"""

import csv
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pydantic import BaseModel, Field

from training import dataset, pipeline
from training.dataset import Record
from training.export import choose_threshold, fit_scaling, load_network
from training.files import write_whole
from training.fit import FINAL, Examples, fit, stage_folder
from training.metrics import Scores, of_two_labels
from training.run import Run, environment, places

log = logging.getLogger(__name__)

FOLD = "fold.json"
METRICS = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier",
    "expected_calibration_error": "ECE",
}


class Fold(BaseModel):
    """What was measured of one fold by a network that has not seen it.

    Attributes:
        number: From 1.
        fingerprint: Of the images and what each was used for.
        images: Split → label → number; `test` is the fold.
        temperature: Chosen on the validation split.
        bias: The same.
        threshold: Chosen on the validation split.
        metrics: Of the fold.
        probabilities: File → calibrated probability of the positive label; a report has them as
            CSV beside it.
    """

    number: int
    fingerprint: str
    images: dict[str, dict[str, int]]
    temperature: float
    bias: float
    threshold: float
    metrics: dict[str, float]
    probabilities: dict[str, float] = Field(default_factory=dict)


class Report(BaseModel):
    """All folds, and what they say together.

    Attributes:
        command: Makes the same report out of the same data.
        config: The recipe.
        environment: Versions and hardware.
        folds: In order.
        mean: Of each metric over the folds.
        standard_deviation: Of each metric over the folds, with n - 1.
    """

    command: str
    config: dict[str, Any]
    environment: dict[str, Any]
    folds: tuple[Fold, ...]
    mean: dict[str, float]
    standard_deviation: dict[str, float]


def cross_validate(run: Run, folds: int, out: Path) -> Report:
    """Fit and measure every fold that is not done yet, and write the report.

    Args:
        run: Its images are scanned if they are not yet; its own split is not used.
        folds: At least 3.
        out: The report, JSON; every prediction comes into a CSV file of the same name beside it.

    Raises:
        DatasetInvalid: A label has fewer groups than there are folds.
    """
    run.scan(folds)
    done = tuple(_fold(run, number, folds) for number in range(1, folds + 1))
    values = {name: [fold.metrics[name] for fold in done] for name in METRICS}
    report = Report(
        command=f"python -m training crossval --folds {folds} --data DIR --config {run.recipe} "
        f"--backbone {run.config.backbone}",
        config=run.config.model_dump(mode="json"),
        environment=environment(),
        folds=done,
        mean={name: float(np.mean(v)) for name, v in values.items()},
        standard_deviation={name: float(np.std(v, ddof=1)) for name, v in values.items()},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    records = run.images()
    write_whole(out.with_suffix(".csv"), lambda path: _write_predictions(path, records, done))
    text = report.model_dump_json(indent=2, exclude={"folds": {"__all__": {"probabilities"}}})
    write_whole(out, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return report


def table(report: Report) -> Iterator[str]:
    """Lay the report out for a terminal: a line a fold, then mean and standard deviation."""
    rows = [(str(fold.number), fold.metrics) for fold in report.folds]
    rows += [("mean", report.mean), ("s.d.", report.standard_deviation)]
    yield "fold" + "".join(f"{heading:>13}" for heading in METRICS.values())
    for name, values in rows:
        yield f"{name:4}" + "".join(f"{values[metric]:13.4f}" for metric in METRICS)


def _fold(run: Run, number: int, folds: int) -> Fold:
    folder = run.folder / "crossval" / f"{number}-of-{folds}"
    if (folder / FOLD).exists():
        return Fold.model_validate_json((folder / FOLD).read_text(encoding="utf-8"))
    log.info("fold %d of %d", number, folds)
    rules = run.config.data.model_copy(update={"folds": folds})
    records = dataset.split(run.images(), rules, run.config.seed, number - 1)
    keras.backend.clear_session()  # the fold before leaves its network
    train, validation = (_examples(run, records, split) for split in ("train", "validation"))
    fit(folder, run.config, train, validation)
    weights = folder / stage_folder(run.config, -1) / FINAL
    fold = _measure(run, weights, records, number)
    write_whole(folder / FOLD, lambda path: path.write_text(fold.model_dump_json()))
    return fold


def _measure(run: Run, weights: Path, records: Sequence[Record], number: int) -> Fold:
    network = load_network(weights, run.config, run.config.stages[-1].size)
    network.layers[-1].activation = keras.activations.linear  # logits instead of probabilities
    validation, test = (_examples(run, records, split) for split in ("validation", "test"))
    logits, positive = predict_logits(network, validation), validation.targets[:, 0] == 1
    scaling = fit_scaling(logits, positive)
    threshold = choose_threshold(scaling.scores(logits), positive, run.config.sensitivity)
    scores, positive = scaling.scores(predict_logits(network, test)), test.targets[:, 0] == 1
    measures = of_two_labels(threshold)
    return Fold(
        number=number,
        fingerprint=dataset.fingerprint(records),
        images=dataset.counts(records),
        temperature=scaling.temperature,
        bias=scaling.bias,
        threshold=threshold,
        metrics={name: measures[name](scores, positive) for name in METRICS},
        probabilities={
            records[place].file: float(score)
            for place, score in zip(places(records, "test"), scores, strict=True)
        },
    )


def predict_logits(network: keras.Model, examples: Examples) -> Scores:
    """Logits float64 `[n, 2]` of uint8 `[n, 224, 224, 1]`, at the size of the network's input."""
    images = pipeline.resized(examples.inputs, network.input_shape[1])
    batches = pipeline.evaluation_batches(images, examples.targets, batch_size=32)
    logits: Scores = network.predict(batches, verbose=0).astype(np.float64)
    return logits


def _examples(run: Run, records: Sequence[Record], split: str) -> Examples:
    chosen = places(records, split)
    return Examples(run.pixels()[chosen], run.targets([records[i] for i in chosen]))


def _write_predictions(path: Path, records: Sequence[Record], folds: Sequence[Fold]) -> None:
    said = {file: (fold.number, p) for fold in folds for file, p in fold.probabilities.items()}
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "cohort", "fold", "probability"])
        for record in records:
            if record.file in said:
                number, probability = said[record.file]
                row = [record.file, record.label, record.cohort, number, repr(probability)]
                writer.writerow(row)
