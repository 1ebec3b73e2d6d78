import json
from pathlib import Path

import pytest

from training.config import Config
from training.errors import RunMismatch
from training.run import Run


def test_a_work_folder_from_before_a_setting_existed_is_the_same_runs(
    tmp_path: Path, config: Config
) -> None:
    run = Run(tmp_path / "work", config, Path("recipe.toml"), Path("data"))
    run.record()
    file = tmp_path / "work" / "run.json"
    older = json.loads(file.read_text())
    del older["config"]["data"]["limit"]
    file.write_text(json.dumps(older))
    run.record()


def test_a_work_folder_with_a_setting_that_no_longer_exists_is_refused(
    tmp_path: Path, config: Config
) -> None:
    run = Run(tmp_path / "work", config, Path("recipe.toml"), Path("data"))
    run.record()
    file = tmp_path / "work" / "run.json"
    older = json.loads(file.read_text())
    older["config"]["data"]["gone"] = 1
    file.write_text(json.dumps(older))
    with pytest.raises(RunMismatch, match="same config"):
        run.record()


def test_what_only_the_cards_reader_sees_may_change_in_a_work_folder(
    tmp_path: Path, config: Config
) -> None:
    for note in ("before", "after"):
        recipe = config.model_copy(update={"note": note})
        Run(tmp_path / "work", recipe, Path("recipe.toml"), Path("data")).record()
