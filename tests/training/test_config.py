from pathlib import Path

import pytest

from training.config import Config, Stage, load_config
from training.errors import ConfigInvalid

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.mark.parametrize("name", ["article", "article-control", "crossval", "release"])
def test_the_shipped_recipes_are_valid(name: str) -> None:
    assert load_config(CONFIGS / f"{name}.toml").stages


def test_the_article_trains_the_head_alone_and_then_the_last_block_more_slowly() -> None:
    head, tune = load_config(CONFIGS / "article.toml").stages
    assert head.train_from == "head"
    assert tune.train_from == "conv5_block1_1_conv"
    assert tune.learning_rate < head.learning_rate
    assert tune.batch_norm == "inference"


def test_the_articles_control_is_the_article_on_1143_images_against_children() -> None:
    article, control = (load_config(CONFIGS / f"{n}.toml") for n in ("article", "article-control"))
    assert [stage.train_from for stage in control.stages] == [s.train_from for s in article.stages]
    assert control.data.limit == {"COVID-19": 1143}
    assert control.data.cohorts == ("database", "paediatric")
    assert not article.data.limit
    assert not article.data.cohorts


def test_cross_validation_is_of_the_releases_first_stage_on_its_images() -> None:
    release, crossval = (load_config(CONFIGS / f"{n}.toml") for n in ("release", "crossval"))
    assert crossval.stages == release.stages[:1]
    assert crossval.data == release.data


def test_a_random_backbone_trains_all_layers_in_every_stage() -> None:
    config = load_config(CONFIGS / "article.toml").with_backbone("none")
    assert {(s.train_from, s.batch_norm) for s in config.stages} == {("all", "training")}


def test_a_recipe_that_trains_the_backbone_first_may_freeze_it_later() -> None:
    stages = tuple(
        Stage(name=name, train_from=first, epochs=1, learning_rate=1)
        for name, first in (("a", "all"), ("b", "head"))
    )
    config = Config(stages=stages).with_backbone("none")
    assert config.stages == stages


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stages = [", "received"),
        ("", "stages"),
        ("[[stages]]\nname='a'\ntrain_from='all'\nepochs=0\nlearning_rate=1", "epochs"),
        ("[[stages]]\nname='a'\ntrain_from='all'\nepochs=1\nlearning_rate=1\nfoo=1", "foo"),
        ("[data]\nlimit={Covid=5}", "expected a limit of COVID-19 or Normal; received Covid"),
        ("[data]\nlimit={Normal=0}", "limit.Normal"),
    ],
)
def test_a_bad_recipe_is_refused_with_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match=reason):
        load_config(path)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="No such file"):
        load_config(tmp_path / "none.toml")
