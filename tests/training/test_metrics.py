import numpy as np
import pytest
from scipy.stats import binomtest

from app.release import Estimate, PredictionSetRule
from training import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra `train`")

SETS = PredictionSetRule(
    confidence=0.9, least={"COVID-19": 0.6, "Normal": 0.7}, images={"COVID-19": 9, "Normal": 9}
)


def test_area_and_brier_score_are_those_of_scikit_learn_with_ties_too() -> None:
    rng = np.random.default_rng(5)
    positive = rng.random(300) < 0.3
    scores = np.clip(np.round(0.3 * positive + 0.5 * rng.random(300), 2), 0, 1)
    found = metrics.of_two_labels(0.5)
    auc, brier = (found[name](scores, positive) for name in ("auc", "brier"))
    assert auc == pytest.approx(sklearn_metrics.roc_auc_score(positive, scores), abs=1e-12)
    assert brier == pytest.approx(sklearn_metrics.brier_score_loss(positive, scores), abs=1e-12)
    assert 0.5 < auc < 1


def test_calibration_error_is_the_mean_gap_weighted_by_bins() -> None:
    scores = np.array([0.15] * 10 + [0.85] * 10)
    positive = np.array([1] * 1 + [0] * 9 + [1] * 7 + [0] * 3, bool)
    wanted = 0.5 * abs(0.15 - 0.1) + 0.5 * abs(0.85 - 0.7)
    assert metrics.expected_calibration_error(scores, positive) == pytest.approx(wanted)
    certain = metrics.expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False]))
    assert certain == 0
    last = metrics.expected_calibration_error(np.array([1.0, 0.95]), np.array([False, True]))
    assert last == pytest.approx(0.475)  # both are of the last bin


def test_predictive_values_follow_bayes_at_each_prevalence() -> None:
    scores = np.array([0.9] * 9 + [0.1] * 1 + [0.9] * 2 + [0.1] * 8)  # sensitivity 0.9
    positive = np.array([1] * 10 + [0] * 10, bool)  # specificity 0.8
    found = metrics.of_two_labels(0.5)
    ppv, npv = found["ppv_at_0.1"](scores, positive), found["npv_at_0.1"](scores, positive)
    assert ppv == pytest.approx(0.09 / (0.09 + 0.18))
    assert npv == pytest.approx(0.72 / (0.72 + 0.01))


def test_predictive_values_of_nobody_called_are_no_error() -> None:
    nobody = metrics.of_two_labels(2.0)["ppv_at_0.02"]
    assert nobody(np.array([0.9, 0.1]), np.array([True, False])) == 0


def test_sets_are_counted_by_coverage_and_size() -> None:
    scores = np.array([0.9, 0.5, 0.2, 0.65])  # {COVID-19}, {}, {Normal}, {COVID-19}
    positive = np.array([True, True, False, False])
    found = {
        name: metric(scores, positive)
        for name, metric in metrics.of_prediction_sets([SETS]).items()
    }
    assert found == {"coverage_0.9": 0.5, "set_of_none_0.9": 0.25, "set_of_both_0.9": 0}


def estimates(scores: list[float], positive: list[int]) -> dict[str, Estimate]:
    chosen = metrics.of_two_labels(0.5) | metrics.of_prediction_sets([SETS])
    return metrics.intervals(chosen, np.array(scores), np.array(positive, bool), seed=0)


def test_shares_have_the_exact_interval() -> None:
    found = estimates([0.9] * 20 + [0.1] * 30 + [0.95], [1] * 20 + [0] * 31)
    assert found["sensitivity"].value == found["sensitivity"].high == 1
    assert found["sensitivity"].low == pytest.approx(0.025 ** (1 / 20))  # Clopper and Pearson
    both = found["set_of_both_0.9"]
    assert both.value == both.low == 0
    assert both.high == pytest.approx(1 - 0.025 ** (1 / 51))
    other, exact = found["specificity"], binomtest(30, 31).proportion_ci()
    assert (other.low, other.high) == pytest.approx((exact.low, exact.high))


