import csv
import json
from pathlib import Path

import pytest

from tests import fakes
from tests.training.conftest import draw
from training.errors import DatasetInvalid
from training.report import report

SETS = [
    {
        "confidence": 0.9,
        "least": {"COVID-19": 0.45, "Normal": 0.45},
        "images": {"COVID-19": 9, "Normal": 9},
    }
]


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
    assert "| evaluation, all | 11 | 1.000 (1.000" in text
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


def test_a_folder_without_images_is_an_error(tmp_path: Path, release: Path) -> None:
    with pytest.raises(DatasetInvalid, match="none that is usable"):
        report(release, tmp_path, tmp_path / "out")
