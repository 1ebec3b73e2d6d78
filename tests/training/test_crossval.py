import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner

from training import __main__ as program
from training import crossval, export, metrics, model
from training.config import Config, Data
from training.errors import DatasetInvalid, RunMismatch
from training.fit import Examples
from training.run import Run


@pytest.fixture
def run(data: Path, tmp_path: Path, config: Config) -> Run:
    recipe = config.model_copy(update={"data": Data(folds=4), "sensitivity": 0.5})
    return recorded(Run(tmp_path / "work", recipe, Path("tiny.toml"), data))


def recorded(run: Run) -> Run:
    run.record()
    return run


class FakeFit:
    """Stands for the fit: says what it was given, and may be interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folds: list[str] = []
        self.fail_at = ""
        self.sizes: list[tuple[int, int]] = []
        monkeypatch.setattr(crossval, "fit", self)
        monkeypatch.setattr(crossval, "load_network", by_brightness)

    def __call__(self, folder: Path, _: Config, train: Examples, validation: Examples) -> None:
        if folder.name == self.fail_at:
            raise KeyboardInterrupt
        folder.mkdir(parents=True)
        self.folds.append(folder.name)
        self.sizes.append((len(train.inputs), len(validation.inputs)))


def by_brightness(_: Path, __: Config, size: int) -> keras.Model:
    """A network without training: the brighter an image, the more it is COVID-19."""
    image = keras.Input((size, size, 3))
    bright = keras.layers.GlobalAveragePooling2D()(image)
    weights = [np.array([[1.0, -1.0]] * 3, np.float32) / 100, np.zeros(2, np.float32)]
    answer = keras.layers.Dense(2, activation="softmax")
    network = keras.Model(image, answer(bright))
    answer.set_weights(weights)
    return network


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> FakeFit:
    return FakeFit(monkeypatch)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_image_is_predicted_once_by_the_fold_that_was_kept_out(
    run: Run, fitted: FakeFit, tmp_path: Path
) -> None:
    report = crossval.cross_validate(run, 4, tmp_path / "report.json")
    predictions = rows(tmp_path / "report.csv")
    assert fitted.folds == ["1-of-4", "2-of-4", "3-of-4", "4-of-4"]
    assert fitted.sizes == [(16, 8)] * 4
    assert [p["file"] for p in predictions] == [r.file for r in run.records()]
    assert Counter(p["fold"] for p in predictions) == {"1": 8, "2": 8, "3": 8, "4": 8}
    for fold in report.folds:
        assert fold.images["test"] == {"COVID-19": 4, "Normal": 4}
        assert set(fold.probabilities) == {
            p["file"] for p in predictions if p["fold"] == str(fold.number)
        }


def test_a_folds_numbers_follow_from_its_predictions_and_its_own_threshold(
    run: Run, fitted: FakeFit, tmp_path: Path
) -> None:
    crossval.cross_validate(run, 4, tmp_path / "report.json")
    assert fitted.folds
    text = (tmp_path / "report.json").read_text()
    assert len(crossval.Report.model_validate_json(text).folds) == 4  # as the card reads it
    report = json.loads(text)
    predictions = rows(tmp_path / "report.csv")
    for fold in report["folds"]:
        mine = [p for p in predictions if p["fold"] == str(fold["number"])]
        scores = np.array([float(p["probability"]) for p in mine])
        positive = np.array([p["label"] == "COVID-19" for p in mine])
        wanted = metrics.of_two_labels(fold["threshold"])
        for name, value in fold["metrics"].items():
            assert value == pytest.approx(wanted[name](scores, positive), abs=1e-5), name
    for name, mean in report["mean"].items():
        values = [fold["metrics"][name] for fold in report["folds"]]
        assert mean == pytest.approx(np.mean(values))
        assert report["standard_deviation"][name] == pytest.approx(np.std(values, ddof=1))


def test_temperature_and_threshold_come_from_validation_and_never_from_the_fold(
    run: Run, fitted: FakeFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next fold is validation: one's images are not among those that choose for it."""
    chosen: list[np.ndarray] = []

    def choose(scores: np.ndarray, positive: np.ndarray, _: float) -> float:
        assert positive.sum() == 4
        chosen.append(scores)
        return 0.5

    monkeypatch.setattr(crossval, "choose_threshold", choose)
    monkeypatch.setattr(crossval, "fit_scaling", lambda *_: export.UNSCALED)
    report = crossval.cross_validate(run, 4, tmp_path / "report.json")
    assert fitted.folds
    for number, scores in enumerate(chosen):
        following = report.folds[(number + 1) % 4]
        assert np.allclose(scores, list(following.probabilities.values()))


