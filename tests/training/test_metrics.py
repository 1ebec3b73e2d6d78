import numpy as np
import pytest

from app.release import PredictionSetRule
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
