"""Manifest, model card, and the release's place in the store."""

import csv
import json
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field

from app.errors import ReleaseInvalid, ReleaseNotFound
from app.imaging import RESIZE_RULE
from app.release import (
    CARD,
    MANIFEST,
    Acceptance,
    Cohort,
    Control,
    Dataset,
    Decision,
    EngineName,
    Golden,
    InputContract,
    Manifest,
    Mistake,
    Precision,
    PredictionSetRule,
    Training,
    hash_files,
    open_release,
)
from training import card, crossval, dataset, lookalikes, remeasure
from training.config import Config
from training.continuation import continuation
from training.evaluate import Rules
from training.metrics import PREVALENCES
from training.remeasure import BESIDE
from training.run import Run

log = logging.getLogger(__name__)

WITHOUT_LOOKALIKES = "all without look-alikes"

NO_ACCEPTANCE = Acceptance(
    trained=False, threshold=0.0, rule="none: the score is a constant 1 in this release"
)


class Calibration(BaseModel):
    """What was chosen on the validation split.

    Attributes:
        temperature: What the logits are divided by.
        bias: What is added to the positive label's then.
        decision: The threshold.
        acceptance: The threshold of what is answered for at all.
        prediction_sets: By confidence.
    """

    temperature: float
    bias: float
    decision: Decision
    acceptance: Acceptance = NO_ACCEPTANCE
    prediction_sets: tuple[PredictionSetRule, ...]

    def rules(self, labels: tuple[str, str]) -> Rules:
        """Give what makes labels out of probabilities."""
        return Rules(labels, self.decision, self.prediction_sets, self.acceptance.threshold)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Give what was chosen for a release."""
        names = cls.model_fields.keys()
        return cls.model_validate({name: getattr(manifest, name) for name in names})


class Results(BaseModel):
    """What `evaluate` measured.

    Attributes:
        metrics: By split and cohort.
        controls: On test images that were changed.
        mistakes: The worst of the test split.
        acceptance: The calibration's, with what it refuses and accepts.
        precisions: Engine → precisions that gave TensorFlow's answers on the test split.
        agreement: Engine and precision → how far its answers are from TensorFlow's.
        processor: On which that was measured, and what it computes in.
        golden: TensorFlow's answer for the phantom.
    """

    metrics: tuple[Cohort, ...]
    controls: tuple[Control, ...]
    mistakes: tuple[Mistake, ...]
    acceptance: Acceptance = NO_ACCEPTANCE
    precisions: dict[EngineName, tuple[Precision, ...]]
    agreement: dict[str, dict[str, float]]
    processor: str = "a processor that was not noted"  # by programs before 2026-11-26
    golden: Golden


class ControlRun(BaseModel):
    """A control, such as the article's protocol.

    Attributes:
        recipe: What it was made by.
        metrics: What `evaluate` measured.
    """

    recipe: Config
    metrics: tuple[Cohort, ...]


class Beside(BaseModel):
    """What other runs gave, to be told on the card beside the release's own numbers.

    Attributes:
        control: Another model.
        folds: A cross-validation.
        engines: Processor → engine and precision → how far its answers are from TensorFlow's.
    """

    control: ControlRun | None = None
    folds: crossval.Report | None = None
    engines: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)


def publish(
    run: Run, out: Path, calibration: Calibration, results: Results, beside: Beside
) -> Path:
    """Write the release as the next version of its name, whole or not at all.

    Where the newest version is the same release but for its date, nothing is written.

    Args:
        run: The run, with `release/` holding the SavedModel and the evaluation.
        out: The store.
        calibration: What was chosen.
        results: The measurements.
        beside: What other runs gave.

    Returns:
        The folder of the release, the new one or the one that is there already.
    """
    family = out / run.config.name
    versions = [int(path.name) for path in family.glob("*") if path.name.isdecimal()]
    version = max(versions, default=0) + 1
    partial = family / f".partial-{version}"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(run.folder / "release", partial, ignore=shutil.ignore_patterns("partial-*"))
    (partial / BESIDE).parent.mkdir(exist_ok=True)
    (partial / BESIDE).write_text(beside.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def complete(version: int, created: datetime) -> Manifest:
        """Write the card, and give the manifest of all that is in the folder then."""
        manifest = _manifest(run, calibration, results, version, created)
        text = _card(run, manifest, results, beside)
        (partial / CARD).write_text(text, encoding="utf-8")
        manifest = manifest.model_copy(update={"files": hash_files(partial)})
        return Manifest.model_validate_json(manifest.model_dump_json())

    newest = _open(family / str(version - 1))
    if newest and complete(newest.version, newest.created) == newest:
        shutil.rmtree(partial)
        log.info("nothing is published: version %d is this release already", newest.version)
        return family / str(newest.version)
    text = complete(version, datetime.now(UTC).replace(microsecond=0)).model_dump_json(indent=2)
    (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return partial.replace(family / str(version))


def _open(path: Path) -> Manifest | None:
    """Give the manifest of a release whose files are as it says, where there is one."""
    try:
        return open_release(path).manifest
    except (ReleaseInvalid, ReleaseNotFound):
        return None


def _manifest(
    run: Run, calibration: Calibration, results: Results, version: int, created: datetime
) -> Manifest:
    return Manifest.model_construct(
        name=run.config.name,
        version=version,
        created=created,
        labels=run.config.data.labels,
        input=InputContract(resize=RESIZE_RULE),
        decision=calibration.decision,
        temperature=calibration.temperature,
        bias=calibration.bias,
        acceptance=results.acceptance,
        prediction_sets=calibration.prediction_sets,
        metrics=results.metrics,
        controls=results.controls,
        mistakes=results.mistakes,
        precisions=results.precisions,
        golden=results.golden,
        training=_training(run),
        network_of=remeasure.network_of(run),
    )


def _training(run: Run) -> Training:
    words = {"config": run.config.model_dump(mode="json")}
    if whose := remeasure.origin(run):
        return whose.training.model_copy(update=words)
    records = run.records()
    about = json.loads((run.folder / "run.json").read_text())
    return Training(
        command=run.command,
        **words,
        seed=run.config.seed,
        continued_from=continuation(run.folder / "fit"),
        backbone=run.config.backbone,
        epochs=sum(stage.epochs for stage in run.config.stages),
        packages=about["packages"],
        python=about["python"],
        hardware=about["hardware"],
        dataset=Dataset(fingerprint=dataset.fingerprint(records), images=dataset.counts(records)),
    )


def _card(run: Run, manifest: Manifest, results: Results, beside: Beside) -> str:
    with (run.folder / "rejected.csv").open(newline="", encoding="utf-8") as stream:
        rejected = sum(1 for _ in csv.DictReader(stream))  # a name may have several lines
    test = next(c for c in results.metrics if (c.name, c.split) == ("all", "test"))
    return card.markdown(
        "card.md.j2",
        m=manifest,
        at_prevalence=card.at_prevalence,
        calibrated_at=card.calibrated_at(manifest),
        interval=card.interval,
        labels_apart=card.labels_apart(manifest),
        rejected=rejected,
        prevalences=PREVALENCES,
        test=test,
        beside=beside,
        without_lookalikes=WITHOUT_LOOKALIKES,
        alike=lookalikes.ALIKE,
        folds_of_release=beside.folds and card.same_recipe(run.config, beside.folds.config),
        fold_metrics=crossval.METRICS,
    )
