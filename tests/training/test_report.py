import csv
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from app.engines import Engine, EngineChoice, Predictions, create_engine
from app.imaging import Pixels
from app.release import EngineName, Precision
from tests import fakes
from tests.training.conftest import draw
from training import __main__ as program
from training import evaluate
from training import report as reports
from training.dataset import Record
from training.errors import DatasetInvalid, RunMismatch
from training.evaluate import Measured
from training.report import report

SETS = [
    {
        "confidence": 0.9,
        "least": {"COVID-19": 0.45, "Normal": 0.45},
        "images": {"COVID-19": 9, "Normal": 9},
    }
]


SHIFT = np.array([-0.01, 0.01], np.float32)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that answers with the brightness, and calls COVID-19 from 0.4 upwards."""
    return fakes.write_tiny_release(
        tmp_path_factory.mktemp("store"),
        decision={"threshold": 0.4, "rule": "fixed"},
        prediction_sets=SETS,
    )


def test_a_folder_becomes_a_report_with_plots_and_a_row_for_every_image(
    tmp_path: Path, release: Path
) -> None:
    data = tmp_path / "clinic"
    draw(data / "COVID-19", 6, brightness=90)
    draw(data / "normal" / "ward 3", 5, brightness=0)
    draw(data / "Tuberculosis", 2, brightness=60)
    (data / "normal" / "broken.png").write_bytes(b"no image")
    file = report(release, data, tmp_path / "out")
    text = file.read_text()
    assert "| evaluation, all | 11 | 1.000 (0.478" in text
    assert "| evaluation, unnamed / Tuberculosis | 2 | 100.0%" in text
    assert "the central two thirds of both sides black" in text
    assert "| ward 3 / Normal | 5 | 0 |" in text
    for plot in ("roc", "confusion", "reliability"):
        assert (tmp_path / "out" / f"{plot}.png").stat().st_size > 5000
    assert "normal/broken.png" in (tmp_path / "out" / "rejected.csv").read_text()
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 13
    assert {row["split"] for row in rows} == {"evaluation"}
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["release"]["version"] == 1
    assert numbers["metrics"][0]["metrics"]["accuracy"]["value"] == 1


def test_images_of_one_label_get_a_report_without_what_takes_two(
    tmp_path: Path, release: Path
) -> None:
    draw(tmp_path / "data" / "Normal", 3, brightness=0)
    text = report(release, tmp_path / "data", tmp_path / "out").read_text()
    assert "| evaluation, unnamed / Normal | 3 | 0.0%" in text
    assert "Controls" not in text
    assert not (tmp_path / "out" / "roc.png").exists()


def test_a_label_that_no_image_has_is_told_loudly(
    tmp_path: Path, release: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path / "data" / "Healthy", 3, brightness=0)
    draw(tmp_path / "data" / "COVID", 2, brightness=90)
    with caplog.at_level("INFO"):
        text = report(release, tmp_path / "data", tmp_path / "out").read_text()
    assert "no X-ray is labelled Normal, but COVID-19, Healthy: AUC" in caplog.text
    assert "**No X-ray here is labelled Normal: AUC, sensitivity" in text
    assert "| evaluation, unnamed / COVID-19 | 2 | 100.0% (15.8" in text
    assert "PPV" not in text


def test_a_public_databases_own_names_give_a_whole_report(tmp_path: Path, release: Path) -> None:
    draw(tmp_path / "data" / "COVID" / "images", 3, brightness=90)
    draw(tmp_path / "data" / "Normal" / "images", 3, brightness=0)
    draw(tmp_path / "data" / "Normal" / "masks", 3, brightness=60)
    text = report(release, tmp_path / "data", tmp_path / "out").read_text()
    assert "| evaluation, all | 6 |" in text
    assert "No X-ray here" not in text
    assert (tmp_path / "out" / "rejected.csv").read_text().count("masks, which are no X-rays") == 3


def test_a_folder_without_labels_gets_a_row_for_every_image(tmp_path: Path, release: Path) -> None:
    draw(tmp_path / "data", 3, brightness=90)
    text = report(release, tmp_path / "data", tmp_path / "out").read_text()
    assert "| evaluation, unnamed / unlabelled | 3 | 100.0%" in text
    assert "**No X-ray here is labelled COVID-19 or Normal" in text
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        assert [row["called"] for row in csv.DictReader(stream)] == ["COVID-19"] * 3


def test_a_folder_without_images_is_an_error(tmp_path: Path, release: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DatasetInvalid, match="none that is usable"):
        report(release, tmp_path / "data", tmp_path / "out")


def test_a_report_takes_no_place_of_another_and_none_among_the_images(
    tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    draw(data / "Normal", 1, brightness=0)
    monkeypatch.setattr(reports, "open_release", None)  # refused before anything is done
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "report.md").touch()
    for taken in (tmp_path / "taken", tmp_path / "taken" / "report.md"):
        with pytest.raises(RunMismatch, match=r"give another --out\); received what is there"):
            report(release, data, taken)
    monkeypatch.chdir(data)
    for inside in (data, Path("runs") / "on-data"):
        with pytest.raises(RunMismatch, match="outside the X-rays"):
            report(release, Path(), inside)


def test_a_folder_whose_name_is_no_utf_8_gets_its_report(
    tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / os.fsdecode(b"x\xff") / "COVID-19", 1, brightness=90)
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", "--release", str(release), "--data", os.fsdecode(b"x\xff")]
    done = CliRunner().invoke(program.app, arguments)
    assert "The report is runs/on-x\\udcff/report.md" in done.output
    (file,) = tmp_path.glob("runs/*/report.md")
    assert "Images: x\\udcff, 1 used" in file.read_text()


def test_names_stay_in_their_cells_of_the_tables(tmp_path: Path, release: Path) -> None:
    draw(tmp_path / "data" / "Normal" / "site B|x", 2, brightness=90)
    draw(tmp_path / "data" / "tuber\nculosis", 2, brightness=0)
    text = report(release, tmp_path / "data", tmp_path / "out").read_text()
    assert "| evaluation, site B\\|x / Normal | 2 |" in text
    assert "| site B\\|x / Normal | 2 | " in text
    assert "| `Normal/site B\\|x/00.png` | Normal |" in text
    assert text.count("tuber culosis | 2 |") == 2


def test_images_of_one_patient_and_near_duplicates_count_as_one_group(
    tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "data", 4, brightness=90)
    nearly = Image.open(tmp_path / "data" / "03.png").point(lambda value: max(value - 1, 0))
    nearly.save(tmp_path / "data" / "04.png")
    rows = ["00.png,COVID-19,A", "01.png,COVID-19,A"]
    rows += [f"{number:02}.png,COVID-19," for number in (2, 3, 4)]
    (tmp_path / "data" / "index.csv").write_text("\n".join(["file,label,patient", *rows]))
    seen: list[int] = []
    measure = evaluate.measure

    def noted(engine: Engine, pixels: Pixels, records: Sequence[Record], label: str) -> Measured:
        seen.extend(record.group for record in records)
        return measure(engine, pixels, records, label)

    monkeypatch.setattr(evaluate, "measure", noted)
    text = report(release, tmp_path / "data", tmp_path / "out").read_text()
    assert seen == [0, 0, 1, 2, 2]
    assert "| evaluation, unnamed / COVID-19 | 5 | 100.0% (29.2" in text  # as of three images


def test_what_another_precision_changes_is_told(
    tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "data" / "COVID-19", 3, brightness=90)
    draw(tmp_path / "data" / "Normal", 3, brightness=0)
    monkeypatch.setattr(reports, "create_engine", _rounded_in_int8)
    text = report(release, tmp_path / "data", tmp_path / "out", "int8").read_text()
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "## In int8" in text
    assert numbers["precision"] == "int8"
    assert numbers["agreement"]["probability_difference_p99"] == pytest.approx(0.01, abs=1e-5)
    assert numbers["agreement"]["auc_difference"] == 0
    assert numbers["agreement"]["same_acceptance"] == 1


def test_another_precision_is_compared_where_there_is_one_label_too(
    tmp_path: Path, release: Path
) -> None:
    draw(tmp_path / "data" / "Normal", 3, brightness=0)
    assert "## In" not in report(release, tmp_path / "data", tmp_path / "without").read_text()
    text = report(release, tmp_path / "data", tmp_path / "out", "f32").read_text()
    assert "auc difference" not in text
    assert "| same decision | 1.00000 |" in text


class _Rounded:
    """Its probabilities are off by `SHIFT`."""

    precision: Precision = "int8"

    def __init__(self, exact: Engine) -> None:
        self.name: EngineName = exact.name
        self._exact = exact

    def predict(self, images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
        answer = self._exact.predict(images, alone=alone)
        return replace(answer, probabilities=answer.probabilities + SHIFT)

    def close(self) -> None:
        self._exact.close()


def _rounded_in_int8(
    path: Path, choice: EngineChoice = "auto", precision: Precision = "f32"
) -> Engine:
    exact = create_engine(path, choice)
    return _Rounded(exact) if precision == "int8" else exact
