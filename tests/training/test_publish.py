import json
import logging
from pathlib import Path
from typing import Any

import pytest

from app.release import (
    Acceptance,
    Cohort,
    Continuation,
    Decision,
    Estimate,
    Golden,
    Share,
    open_release,
)
from training import crossval, dataset, publish
from training.config import Config, Data, Stage
from training.continuation import NOTE
from training.dataset import Record, Rejected
from training.metrics import as_served, of_two_labels
from training.publish import Beside, Calibration, ControlRun, Results
from training.run import Run

STAGE = Stage(name="head", train_from="head", epochs=1, learning_rate=1e-3)
RECIPE = Config(name="ours", stages=(STAGE,))
CONTROL = Config(name="control", note="A control.", stages=(STAGE,))
VALUES = {
    name: Estimate(value=0.5, low=0.4, high=0.6) for name in of_two_labels(0.5) | as_served(0.5)
}
ACCEPTANCE = Acceptance(
    trained=True,
    threshold=0.3,
    rule="chosen",
    refused=(Share(name="test: here / Normal", images=200, share=0.01),),
    accepted_foreign=(
        Share(name="CT slice", images=36, share=0, pictures=1, related=0),
        Share(name="noise", images=36, share=0),
    ),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of which all but the card is done, of 1 COVID-19 and 3 Normal images a split."""
    this = Run(tmp_path / "work", RECIPE, Path("ours.toml"), Path("data"))
    this.record()
    records = [
        Record(f"{split}-{i}.png", "COVID-19" if i == 0 else "Normal", "here", "0", "0", i, split)
        for split in ("train", "validation", "test")
        for i in range(4)
    ]
    dataset.write_csv(this.folder / "dataset.csv", records, Record)
    dataset.write_csv(this.folder / "rejected.csv", [], Rejected)
    (this.folder / "release").mkdir()
    (this.folder / "release" / "saved_model.pb").write_bytes(b"a network")
    return this


def published(
    run: Run,
    store: Path,
    cohorts: tuple[str, str] = ("here", "here"),
    without: str = "",
    **beside: Any,
) -> Path:
    parts = [f"{name} / {label}" for name, label in zip(cohorts, Data().labels, strict=True)]
    parts += [without] if without else []
    results = Results(
        metrics=tuple(
            Cohort(name=name, split="test", images={"COVID-19": 1, "Normal": 3}, metrics=values)
            for name, values in (("all", VALUES), *((part, {}) for part in parts))
        ),
        controls=(),
        mistakes=(),
        acceptance=ACCEPTANCE,
        precisions={"tensorflow": ("f32",)},
        agreement={},
        golden=Golden(probabilities=(0.5, 0.5), acceptance=1, heatmap_mean=0.5, tolerance=0.01),
    )
    if beside.get("control"):
        beside["control"] = ControlRun(recipe=beside["control"], metrics=results.metrics)
    calibration = Calibration(
        temperature=1,
        bias=0,
        decision=Decision(threshold=0.4, rule="fixed"),
        prediction_sets=(),
    )
    return publish.publish(run, store, calibration, results, Beside(**beside))


def card(*args: Any, **options: Any) -> str:
    """The card in one line, however it is broken, with hyphens for dashes."""
    text = (published(*args, **options) / "MODEL_CARD.md").read_text()
    return " ".join(text.replace("\N{EN DASH}", "-").split())


def test_the_same_release_is_published_once(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = published(run, tmp_path / "store")
    before = open_release(first).digest
    assert published(run, tmp_path / "store") == first
    assert "version 1 is this release already" in caplog.text
    assert [path.name for path in first.parent.iterdir()] == ["1"]
    assert open_release(first).digest == before


def test_a_release_with_another_network_or_card_is_a_new_version(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert published(run, store).name == "1"
    assert published(run, store, control=CONTROL).name == "2"
    (run.folder / "release" / "saved_model.pb").write_bytes(b"another network")
    assert published(run, store, control=CONTROL).name == "3"
    (store / "ours" / "3" / "saved_model.pb").write_bytes(b"changed since")
    assert published(run, store, control=CONTROL).name == "4"
    assert open_release(store / "ours" / "4").manifest.version == 4


def test_the_card_tells_what_a_probability_is_at_other_prevalences(
    run: Run, tmp_path: Path
) -> None:
    text = card(run, tmp_path / "store")
    assert "calibrated where 25.0% of the images are COVID-19" in text
    # The odds of 1 become 1 * (0.1 / 0.9) / (0.25 / 0.75) = 1 / 3.
    assert "| 0.5 | 0.058 | 0.250 | 0.562 |" in text
    assert "| 0.4 (the threshold) | " in text


def test_the_card_tells_of_how_few_pictures_foreign_images_are_and_how_sure_a_share_is(
    run: Run, tmp_path: Path
) -> None:
    text = card(run, tmp_path / "store")
    assert "| CT slice | 36 | 0.0% (0.0-9.7) | 1 | 0 |" in text
    assert "| noise | 36 | 0.0% (0.0-9.7) | - | - |" in text
    assert "| test: here / Normal | 200 | 1.0% (0.1-3.6) |" in text


def test_the_card_counts_files_that_were_left_out_whatever_their_names(
    run: Run, tmp_path: Path
) -> None:
    rejected = [Rejected("a\nb.png", "empty"), Rejected("c.png", "empty")]
    dataset.write_csv(run.folder / "rejected.csv", rejected, Rejected)
    assert "Images by split, after 2 files were left out" in card(run, tmp_path / "store")


def test_the_card_tells_what_is_served_and_what_is_left_without_lookalikes(
    run: Run, tmp_path: Path
) -> None:
    text = card(run, tmp_path / "store")
    assert "| test, all | 4 | 0.500 (0.400-0.600) | 0.500 (0.400-0.600) |" in text
    assert "look like one of training" not in text
    text = card(run, tmp_path / "other", without=publish.WITHOUT_LOOKALIKES)
    assert "look like one of training" in text
    assert '"All without look-alikes" leaves out' in text


def test_the_card_says_of_a_control_what_it_began_with_and_trained(
    run: Run, tmp_path: Path
) -> None:
    text = card(run, tmp_path / "store", control=CONTROL)
    assert "weights `imagenet`. Stage `head` trained the head alone." in text
    assert "nothing in it is transfer learning" not in text
    assert "what is told of the control: of a run of its own" in text
    text = card(run, tmp_path / "store", control=CONTROL.with_backbone("none"))
    assert "random weights. Stage `head` trained all layers." in text
    assert "nothing in it is transfer learning" in text


def test_the_card_says_whether_the_folds_are_of_its_own_recipe(run: Run, tmp_path: Path) -> None:
    for recipe, words in ((RECIPE, "the release's recipe"), (CONTROL, "that is not the release's")):
        folds = crossval.Report(
            command="crossval",
            config=recipe.model_copy(update={"seed": len(recipe.note)}).model_dump(mode="json"),
            environment={},
            folds=(),
            mean=dict.fromkeys(crossval.METRICS, 0.9),
            standard_deviation=dict.fromkeys(crossval.METRICS, 0.1),
        )
        assert f"{words} (`crossval`)" in card(run, tmp_path / "store", folds=folds)


def test_a_card_of_other_images_says_nothing_of_this_projects(run: Run, tmp_path: Path) -> None:
    text = card(run, tmp_path / "store")
    assert "public" not in text
    assert "collections" not in text
    assert "earlier release's network" not in text
    assert "images come from different cohorts" not in text
    text = card(run, tmp_path / "store", cohorts=("here", "there"))
    assert "**COVID-19 and Normal images come from different cohorts.**" in text


def test_the_card_of_a_release_that_goes_on_from_another_does_not_promise_its_weights(
    run: Run, tmp_path: Path
) -> None:
    note = Continuation(name="ours", version=3, digest="a" * 64, stages=1)
    (run.folder / "fit").mkdir()
    (run.folder / "fit" / NOTE).write_text(note.model_dump_json())
    text = card(run, tmp_path / "store")
    assert "the first 1 were not trained in this run, but taken over" in text
    assert "makes such a release, and not these weights" in text


def test_a_manifest_from_before_pictures_were_counted_can_be_read(run: Run, tmp_path: Path) -> None:
    folder = published(run, tmp_path / "store")
    content = json.loads((folder / "manifest.json").read_text())
    for share in content["acceptance"]["accepted_foreign"]:
        del share["pictures"], share["related"]
    (folder / "manifest.json").write_text(json.dumps(content))
    accepted = open_release(folder).manifest.acceptance.accepted_foreign
    assert [(share.pictures, share.related) for share in accepted] == [(None, None)] * 2