def test_an_image_more_that_is_hit_never_lowers_an_end_of_a_shares_interval() -> None:
    alone = np.arange(36)
    ends = [metrics.share_interval(alone < hits, alone) for hits in range(37)]
    assert ends == sorted(ends)
    assert [end[1] for end in ends] == sorted(end[1] for end in ends)


def test_a_share_of_groups_that_are_alike_is_as_sure_as_one_of_so_many_images() -> None:
    one = np.array([True] * 9 + [False] * 3)
    groups = np.repeat(np.arange(12), 5)
    assert metrics.share_interval(np.repeat(one, 5), groups) == pytest.approx(
        metrics.share_interval(one, np.arange(12))
    )
    all_hit = metrics.share_interval(np.ones(60, bool), groups)
    assert all_hit == pytest.approx((0.025 ** (1 / 12), 1))


def test_groups_that_vary_as_images_do_cost_nothing() -> None:
    hits = np.tile([True, False], 20)
    pairs = np.repeat(np.arange(20), 2)
    alone = metrics.share_interval(hits, np.arange(40))
    assert metrics.share_interval(hits[np.argsort(hits)], pairs)[0] < alone[0]  # alike in pairs
    mixed = np.array([True, True, True, False, False, True, False, False] * 5)
    assert metrics.share_interval(mixed, pairs) == pytest.approx(alone)


def test_the_bootstrap_draws_groups_and_not_images() -> None:
    rng = np.random.default_rng(8)
    positive = np.arange(60) % 2 == 0
    scores = np.clip(0.3 * positive + 0.6 * rng.random(60), 0, 1)
    chosen = {name: metrics.of_two_labels(0.5)[name] for name in ("auc", "brier")}
    once = metrics.intervals(chosen, scores, positive, seed=3)
    fivefold, truth, groups = (np.repeat(each, 5) for each in (scores, positive, np.arange(60)))
    again = metrics.intervals(chosen, fivefold, truth, 3, groups)
    for name, found in once.items():
        assert again[name].value == pytest.approx(found.value)
        assert (again[name].low, again[name].high) == pytest.approx((found.low, found.high))
    apart = metrics.intervals(chosen, fivefold, truth, 3)["auc"]
    assert apart.high - apart.low < 0.7 * (again["auc"].high - again["auc"].low)


def test_one_label_all_right_and_the_other_all_wrong_is_no_certain_accuracy() -> None:
    found = estimates([0.9] * 8, [1] * 4 + [0] * 4)
    exact = binomtest(4, 8).proportion_ci()
    assert found["accuracy"].low == pytest.approx(exact.low)
    assert found["accuracy"].high == pytest.approx(exact.high)
    assert found["ppv_at_0.1"].low < found["ppv_at_0.1"].value == pytest.approx(0.1)
    assert (found["auc"].value, found["auc"].low) == (0.5, 0.5)  # of a tie there is nothing to say


def test_predictive_values_of_all_follow_from_the_two_shares_intervals() -> None:
    found = estimates([0.9] * 9 + [0.1] + [0.1] * 30, [1] * 10 + [0] * 30)
    assert found["specificity"].value == found["ppv_at_0.1"].value == 1
    right = binomtest(9, 10).proportion_ci().low * 0.1
    wrong = (1 - 0.025 ** (1 / 30)) * 0.9
    assert found["ppv_at_0.1"].low == pytest.approx(right / (right + wrong))
    assert found["ppv_at_0.1"].high == 1
    assert found["npv_at_0.1"].low < found["npv_at_0.1"].value < found["npv_at_0.1"].high


@pytest.mark.parametrize(
    ("scores", "value"), [([0.9] * 8 + [0.1] * 20, 1), ([0.1] * 8 + [0.9] * 20, 0)]
)
def test_labels_told_apart_without_a_mistake_count_as_pairs_of_the_smaller_one(
    scores: list[float], value: int
) -> None:
    auc = estimates(scores, [1] * 8 + [0] * 20)["auc"]
    assert auc.value == value
    assert auc.high - auc.low == pytest.approx(1 - 0.025 ** (1 / 8))
    assert value in {auc.low, auc.high}
