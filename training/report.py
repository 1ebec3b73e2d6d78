"""Measure a release on any folder of X-rays: a report, plots and a row for every image."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.engines import Engine, create_engine
from app.imaging import Pixels
from app.release import Cohort, Control, Mistake, Precision, Release, open_release
from training import controls, dataset, evaluate, listing, metrics, plots
from training.card import markdown
from training.config import Data
from training.dataset import Rejected, Scan
from training.errors import RunMismatch
from training.evaluate import Measured, Rules

log = logging.getLogger(__name__)

SPLIT = "evaluation"
NOT_MEASURED = "AUC, sensitivity, specificity and calibration cannot be told"


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        cohorts: Whole, and by cohort and label.
        missing: The release's labels that no X-ray has.
        controls: Empty where one is missing.
        mistakes: The worst.
        acceptance: Cohort and label, number of X-rays, how many of them are refused.
        precision: Another one that was asked for; none where none was.
        agreement: How far its answers are from those in f32; see `evaluate.agreement`.
    """

    cohorts: tuple[Cohort, ...]
    missing: tuple[str, ...]
    controls: tuple[Control, ...]
    mistakes: tuple[Mistake, ...]
    acceptance: tuple[tuple[str, int, int], ...]
    precision: Precision | None = None
    agreement: dict[str, float] = field(default_factory=dict)


def report(path: Path, data: Path, out: Path, precision: Precision | None = None) -> Path:
    """Measure a release on a folder and write everything that was found.

    Args:
        path: The release.
        data: As for `dataset.scan`; any label that is not the release's counts as another
            condition, and is measured on its own, and so is what has no label.
        out: Gets `report.md`, `report.json`, `predictions.csv`, `rejected.csv` and the plots; new
            or empty, and outside the data.
        precision: One whose answers are compared with those in f32, on this processor.

    Returns:
        The report's file.

    Raises:
        RunMismatch: There is something at `out`, or it is among the X-rays.
        DatasetInvalid: The folder holds no usable image.
        ReleaseInvalid: The release's files are not what its manifest says.
        EngineUnavailable: This processor, or the engine, does not compute in the precision.
    """
    _check_place(out, data)
    release = open_release(path)
    manifest = release.manifest
    names = _names(release, data)
    found = dataset.scan(data, names)
    least = manifest.acceptance.threshold
    rules = Rules(manifest.labels, manifest.decision, manifest.prediction_sets, least)
    engine = create_engine(path)
    other = create_engine(path, engine.name, precision) if precision else None
    grouped = dataset.group(found.records, names.duplicate_bits)
    records = [replace(record, split=SPLIT) for record in grouped]
    measured = evaluate.measure(engine, found.pixels, records, manifest.labels[0])
    out.mkdir(parents=True, exist_ok=True)
    dataset.write_csv(out / "rejected.csv", found.rejected, Rejected)
    evaluate.write_predictions(out / "predictions.csv", measured, rules)
    result = _report(release, engine, found.pixels, measured, rules)
    if other:
        again = evaluate.measure(other, found.pixels, records, manifest.labels[0])
        limits = manifest.decision.threshold, manifest.acceptance.threshold
        _, agreement = evaluate.agreement(measured, again, *limits)
        result = replace(result, precision=other.precision, agreement=agreement)
    _tell(found, result)
    if result.controls:
        plots.draw(measured.of(rules.labels), rules, out)
    _write_json(out / "report.json", release, result)
    file = out / "report.md"
    file.write_text(_text(release, data, found, engine, result), encoding="utf-8")
    return file


def _check_place(out: Path, data: Path) -> None:
    """See that a report overwrites nothing, and that no later run takes its plots for X-rays."""
    place, images = out.resolve(), data.resolve()
    if images in (place, *place.parents):
        raise RunMismatch("a folder for the report outside the X-rays (give --out)", f"{place}")
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise RunMismatch(
            f"a new or empty folder for the report at {out} (or give another --out)",
            "what is there already",
        )


def _names(release: Release, data: Path) -> Data:
    """Give the release's labels and hash distance, and all other labels that are in the data."""
    known = Data.model_validate(release.manifest.training.config.get("data", {}))
    rules = Data(
        labels=release.manifest.labels,
        aliases=known.aliases,
        duplicate_bits=known.duplicate_bits,
    )
    others = {name for name in listing.labels_in(data) if not listing.canonical(name, rules)}
    others.add(listing.UNLABELLED)
    return rules.model_copy(update={"other_labels": tuple(sorted(others))})


def _report(
    release: Release, engine: Engine, pixels: Pixels, measured: Measured, rules: Rules
) -> Report:
    seed = release.manifest.training.seed
    places = [i for i, record in enumerate(measured.records) if record.label in rules.labels]
    two = measured.of(rules.labels)
    there = {record.label for record in two.records}
    return Report(
        cohorts=evaluate.cohorts(measured, rules, seed),
        missing=tuple(label for label in rules.labels if label not in there),
        controls=controls.controls(engine, pixels[places], two.positive, seed)
        if two.both_labels
        else (),
        mistakes=evaluate.mistakes(two, rules),
        acceptance=tuple(_refused(release, measured))
        if release.manifest.acceptance.trained
        else (),
    )


def _refused(release: Release, measured: Measured) -> Iterator[tuple[str, int, int]]:
    acceptance = release.manifest.acceptance
    kinds = sorted({(record.cohort, record.label) for record in measured.records})
    for cohort, label in kinds if acceptance.trained else ():
        scores = measured.where(cohort=cohort, label=label).acceptance
        refused = int((scores < acceptance.threshold).sum())
        yield f"{cohort or 'unnamed'} / {label}", len(scores), refused


def _tell(found: Scan, result: Report) -> None:
    reasons = dataset.commonest(found.rejected)
    log.info("%d X-rays used, %d files not%s", len(found.records), len(found.rejected), reasons)
    if result.missing:
        labels = ", ".join(sorted({record.label for record in found.records}))
        missing = " or ".join(result.missing)
        log.warning("no X-ray is labelled %s, but %s: %s", missing, labels, NOT_MEASURED)


def _write_json(path: Path, release: Release, result: Report) -> None:
    content = {
        "release": {
            "name": release.manifest.name,
            "version": release.manifest.version,
            "digest": release.digest,
        },
        "labels_missing": result.missing,
        "metrics": [cohort.model_dump() for cohort in result.cohorts],
        "controls": [control.model_dump() for control in result.controls],
        "mistakes": [mistake.model_dump() for mistake in result.mistakes],
        "acceptance": [
            {"name": name, "images": images, "refused": refused}
            for name, images, refused in result.acceptance
        ],
        "precision": result.precision,
        "agreement": result.agreement,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _text(release: Release, data: Path, found: Scan, engine: Engine, result: Report) -> str:
    whole = next((c for c in result.cohorts if "auc" in c.metrics), None)
    return markdown(
        "report.md.j2",
        m=release.manifest,
        digest=release.digest,
        data=listing.written(Path(data.resolve().name)),
        used=len(found.records),
        rejected=len(found.rejected),
        engine=f"{engine.name} {engine.precision}",
        cohorts=result.cohorts,
        missing=result.missing,
        not_measured=NOT_MEASURED,
        prevalences=metrics.PREVALENCES,
        accepted=result.acceptance,
        controls=result.controls,
        real=whole.metrics["auc"] if whole else None,
        mistakes=result.mistakes,
        precision=result.precision,
        agreement=result.agreement,
    )
