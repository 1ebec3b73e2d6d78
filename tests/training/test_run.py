import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.config import Config
from training.errors import RunMismatch
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