def test_an_interrupted_cross_validation_goes_on_at_the_fold_where_it_was(
    run: Run, fitted: FakeFit, tmp_path: Path
) -> None:
    fitted.fail_at = "3-of-4"
    with pytest.raises(KeyboardInterrupt):
        crossval.cross_validate(run, 4, tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()
    scanned = (run.folder / "pixels.npy").stat().st_mtime_ns
    fitted.fail_at = ""
    broken = crossval.cross_validate(run, 4, tmp_path / "report.json")
    assert fitted.folds == ["1-of-4", "2-of-4", "3-of-4", "4-of-4"]
    assert (run.folder / "pixels.npy").stat().st_mtime_ns == scanned
    whole = recorded(Run(tmp_path / "whole", run.config, run.recipe, run.data))
    assert crossval.cross_validate(whole, 4, tmp_path / "whole.json") == broken
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "report.csv").read_bytes()


def test_other_numbers_of_folds_are_kept_apart(run: Run, fitted: FakeFit, tmp_path: Path) -> None:
    crossval.cross_validate(run, 4, tmp_path / "four.json")
    crossval.cross_validate(run, 3, tmp_path / "three.json")
    assert fitted.folds[4:] == ["1-of-3", "2-of-3", "3-of-3"]


def test_fewer_folds_than_the_recipes_need_no_more_groups_than_that(
    run: Run, fitted: FakeFit, tmp_path: Path
) -> None:
    recipe = run.config.model_copy(update={"data": Data(folds=17)})
    small = recorded(Run(tmp_path / "small", recipe, run.recipe, run.data))
    report = crossval.cross_validate(small, 4, tmp_path / "report.json")
    assert fitted.folds == ["1-of-4", "2-of-4", "3-of-4", "4-of-4"]
    assert crossval.cross_validate(small, 4, tmp_path / "again.json") == report
    with pytest.raises(RunMismatch, match=r"dataset\.csv"):
        small.records()  # nothing is learned from without the recipe's own split


def test_more_folds_than_groups_of_a_label_are_refused(
    run: Run, fitted: FakeFit, tmp_path: Path
) -> None:
    with pytest.raises(DatasetInvalid, match="at least 17"):
        crossval.cross_validate(run, 17, tmp_path / "report.json")
    assert not fitted.folds


def test_keras_gives_the_logits_of_the_graph_that_a_release_is_made_of(
    tmp_path: Path, config: Config
) -> None:
    keras.utils.set_random_seed(11)
    weights = tmp_path / "x.weights.h5"
    model.build(2, "none", 224).save_weights(weights)
    pixels = np.random.default_rng(5).integers(0, 256, (2, 224, 224, 1), np.uint8)
    network = export.load_network(weights, config)
    released = export.all_logits(export.ReleaseGraph(network), pixels)
    network.layers[-1].activation = keras.activations.linear
    plain = crossval.predict_logits(network, Examples(pixels, np.eye(2, dtype=np.float32)))
    # The release's kernels are rounded to float16.
    assert np.allclose(softmax(plain, axis=1), softmax(released, axis=1), atol=2e-3)


RECIPE = """
backbone = "{backbone}"
[[stages]]
name = "head"
train_from = "head"
epochs = 1
size = 32
batch_size = 8
learning_rate = 1e-3
"""


@pytest.mark.usefixtures("small_network")
def test_the_command_prints_a_line_a_fold_with_mean_and_spread(
    data: Path, tmp_path: Path, backbone_file: Path
) -> None:
    recipe, out = tmp_path / "tiny.toml", tmp_path / "out" / "report.json"
    recipe.write_text(RECIPE.format(backbone=backbone_file))
    places = ["--data", data, "--config", recipe, "--work", tmp_path / "work", "--out", out]
    done = CliRunner().invoke(program.app, ["crossval", "--folds", "3", *map(str, places)])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()[-7:]]
    assert [line[0] for line in lines] == ["fold", "1", "2", "3", "mean", "s.d.", "The"]
    report: dict[str, Any] = json.loads(out.read_text())
    assert float(lines[4][1]) == pytest.approx(report["mean"]["auc"], abs=1e-4)
    assert "probabilities" not in report["folds"][0]
    assert str(recipe) in report["command"]
    assert len(rows(out.with_suffix(".csv"))) == 32
    histories = (tmp_path / "work" / "crossval").glob("*-of-3/1-head/history.json")
    assert len(list(histories)) == 3


def test_fewer_than_three_folds_leave_none_to_learn_from() -> None:
    done = CliRunner().invoke(
        program.app, ["crossval", "--folds", "2", "--data", "x", "--config", "y"]
    )
    assert done.exit_code == 2
