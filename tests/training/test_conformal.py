import numpy as np
import pytest

from app.release import PredictionSetRule
from training import conformal

LABELS = ("COVID-19", "Normal")


def draw(rng: np.random.Generator, count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of an imperfect and badly calibrated model, and the truth."""
    positive = rng.random(count) < share
    scores = np.where(positive, rng.beta(4, 2, count), rng.beta(1.5, 4, count))
    return scores, positive


@pytest.mark.parametrize("confidence", conformal.CONFIDENCES)
def test_new_images_of_each_label_are_covered_as_promised_at_any_share(confidence: float) -> None:
    rng = np.random.default_rng(8)
    covered = []
    for _ in range(200):
        rule = conformal.calibrate(*draw(rng, 300, 0.4), LABELS, confidence)
        scores, positive = draw(rng, 300, 0.8)
        inside = conformal.covered(scores, positive, rule)
        covered.append([inside[positive].mean(), inside[~positive].mean()])
    means = np.mean(covered, axis=0)
    assert (means > confidence - 0.005).all()
    assert (means < confidence + 0.02).all()  # and not by naming everything


def test_the_least_probability_is_the_quantile_of_the_labels_own_images() -> None:
    scores = np.concatenate([np.linspace(0.05, 0.95, 19), [0.5]])
    positive = np.array([True] * 19 + [False])
    rule = conformal.calibrate(scores, positive, LABELS, 0.9)
    assert rule.least["COVID-19"] == pytest.approx(0.075)  # below the second smallest of 19
    assert rule.least["Normal"] == 0  # one image rules nothing out
    assert rule.images == {"COVID-19": 19, "Normal": 1}


def test_no_image_sits_on_a_threshold_and_none_changes_sides() -> None:
    rng = np.random.default_rng(4)
    scores, positive = draw(rng, 300, 0.4)
    rule = conformal.calibrate(scores, positive, LABELS, 0.9)
    for label, chances, own in (
        ("COVID-19", scores, positive),
        ("Normal", 1 - scores, ~positive),
    ):
        place = int((own.sum() + 1) * 0.1)
        quantile = np.sort(chances[own])[place - 1]
        below = chances[chances < quantile].max()
        assert rule.least[label] == pytest.approx((quantile + below) / 2)
        assert ((chances >= rule.least[label]) == (chances >= quantile)).all()
        served = np.float32(quantile)  # as an engine gives it
        assert served >= rule.least[label]


def test_a_set_holds_the_labels_from_their_least_probability_upwards() -> None:
    rule = PredictionSetRule(
        confidence=0.9, least={"COVID-19": 0.6, "Normal": 0.4}, images=dict.fromkeys(LABELS, 15)
    )
    assert rule.labels({"COVID-19": 0.6, "Normal": 0.4}) == LABELS
    assert rule.labels({"COVID-19": 0.7, "Normal": 0.3}) == ("COVID-19",)
    assert rule.labels({"COVID-19": 0.5, "Normal": 0.3}) == ()
    assert conformal.sizes(np.array([0.6, 0.7, 0.55]), rule).tolist() == [2, 1, 1]
