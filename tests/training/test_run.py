import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from training.config import Config, Data
from training.errors import DatasetInvalid, RunMismatch
from training.run import Run


def recorded(folder: Path, config: Config, change: Callable[[dict[str, object]], object]) -> Run:
    """A run whose record was written by a program with other settings of the data."""
    run = Run(folder, config, Path("recipe.toml"), Path("data"))
    run.record()
    file = folder / "run.json"
    older = json.loads(file.read_text())
    change(older["config"]["data"])
    file.write_text(json.dumps(older))
    return run


def test_a_work_folder_from_before_a_setting_existed_is_the_same_runs(
    tmp_path: Path, config: Config
) -> None:
    run = recorded(tmp_path / "work", config, lambda data: data.pop("limit"))
    run.record()


def test_a_work_folder_with_a_setting_that_no_longer_exists_is_refused(
    tmp_path: Path, config: Config
) -> None:
    run = recorded(tmp_path / "work", config, lambda data: data.update(gone=1))
    with pytest.raises(RunMismatch, match="same config"):
        run.record()


def test_another_recipes_settings_are_named(tmp_path: Path, config: Config) -> None:
    config = config.model_copy(update={"note": "secret"})
    run = recorded(tmp_path / "work", config, lambda data: data.update(folds=5, cohorts=["a"]))
    with pytest.raises(RunMismatch) as refused:
        run.record()
    assert "data.folds (5 there, 10 here), data.cohorts.0 (a there, none here)." in str(
        refused.value
    )
    other = replace(run, config=config.model_copy(update={"stages": config.stages * 2}))
    with pytest.raises(RunMismatch, match=r"stages\.1\.name .* and \d+ more"):
        other.record()


def test_other_data_is_named(tmp_path: Path, config: Config) -> None:
    Run(tmp_path / "work", config, Path("recipe.toml"), Path("a")).record()
    with pytest.raises(RunMismatch, match=r"another data: \(a there, b here\)"):
        Run(tmp_path / "work", config, Path("recipe.toml"), Path("b")).record()


def test_what_is_not_used_is_told_though_the_rest_is_too_little_to_split(
    data: Path, tmp_path: Path, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "Normal" / "notes.txt").write_text("no image")
    recipe = config.model_copy(update={"data": Data(folds=17)})
    run = Run(tmp_path / "work", recipe, Path("recipe.toml"), data)
    run.record()
    with pytest.raises(DatasetInvalid, match="at least 17"):
        run.scan()
    assert "not used: Normal/notes.txt" in caplog.text
    assert "Normal/notes.txt" in (run.folder / "rejected.csv").read_text()


def test_what_only_the_cards_reader_sees_may_change_in_a_work_folder(
    tmp_path: Path, config: Config
) -> None:
    for note in ("before", "after"):
        recipe = config.model_copy(update={"note": note})
        Run(tmp_path / "work", recipe, Path("recipe.toml"), Path("data")).record()


def test_a_work_folder_keeps_the_recipes_note_for_the_card_of_another_run(
    tmp_path: Path, config: Config
) -> None:
    told = config.model_copy(update={"note": "A control."})
    Run(tmp_path / "work", told, Path("recipe.toml"), Path("data")).record()
    kept = json.loads((tmp_path / "work" / "run.json").read_text())["config"]
    assert Config.model_validate(kept) == told
