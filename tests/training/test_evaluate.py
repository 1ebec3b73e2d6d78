import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.release import Decision, PredictionSetRule
from tests.fakes import FakeEngine
from training import evaluate
from training.dataset import Record
from training.evaluate import Measured, Rules

RULES = Rules(("COVID-19", "Normal"), Decision(threshold=0.5, rule="fixed"))


def measured(scores: list[float], positive: list[int], split: str = "test") -> Measured:
    records = [
        Record(f"{i}.png", "COVID-19" if p else "Normal", "c", "0", "0", i, split)
        for i, p in enumerate(positive)
    ]
    heatmaps = np.tile(
        np.linspace(0, 1, 49, dtype=np.float32).reshape(1, 7, 7), (len(scores), 1, 1)
    )
    accepted = np.linspace(0.5, 1, len(scores))
    return Measured(records, np.array(scores), np.array(positive, bool), accepted, heatmaps)


def moved(reference: Measured, change: float) -> Measured:
    return replace(reference, scores=reference.scores + change)


def test_the_measures_have_their_textbook_values() -> None:
    found = evaluate.estimates(
        measured([0.9, 0.8, 0.3, 0.6, 0.2, 0.1], [1, 1, 1, 0, 0, 0]), RULES, seed=0
    )
    values = {name: estimate.value for name, estimate in found.items()}
    assert values["auc"] == pytest.approx(8 / 9)
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["sensitivity"] == pytest.approx(2 / 3)
    assert values["specificity"] == pytest.approx(2 / 3)
    assert values["brier"] == pytest.approx((0.01 + 0.04 + 0.49 + 0.36 + 0.04 + 0.01) / 6)
    for estimate in found.values():
        assert estimate.low <= estimate.value <= estimate.high or estimate.low <= estimate.high


def test_what_is_refused_counts_as_it_is_scored_and_as_wrong_where_it_is_told_as_served() -> None:
    # Acceptance is 0.5, 0.6, ... 1.0: of each label the first is refused.
    images = measured([0.9, 0.1, 0.8, 0.2, 0.7, 0.3], [1, 0, 1, 0, 1, 0])
    found = evaluate.estimates(images, replace(RULES, least_acceptance=0.65), seed=0)
    assert found["sensitivity"].value == found["specificity"].value == 1
    assert found["sensitivity_as_served"].value == pytest.approx(2 / 3)
    assert found["specificity_as_served"].value == pytest.approx(2 / 3)
    found = evaluate.estimates(images, RULES, seed=0)
    assert found["sensitivity_as_served"] == found["sensitivity"]


def test_images_of_one_group_count_as_one_where_they_are_alike() -> None:
    apart = measured([0.9, 0.1] * 8, [1] * 16)
    together = [replace(record, group=i % 2) for i, record in enumerate(apart.records)]
    found, wider = (
        evaluate.estimates(each, RULES, seed=0)["called_positive"]
        for each in (apart, replace(apart, records=together))
    )
    assert found.value == wider.value == 0.5
    assert wider.high - wider.low > 1.5 * (found.high - found.low)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(40):
        called = (rng.random(200) < 0.8).astype(float)
        estimate = evaluate.estimates(measured(list(called), [1] * 200), RULES, seed=trial)
        hits += estimate["called_positive"].low <= 0.8 <= estimate["called_positive"].high
    assert hits >= 34


def test_images_of_one_label_get_only_the_share_that_is_called_positive() -> None:
    found = evaluate.estimates(measured([0.9, 0.4], [0, 0]), RULES, seed=0)
    assert set(found) == {"called_positive"}
    assert found["called_positive"].value == 0.5


def test_each_split_is_measured_whole_where_it_holds_both_labels_and_by_cohort() -> None:
    test = measured([0.9, 0.1], [1, 0])
    held = measured([0.7], [0], "held-out")
    both = Measured(
        [*test.records, *held.records],
        np.concatenate([test.scores, held.scores]),
        np.concatenate([test.positive, held.positive]),
        np.concatenate([test.acceptance, held.acceptance]),
        np.concatenate([test.heatmaps, held.heatmaps]),
    )
    found = evaluate.cohorts(both, RULES, seed=0)
    assert [(c.split, c.name, c.images) for c in found] == [
        ("test", "all", {"COVID-19": 1, "Normal": 1}),
        ("test", "c / COVID-19", {"COVID-19": 1}),
        ("test", "c / Normal", {"Normal": 1}),
        ("held-out", "c / Normal", {"Normal": 1}),
    ]


