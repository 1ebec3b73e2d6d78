"""Manifest, model card, and the release's place in the store."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from app.imaging import RESIZE_RULE
from app.release import (
    MANIFEST,
    Acceptance,
    Cohort,
    Dataset,
    Decision,
    EngineName,
    Golden,
    InputContract,
    Manifest,
    Precision,
    Training,
    hash_files,
)
from training import dataset
from training.run import Run

NO_ACCEPTANCE = Acceptance(
    trained=False, threshold=0.0, rule="none: the score is a constant 1 in this release"
)


class Results(BaseModel):
    """What `evaluate` measured.

    Attributes:
        metrics: By split and cohort.
        precisions: Engine → precisions that gave TensorFlow's answers on the test split.
        agreement: Engine and precision → how far its answers are from TensorFlow's.
        golden: TensorFlow's answer for the phantom.
    """

    metrics: tuple[Cohort, ...]
    precisions: dict[EngineName, tuple[Precision, ...]]
    agreement: dict[str, dict[str, float]]
    golden: Golden


def publish(run: Run, out: Path, calibration: dict[str, Any], results: Results) -> Path:
    """Write the release as the next version of its name, whole or not at all.

    Args:
        run: The run, with `release/` holding the SavedModel and the evaluation.
        out: The store.
        calibration: `temperature` and `decision`.
        results: The measurements.

    Returns:
        The release's folder.
    """
    family = out / run.config.name
    version = _next_version(family)
    partial = family / f".partial-{version}"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(run.folder / "release", partial)
    manifest = _manifest(run, version, calibration, results)
    (partial / "MODEL_CARD.md").write_text(_card(run, manifest, results), encoding="utf-8")
    manifest = manifest.model_copy(update={"files": hash_files(partial)})
    text = Manifest.model_validate(manifest.model_dump()).model_dump_json(indent=2)
    (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return partial.replace(family / str(version))


def _next_version(family: Path) -> int:
    versions = [int(path.name) for path in family.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1


def _manifest(run: Run, version: int, calibration: dict[str, Any], results: Results) -> Manifest:
    return Manifest.model_construct(
        name=run.config.name,
        version=version,
        created=datetime.now(UTC).replace(microsecond=0),
        labels=run.config.data.labels,
        input=InputContract(resize=RESIZE_RULE),
        decision=Decision(**calibration["decision"]),
        temperature=calibration["temperature"],
        acceptance=NO_ACCEPTANCE,
        metrics=results.metrics,
        precisions=results.precisions,
        golden=results.golden,
        training=_training(run),
    )


def _training(run: Run) -> Training:
    records = run.records()
    about = json.loads((run.folder / "run.json").read_text())
    return Training(
        command=run.command,
        config=run.config.model_dump(mode="json"),
        seed=run.config.seed,
        backbone=run.config.backbone,
        epochs=sum(stage.epochs for stage in run.config.stages),
        packages=about["packages"],
        python=about["python"],
        hardware=about["hardware"],
        dataset=Dataset(fingerprint=dataset.fingerprint(records), images=dataset.counts(records)),
    )


def _card(run: Run, manifest: Manifest, results: Results) -> str:
    environment = Environment(
        loader=PackageLoader("training", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 -- Markdown, from our own numbers
    )
    rejected = (run.folder / "rejected.csv").read_text(encoding="utf-8").count("\n") - 1
    template = environment.get_template("card.md.j2")
    text: str = template.render(m=manifest, agreement=results.agreement, rejected=rejected)
    return text
