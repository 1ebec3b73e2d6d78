import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engines import INT8
from app.release import Golden, Release, open_release
from tests import fakes
from training import dataset, evaluate, publish, remeasure, stages
from training.config import Config, Stage
from training.continuation import HISTORY
from training.dataset import Record, fingerprint
from training.errors import ContinuationImpossible, RunMismatch
from training.publish import Beside, Calibration, ControlRun
from training.run import Run

STAGE = Stage(name="head", train_from="head", epochs=1, learning_rate=1e-3)
RECIPE = Config(note="Words of today.", stages=(STAGE,))
NOTHING = evaluate.Measured(
    [], np.empty(0), np.empty(0, bool), np.empty(0), np.empty((0, 7, 7), np.float32)
)
RECORDS = [Record("a.png", "COVID-19", "", "0", "0", 0, "test")]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A release of `RECIPE`, whose files are no network."""
    folder = tmp_path / "store" / "1"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"a network")
    (folder / "MODEL_CARD.md").write_text("An old card.")
    (folder / "evaluation" / "roc.png").write_bytes(b"an old plot")
    (folder / HISTORY).write_text(json.dumps({"head": [{"loss": 0.5}]}))
    (folder / remeasure.BESIDE).write_text('{"engines": {"another processor": {}}}')
    training: dict[str, Any] = fakes.manifest_content(folder)["training"]
    training["config"] = RECIPE.model_dump(mode="json") | {"note": "Words of then."}
    training["dataset"] = {"fingerprint": fingerprint(RECORDS), "images": {}}
    fakes.write_manifest(folder, training=training, temperature=1.4)
    return open_release(folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of `RECIPE` that has been scanned."""
    return scanned(tmp_path / "work", RECIPE, RECORDS)


def scanned(folder: Path, recipe: Config, records: list[Record]) -> Run:
    this = Run(folder, recipe, Path("ours.toml"), Path("data"))
    this.record()
    dataset.write_csv(folder / "dataset.csv", records, Record)
    return this


def test_the_network_is_taken_over_byte_for_byte_and_what_is_measured_anew_is_not(
    run: Run, release: Release
) -> None:
    stages.take_over(run, release.path)
    taken = {
        path.relative_to(run.folder / "release").as_posix(): path.read_bytes()
        for path in (run.folder / "release").rglob("*")
        if path.is_file()
    }
    other = (release.path / remeasure.BESIDE).read_bytes()
    assert taken == {"saved_model.pb": b"a network", remeasure.BESIDE: other}
    history = run.folder / "fit" / "1-head" / "history.json"
    assert json.loads(history.read_text()) == [{"loss": 0.5}]


def test_what_was_chosen_for_the_release_stays(run: Run, release: Release) -> None:
    stages.take_over(run, release.path)
    stored = (run.folder / stages.CALIBRATION).read_text()
    calibration = Calibration.model_validate_json(stored)
    manifest = release.manifest
    assert calibration.temperature == manifest.temperature == 1.4
    assert calibration.decision == manifest.decision
    assert calibration.acceptance == manifest.acceptance
    assert calibration.prediction_sets == manifest.prediction_sets


def test_the_manifest_can_tell_whose_network_it_is(run: Run, release: Release) -> None:
    assert remeasure.network_of(run) is None
    stages.take_over(run, release.path)
    network = remeasure.network_of(run)
    assert network is not None
    manifest = (release.path / "manifest.json").read_bytes()
    assert network.digest == hashlib.sha256(manifest).hexdigest() == release.digest
    assert (network.name, network.version) == (release.manifest.name, 1)


@pytest.mark.parametrize("change", [{"seed": 4}, {"stages": (STAGE, STAGE)}])
def test_another_recipe_is_refused(
    tmp_path: Path, release: Release, change: dict[str, object]
) -> None:
    run = scanned(tmp_path / "work", RECIPE.model_copy(update=change), RECORDS)
    with pytest.raises(ContinuationImpossible, match="own recipe"):
        stages.take_over(run, release.path)


def test_other_images_or_splits_are_refused(tmp_path: Path, release: Release) -> None:
    records = [Record("a.png", "COVID-19", "", "0", "0", 0, "train")]
    run = scanned(tmp_path / "work", RECIPE, records)
    with pytest.raises(ContinuationImpossible, match="fingerprint"):
        stages.take_over(run, release.path)
    assert not (run.folder / stages.CALIBRATION).exists()


def test_a_work_folder_with_a_network_of_its_own_is_left_alone(run: Run, release: Release) -> None:
    (run.folder / stages.CALIBRATION).write_text("of an export")
    with pytest.raises(RunMismatch, match="give another --work"):
        stages.take_over(run, release.path)


def test_a_run_that_goes_on_keeps_what_it_has(run: Run, release: Release) -> None:
    stages.take_over(run, release.path)
    measured = run.folder / "release" / "evaluation" / "roc.png"
    measured.write_bytes(b"a new plot")
    stages.take_over(run, release.path)
    assert measured.read_bytes() == b"a new plot"


def test_what_passed_on_another_processor_stays_and_what_fails_here_does_not(
    run: Run, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_manifest(
        release.path,
        training=release.manifest.training.model_dump(mode="json"),
        precisions={"openvino": ["f32", "bf16", "int8"], "tensorflow": ["f32"]},
    )
    stages.take_over(run, release.path)
    (run.folder / "release" / INT8).write_bytes(b"integers")
    (run.folder / "release" / INT8).with_suffix(".bin").write_bytes(b"integers")
    monkeypatch.setattr(stages, "native_precisions", lambda: ("int8", "f32"))
    monkeypatch.setattr(stages, "create_engine", lambda _, __, precision: precision)
    monkeypatch.setattr(stages, "_measure", lambda _, engine, __: engine)
    monkeypatch.setattr(
        evaluate, "agreement", lambda _, engine, *__: (engine == "f32", {"off": 0.1})
    )
    passed, numbers = stages.agreement_of_engines(run, NOTHING)
    assert passed["openvino"] == ("f32", "bf16")
    assert numbers.keys() == {"OpenVINO f32", "OpenVINO int8"}
    assert not (run.folder / "release" / INT8).exists()


def test_a_control_is_taken_from_a_release_that_tells_of_one(
    release: Release, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    control = ControlRun(recipe=Config(name="control", stages=(STAGE,)), metrics=())
    told: list[Beside] = []
    monkeypatch.setattr(publish, "publish", lambda *given: told.append(given[-1]))
    monkeypatch.setattr(stages, "_calibration", lambda _: None)
    results = publish.Results(
        metrics=(),
        controls=(),
        mistakes=(),
        precisions={},
        agreement={},
        golden=Golden(probabilities=(0.5, 0.5), acceptance=1, heatmap_mean=0, tolerance=0.01),
    )
    (run.folder / stages.EVALUATION).write_text(results.model_dump_json())
    with pytest.raises(RunMismatch, match="a control on the card"):
        stages.card(run, release.path, control=release.path)
    (release.path / remeasure.BESIDE).write_text(Beside(control=control).model_dump_json())
    stages.card(run, release.path, control=release.path)
    assert told[0].control == control
