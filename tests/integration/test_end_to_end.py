"""From a folder of images to an answer over HTTP, with the real programs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.release import Release, open_release
from tests.integration.server import Start
from tests.training.conftest import draw, write_backbone

pytest.importorskip("tensorflow", reason="training needs the extra `train`")

from training import __main__ as program
from training import crossval

ROOT = Path(__file__).parents[2]
RECIPE = """
name = "covid19-resnet50"
backbone = "none"
[data]
folds = 4
other_labels = ["Pneumonia"]
[[stages]]
name = "head"
train_from = "head"
epochs = 1
size = 32
batch_size = 8
learning_rate = 1e-3
"""

FOLDS = {
    "command": "python -m training crossval",
    "config": {},
    "environment": {},
    "folds": [],
    "mean": dict.fromkeys(crossval.METRICS, 0.912),
    "standard_deviation": dict.fromkeys(crossval.METRICS, 0.034),
}


def training(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    command = [sys.executable, "-m", "training", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=ROOT,
        env=os.environ,
    )


def output(*arguments: str | Path) -> str:
    """Run the program here, which has TensorFlow already; it succeeds."""
    done = CliRunner().invoke(program.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.output


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> object:
    """Run the program here; give what it ends with: a sentence goes to stderr, the code is 1."""
    monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    return ended.value.code


def check_that_only_the_card_is_another(release: Release, anew: Release) -> None:
    before, after = release.manifest, anew.manifest
    assert after.network_of
    assert after.network_of.digest == release.digest
    assert after.files["saved_model.pb"] == before.files["saved_model.pb"]
    assert (after.metrics, after.precisions) == (before.metrics, before.precisions)
    card = (anew.path / "MODEL_CARD.md").read_text()
    assert "### A control: covid19-resnet50" in card
    assert "file by file" in card


def test_a_folder_of_images_becomes_a_release_that_is_served(tmp_path: Path, start: Start) -> None:
    data, recipe, store = tmp_path / "data", tmp_path / "tiny.toml", tmp_path / "store"
    draw(data / "COVID-19", 16, brightness=90)
    draw(data / "Normal", 16, brightness=0)
    draw(data / "Pneumonia", 3, brightness=40)
    (data / "Normal" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    recipe.write_text(RECIPE)
    options = ("--data", data, "--config", recipe, "--work", tmp_path / "work", "--out", store)
    backbone = ("--backbone", write_backbone(tmp_path))

    done = training("run", *options, *backbone)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "not used: Normal/broken.png" in done.stderr

    release = open_release(store / "covid19-resnet50" / "1")
    manifest = release.manifest
    assert {c.split for c in manifest.metrics} == {"test", "validation", "held-out"}
    assert "f32" in manifest.precisions["openvino"]
    assert manifest.training.dataset.images["held-out"] == {"Pneumonia": 3}
    assert manifest.acceptance.trained
    assert {share.name for share in manifest.acceptance.accepted_foreign} > {"X-ray upside down"}
    card = (release.path / "MODEL_CARD.md").read_text()
    assert "no medical device" in card
    assert manifest.training.command in card
    assert f"{manifest.decision.threshold:.4f}" in card
    for plot in ("roc", "confusion", "reliability", "training"):
        assert (release.path / "evaluation" / f"{plot}.png").stat().st_size > 5000

    assert {rule.confidence for rule in manifest.prediction_sets} == {0.9, 0.95}
    assert len(manifest.controls) == 3

    folds = tmp_path / "folds.json"
    folds.write_text(json.dumps(FOLDS))
    beside = ("--control", tmp_path / "work", "--folds", folds)
    assert str(store / "covid19-resnet50" / "2") in output("card", *options, *backbone, *beside)
    second = open_release(store / "covid19-resnet50" / "2")
    assert second.manifest.metrics == manifest.metrics
    card = (second.path / "MODEL_CARD.md").read_text()
    assert "### A control: covid19-resnet50" in card
    assert "| 0.912 ± 0.034 |" in card

    arguments = ("--data", data, "--config", recipe, "--work", tmp_path / "anew", "--out", store)
    assert "covid19-resnet50/3" in output("remeasure", "--release", second.path, *arguments)
    third = open_release(store / "covid19-resnet50" / "3")
    check_that_only_the_card_is_another(second, third)
    for other in (second, third):
        shutil.rmtree(other.path)

    output("evaluate", "--release", release.path, "--data", data, "--out", tmp_path / "on")
    assert "| evaluation, unnamed / Pneumonia | 3 |" in (tmp_path / "on" / "report.md").read_text()

    # Drawings are answered too, whatever the acceptance makes of them.
    server = start(model_store=store, acceptance="warn").wait_until_ready()
    answer = server.predict((data / "COVID-19" / "00.png").read_bytes())
    assert answer.status_code == 200
    body = answer.json()
    assert sum(body["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert body["model"]["digest"] == release.digest


def test_an_error_is_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    done = training(
        "scan", "--data", tmp_path / "gone", "--config", recipe, "--work", tmp_path / "work"
    )
    assert done.returncode == 1
    assert "no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_work_folder_of_another_recipe_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, recipe = tmp_path / "data", tmp_path / "tiny.toml"
    draw(data / "COVID-19", 8, brightness=90)
    draw(data / "Normal", 8, brightness=0)
    recipe.write_text(RECIPE)
    options = ("--data", data, "--config", recipe, "--work", tmp_path / "work")
    output("scan", *options)
    recipe.write_text(RECIPE.replace("epochs = 1", "epochs = 2"))
    assert "same config" in str(refusal(monkeypatch, "fit", *options))


def test_the_summary_of_the_articles_recipe_needs_no_download() -> None:
    printed = output("summary", "--config", ROOT / "training/configs/article.toml")
    table = [line.split() for line in printed.splitlines()[-181:]]
    assert [row[0] for row in table] == [str(index) for index in range(181)]
    assert [row[-1] for row in table] == ["frozen"] * 175 + ["trains"] * 6
