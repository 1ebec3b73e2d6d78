"""The stages of a run, from a folder of X-rays to a release in the store.

Each reads what the ones before it left in the run's work folder, and does nothing twice.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from app.engines import INT8, Engine, create_engine
from app.errors import InferenceFailed
from app.imaging import Pixels, phantom
from app.processor import FASTEST_FIRST, native_precisions
from app.release import Cohort, Decision, EngineName, Golden, GoldenAnswer, Precision, open_release
from training import (
    acceptance,
    conformal,
    crossval,
    lookalikes,
    plots,
    publish,
    quantization,
    remeasure,
)
from training import evaluate as measures
from training import export as exporting
from training import fit as fitting
from training.continuation import HISTORY, continue_from
from training.controls import controls
from training.dataset import Record
from training.errors import RunMismatch
from training.evaluate import Measured, Rules
from training.files import write_whole
from training.fit import Examples, History
from training.folding import fold
from training.publish import Beside, Calibration, ControlRun, Results
from training.run import Run, environment, places
from training.workers import Workers, chief_first

log = logging.getLogger(__name__)

CALIBRATION = "calibration.json"
EVALUATION = "evaluation.json"
GOLDEN_TOLERANCE = 0.01
RULE = (
    "the best specificity among thresholds whose sensitivity on the validation split ({images} "
    "images, of which those that acceptance refuses count as missed) is at least {sensitivity}"
)


def scan(run: Run) -> None:
    """Read, deduplicate, group and split the X-rays."""
    run.scan()


def fit(run: Run, release: Path | None = None, workers: Workers | None = None) -> None:
    """Train the network, stage after stage of the recipe; after a release's where one is given."""
    if release:
        with chief_first(workers):
            continue_from(release, run.folder / "fit", run.config, run.records())
    train, validation = (_examples(run, name) for name in ("train", "validation"))
    fitting.fit(run.folder / "fit", run.config, train, validation, workers)


def export(run: Run) -> None:
    """Calibrate on the validation split, and write the SavedModel and its quantised network."""
    if not (run.folder / CALIBRATION).exists():
        _export(run)
    release = run.folder / "release"
    # What was measured stays as it is: there a missing one did not pass.
    if not (release / INT8).exists() and not (run.folder / EVALUATION).exists():
        quantization.quantize(release, _pixels(run, "train"), run.config.seed)


def evaluate(run: Run) -> None:
    """Measure the exported file in both engines, and draw the plots."""
    rules = _calibration(run).rules(run.config.data.labels)
    if (run.folder / EVALUATION).exists():
        return
    reference = create_engine(run.folder / "release", "tensorflow")
    measured = _measure(run, reference, ("validation", "test", "held-out"))
    test = measured.where(split="test")
    passed, agreement = agreement_of_engines(run, test)
    results = Results(
        metrics=(
            *measures.cohorts(measured, rules, run.config.seed),
            *_without_lookalikes(run, measured, rules),
        ),
        controls=controls(reference, _pixels(run, "test"), test.positive, run.config.seed),
        mistakes=measures.mistakes(test, rules),
        acceptance=acceptance.report(
            _calibration(run).acceptance, measured, reference, _pixels(run, "test"), run.config.seed
        ),
        precisions=passed,
        agreement=agreement,
        processor=f"{environment()['hardware']}, with {', '.join(native_precisions())}",
        golden=_golden(run, reference, passed),
    )
    folder = run.folder / "release" / "evaluation"
    plots.draw(test, rules, folder)
    histories: dict[str, History] = fitting.histories(run.folder / "fit", run.config)
    plots.training_curves(histories, folder / "training.png")
    _write_json(run.folder / "release" / HISTORY, histories)
    measures.write_predictions(folder / "predictions.csv", measured, rules)
    _write_json(run.folder / EVALUATION, results.model_dump(mode="json"))


def take_over(run: Run, path: Path) -> None:
    """Take over the network of a release, in place of `fit` and `export`, to measure it anew."""
    release = open_release(path)
    if not (run.folder / CALIBRATION).exists():
        remeasure.take_over(release, run)
        _write_json(run.folder / CALIBRATION, Calibration.of(release.manifest).model_dump())
    elif (whose := remeasure.network_of(run)) is None or whose.digest != release.digest:
        raise RunMismatch(
            f"the network of {path} in {run.folder} (or give another --work)", "another one"
        )


def card(run: Run, out: Path, control: Path | None = None, folds: Path | None = None) -> Path:
    """Write manifest and model card, and put the release into the store.

    Args:
        run: The run.
        out: The store.
        control: Work folder of another run, told on the card as a control, or a release whose card
            tells of one; where None, what a release that was taken over tells.
        folds: Report of a cross-validation, told on the card; the same.
    """
    results = Results.model_validate_json(run.need(EVALUATION, "evaluate").read_text())
    told = run.folder / "release" / remeasure.BESIDE
    beside = Beside.model_validate_json(told.read_text()) if told.exists() else Beside()
    if control:
        beside.control = _control(control)
    if folds:
        beside.folds = crossval.Report.model_validate_json(folds.read_text())
    beside.engines |= {results.processor: results.agreement}
    return publish.publish(run, out, _calibration(run), results, beside)


