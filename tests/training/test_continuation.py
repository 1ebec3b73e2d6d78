import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from app.engines import create_engine
from app.imaging import phantom
from app.release import Release, open_release
from tests import fakes
from training import export, fit
from training.config import Config, Stage
from training.continuation import HISTORY, continuation, continue_from
from training.dataset import Record, fingerprint
from training.errors import ContinuationImpossible
from training.model import build

SCALING = export.Scaling(1.4, 0.3)
RECORDS = [Record("a.png", "COVID-19", "", "0", "0", 0, "train")]


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(5)
    return build(2, "none")


@pytest.fixture(scope="module")
def short() -> Config:
    return Config(seed=3, backbone="none", stages=(stage("first"),))


@pytest.fixture(scope="module")
def longer(short: Config) -> Config:
    stages = (*short.stages, stage("second"))
    return short.model_copy(update={"stages": stages, "note": "Longer."})


@pytest.fixture(scope="module")
def release(
    tmp_path_factory: pytest.TempPathFactory, network: keras.Model, short: Config
) -> Release:
    """A release that the first stage made; tests must not change it."""
    folder = tmp_path_factory.mktemp("store") / "1"
    export.save(export.ReleaseGraph(network, SCALING), folder)
    (folder / "evaluation").mkdir()
    (folder / HISTORY).write_text(json.dumps({"first": [{"loss": 0.5}]}))
    training: dict[str, Any] = fakes.manifest_content(folder)["training"]
    training["config"] = short.model_dump(mode="json")
    training["dataset"] = {"fingerprint": fingerprint(RECORDS), "images": {}}
    fakes.write_manifest(folder, training=training, temperature=1.4, bias=0.3)
    return open_release(folder)


def stage(name: str) -> Stage:
    return Stage(name=name, train_from="all", epochs=2, size=32, batch_size=8, learning_rate=1e-3)


def test_the_releases_weights_are_the_result_of_its_stages(
    tmp_path: Path, release: Release, longer: Config, network: keras.Model
) -> None:
    continue_from(release.path, tmp_path / "fit", longer, RECORDS)
    taken = build(2, "none")
    taken.load_weights(tmp_path / "fit" / "1-first" / fit.FINAL)
    for mine, wanted in zip(taken.variables, network.variables, strict=True):
        assert np.allclose(mine, wanted, rtol=1e-3, atol=1e-4), mine.path
    note = continuation(tmp_path / "fit")
    assert note is not None
    assert (note.version, note.digest, note.stages) == (1, release.digest, 1)
    assert fit.histories(tmp_path / "fit", longer) == {"first": [{"loss": 0.5}]}
    answer = create_engine(release.path, "tensorflow").predict(phantom()[np.newaxis])
    graph = export.ReleaseGraph(taken, SCALING)
    again = graph.serve(phantom()[np.newaxis])["probabilities"]
    assert np.allclose(again, answer.probabilities, atol=1e-4)


def test_a_fit_that_was_continued_is_not_begun_again(
    tmp_path: Path, release: Release, longer: Config
) -> None:
    continue_from(release.path, tmp_path / "fit", longer, RECORDS)
    final = tmp_path / "fit" / "1-first" / fit.FINAL
    final.write_bytes(b"trained further")
    continue_from(release.path, tmp_path / "fit", longer, RECORDS)
    assert final.read_bytes() == b"trained further"


@pytest.mark.parametrize("change", [{"seed": 4}, {"precision": "mixed_bfloat16"}])
def test_another_recipe_cannot_go_on(
    tmp_path: Path, release: Release, longer: Config, change: dict[str, object]
) -> None:
    with pytest.raises(ContinuationImpossible, match="more stages"):
        continue_from(release.path, tmp_path / "fit", longer.model_copy(update=change), RECORDS)


def test_a_recipe_without_further_stages_is_done_when_it_is_continued(
    tmp_path: Path, release: Release, short: Config
) -> None:
    continue_from(release.path, tmp_path / "fit", short, RECORDS)
    assert (tmp_path / "fit" / "1-first" / fit.FINAL).exists()


def test_a_recipe_with_another_first_stage_cannot_go_on(
    tmp_path: Path, release: Release, short: Config
) -> None:
    other = short.model_copy(update={"stages": (stage("other"),)})
    with pytest.raises(ContinuationImpossible, match="more stages"):
        continue_from(release.path, tmp_path / "fit", other, RECORDS)


def test_other_images_or_splits_are_refused(
    tmp_path: Path, release: Release, longer: Config
) -> None:
    other = [Record("a.png", "COVID-19", "", "0", "0", 0, "test")]
    with pytest.raises(ContinuationImpossible, match="fingerprint"):
        continue_from(release.path, tmp_path / "fit", longer, other)