def test_a_cohort_that_holds_both_labels_gets_what_takes_two() -> None:
    whole = measured([0.9, 0.1, 0.8, 0.6, 0.2], [1, 0, 1, 0, 0])
    places = zip(whole.records, ("north", "north", "south", "south", ""), strict=True)
    records = [replace(r, cohort=cohort) for r, cohort in places]
    found = evaluate.cohorts(replace(whole, records=records), RULES, seed=0)
    two = {c.name: c.metrics["specificity"].value for c in found if "auc" in c.metrics}
    assert two == {"all": pytest.approx(2 / 3), "north": 1, "south": 0}
    assert [c.name for c in found][:4] == ["all", "north", "south", "unnamed / Normal"]


@pytest.mark.parametrize(
    ("change", "passes"),
    [(0.0, True), (0.004, True), (0.05, False)],
)
def test_an_engine_passes_only_with_the_references_answers(change: float, passes: bool) -> None:
    reference = measured(list(np.linspace(0, 1, 1001)), list((np.arange(1001) % 3 == 0) * 1))
    other = moved(reference, change)
    passed, numbers = evaluate.agreement(reference, other, 2.0, 0.6)
    assert passed == passes
    assert numbers["probability_difference_p99"] == pytest.approx(change)
    assert numbers["same_acceptance"] == 1
    assert numbers["heatmap_correlation_p5"] == pytest.approx(1)


def test_one_image_in_a_hundred_may_have_another_probability() -> None:
    scores = np.linspace(0.1, 0.9, 1001)
    reference = measured(list(scores), [0, 1] * 500 + [0])
    for changed, found in ((10, 0.0), (11, 0.05)):
        other = replace(reference, scores=scores + 0.05 * (np.arange(1001) < changed))
        _, numbers = evaluate.agreement(reference, other, 2.0, 0.6)
        assert numbers["probability_difference_p99"] == pytest.approx(found)


def test_changed_decisions_fail_an_engine() -> None:
    reference = measured([0.499] * 10 + [0.9] * 10, [0] * 10 + [1] * 10)
    other = moved(reference, 0.002)
    assert not evaluate.agreement(reference, other, 0.5, 0.6)[0]


def test_other_heatmaps_and_other_acceptance_are_told() -> None:
    reference = measured([0.1, 0.9, 0.2, 0.8], [0, 1, 0, 1])
    flat = np.zeros_like(reference.heatmaps[:1])
    other = replace(
        reference,
        acceptance=reference.acceptance - 0.2,
        heatmaps=np.concatenate([reference.heatmaps[:2], 1 - reference.heatmaps[2:3], flat]),
    )
    _, numbers = evaluate.agreement(reference, other, 0.5, 0.6)
    assert numbers["same_acceptance"] == 0.75
    assert numbers["heatmap_correlation_median"] == pytest.approx(0.5)
    assert numbers["heatmap_correlation_p5"] < 0


def test_scores_come_from_the_engine_in_the_order_of_the_records() -> None:
    pixels = np.repeat(np.arange(5, dtype=np.uint8) * 50, 224 * 224).reshape(5, 224, 224, 1)
    records = measured([0] * 5, [1, 0, 1, 0, 1]).records
    found = evaluate.measure(FakeEngine(), pixels, records, "COVID-19", batch=2)
    assert np.allclose(found.scores, np.arange(5) * 50 / 255)
    assert found.positive.tolist() == [True, False, True, False, True]


def test_other_labels_never_count_as_the_negative_one() -> None:
    mixed = measured([0.9, 0.1, 0.8], [1, 0, 0], "held-out")
    third = replace(mixed.records[2], label="Pneumonia")
    found = evaluate.cohorts(replace(mixed, records=[*mixed.records[:2], third]), RULES, seed=0)
    by_name = {cohort.name: cohort for cohort in found}
    assert by_name["all"].images == {"COVID-19": 1, "Normal": 1}
    assert by_name["all"].metrics["accuracy"].value == 1
    assert set(by_name["c / Pneumonia"].metrics) == {"called_positive"}


def test_the_worst_mistakes_are_named_the_surest_first() -> None:
    found = evaluate.mistakes(measured([0.9, 0.2, 0.8, 0.6, 0.4], [1, 1, 0, 0, 1]), RULES, most=3)
    assert [(m.file, m.label) for m in found] == [
        ("1.png", "COVID-19"),
        ("2.png", "Normal"),
        ("3.png", "Normal"),
    ]
    assert found[0].probability == 0.2


def test_every_prediction_is_written(tmp_path: Path) -> None:
    sets = PredictionSetRule(
        confidence=0.9, least={"COVID-19": 0.2, "Normal": 0.1}, images={"COVID-19": 9, "Normal": 9}
    )
    rules = replace(RULES, prediction_sets=(sets,))
    evaluate.write_predictions(tmp_path / "p.csv", measured([0.25, 0.75], [0, 1]), rules)
    with (tmp_path / "p.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[1] == {
        "file": "1.png",
        "label": "COVID-19",
        "cohort": "c",
        "split": "test",
        "probability": "0.750000",
        "called": "COVID-19",
        "acceptance": "1.000000",
        "set_0.9": "COVID-19|Normal",
    }