def _export(run: Run) -> None:
    weights = run.need(f"fit/{fitting.stage_folder(run.config, -1)}/{fitting.FINAL}", "fit")
    network = exporting.load_network(weights, run.config)
    fold(network)
    validation = _examples(run, "validation")
    positive = validation.targets[:, 0] == 1
    logits = exporting.all_logits(exporting.ReleaseGraph(network), validation.inputs)
    scaling = exporting.fit_scaling(logits, positive)
    scores = scaling.scores(logits)
    learned = acceptance.learn(
        partial(exporting.all_features, exporting.ReleaseGraph(network)),
        _pixels(run, "train"),
        validation.inputs,
        run.config.seed,
    )
    threshold = exporting.choose_threshold(
        scores, positive, run.config.sensitivity, learned.accepted
    )
    graph = exporting.ReleaseGraph(network, scaling, learned.classifier)
    shutil.rmtree(run.folder / "release", ignore_errors=True)
    exporting.save(graph, run.folder / "release")
    rule = RULE.format(sensitivity=run.config.sensitivity, images=len(scores))
    labels = run.config.data.labels
    sets = [conformal.calibrate(scores, positive, labels, c) for c in conformal.CONFIDENCES]
    calibration = Calibration(
        temperature=scaling.temperature,
        bias=scaling.bias,
        decision=Decision(threshold=threshold, rule=rule),
        acceptance=learned.rule,
        prediction_sets=tuple(sets),
    )
    _write_json(run.folder / CALIBRATION, calibration.model_dump())


def _control(folder: Path) -> ControlRun:
    """Read another run's recipe and results, or what a release tells of such a run."""
    if (told := folder / remeasure.BESIDE).exists():
        control = Beside.model_validate_json(told.read_text()).control
        if control is None:
            raise RunMismatch(f"a control on the card of {folder}", "none")
        return control
    recipe = json.loads((folder / "run.json").read_text())["config"]
    results = Results.model_validate_json((folder / EVALUATION).read_text())
    return ControlRun(recipe=recipe, metrics=results.metrics)


def _calibration(run: Run) -> Calibration:
    text = run.need(CALIBRATION, "export").read_text()
    return Calibration.model_validate_json(text)


def _pixels(run: Run, split: str) -> Pixels:
    return run.pixels()[places(run.records(), split)]


def _examples(run: Run, split: str) -> Examples:
    records = run.records()
    chosen = places(records, split)
    return Examples(run.pixels()[chosen], run.targets([records[i] for i in chosen]))


def _measure(run: Run, engine: Engine, splits: tuple[str, ...]) -> Measured:
    everything = run.records()
    chosen = [i for i, record in enumerate(everything) if record.split in splits]
    pixels: Pixels = run.pixels()[chosen]
    records: list[Record] = [everything[i] for i in chosen]
    return measures.measure(engine, pixels, records, run.config.data.labels[0])


def _without_lookalikes(run: Run, measured: Measured, rules: Rules) -> Iterator[Cohort]:
    """Measure what is left without images that look like one of training, where there are such."""
    for split in ("validation", "test"):
        part = measured.where(split=split)
        apart = part.only(~lookalikes.alike(_pixels(run, split), _pixels(run, "train")))
        if apart.both_labels and len(apart.records) < len(part.records):
            yield measures.cohort(publish.WITHOUT_LOOKALIKES, split, apart, rules, run.config.seed)


def agreement_of_engines(
    run: Run, reference: Measured
) -> tuple[dict[EngineName, tuple[Precision, ...]], dict[str, dict[str, float]]]:
    """Name the precisions in which OpenVINO gives TensorFlow's answers, and how near they are.

    What this processor computes natively is tried, and nothing else; what a release that was taken
    over passed elsewhere stays. A quantised network that does not pass, or makes the release too
    large, is taken out of it.
    """
    release, calibration = run.folder / "release", _calibration(run)
    limits = calibration.decision.threshold, calibration.acceptance.threshold
    passed: list[Precision] = []
    numbers: dict[str, dict[str, float]] = {}
    for precision in reversed(FASTEST_FIRST):
        if precision not in native_precisions():
            passed += [precision] if precision in remeasure.passed_before(run) else []
            continue
        if precision == "int8" and not (release / INT8).exists():
            continue
        good = False
        try:
            other = _measure(run, create_engine(release, "openvino", precision), ("test",))
            good, numbers[f"OpenVINO {precision}"] = measures.agreement(reference, other, *limits)
        except InferenceFailed as error:
            log.warning("OpenVINO in %s gives no answers. %s", precision, error)
        if good and (precision != "int8" or quantization.fits(release)):
            passed.append(precision)
        elif precision == "int8":
            quantization.remove(release)
    return {"openvino": tuple(passed), "tensorflow": ("f32",)}, numbers


def _golden(run: Run, reference: Engine, passed: dict[EngineName, tuple[Precision, ...]]) -> Golden:
    int8 = None
    if "int8" in passed["openvino"]:
        int8 = _answer(create_engine(run.folder / "release", "openvino", "int8"))
    whole = _answer(reference).model_dump()
    return Golden(**whole, tolerance=GOLDEN_TOLERANCE, int8=int8)


def _answer(engine: Engine) -> GoldenAnswer:
    answer = engine.predict(phantom()[np.newaxis])
    first, second = (float(p) for p in answer.probabilities[0])
    return GoldenAnswer(
        probabilities=(first, second),
        acceptance=float(answer.acceptance[0]),
        heatmap_mean=float(answer.heatmap.mean()),
    )


def _write_json(path: Path, content: object) -> None:
    text = json.dumps(content, indent=2)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
