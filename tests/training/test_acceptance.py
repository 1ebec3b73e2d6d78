from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from app.engines import Predictions
from app.imaging import Pixels, phantom
from app.release import Acceptance
from tests.fakes import FakeEngine
from training import acceptance
from training.dataset import Record
from training.evaluate import Measured


def brightness(pixels: Pixels) -> np.ndarray:
    """Two features that tell a phantom, as it stands, from most other images."""
    difference = np.abs(pixels.astype(np.float32) - phantom()).mean(axis=(1, 2, 3))
    return np.stack([difference, np.ones_like(difference)], axis=1)


class Strict(FakeEngine):
    """An engine that accepts nothing but black images."""

    def predict(self, images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
        black = (images.max(axis=(1, 2, 3)) == 0).astype(np.float32)
        return replace(super().predict(images, alone=alone), acceptance=black)


def test_a_classifier_learns_what_an_x_ray_is_and_its_rule_tells_how_it_was_chosen() -> None:
    xrays = np.repeat(phantom()[np.newaxis], 30, axis=0)
    learned = acceptance.learn(brightness, xrays, xrays[:20], seed=1)
    assert learned.rule.trained
    assert "99% of the 20 validation X-rays" in learned.rule.rule
    odds = np.log(learned.rule.threshold / (1 - learned.rule.threshold))
    assert (learned.classifier.log_odds(brightness(xrays)) >= odds - 1e-6).all()
    assert learned.accepted.tolist() == [True] * 20


def test_which_validation_x_rays_pass_is_told_in_their_order() -> None:
    xrays = np.repeat(phantom()[np.newaxis], 400, axis=0)
    validation = xrays[:300].copy()
    validation[7] = 0
    learned = acceptance.learn(brightness, xrays[:30], validation, seed=1)
    assert np.flatnonzero(~learned.accepted).tolist() == [7]


def test_the_threshold_is_halfway_where_x_rays_and_foreign_images_lie_apart() -> None:
    known, unknown = np.linspace(2, 10, 101), np.linspace(-12, -2, 101)
    assert acceptance.choose(known, unknown) == pytest.approx(-0.01)


def test_the_threshold_passes_99_percent_where_x_rays_and_foreign_images_overlap() -> None:
    known, unknown = np.linspace(0, 10, 101), np.linspace(-10, 5, 101)
    threshold = acceptance.choose(known, unknown)
    assert threshold == pytest.approx(0.1)
    assert (known >= threshold).mean() >= 0.99


def test_standardisation_is_folded_into_the_kernel() -> None:
    rng = np.random.default_rng(2)
    near, far = rng.normal(100, 3, (60, 4)), rng.normal(130, 3, (60, 4))
    features = np.concatenate([near, far]).astype(np.float32)
    classifier = acceptance.fit(features, np.arange(120) < 60, seed=0)
    assert ((classifier.log_odds(features) > 0) == (np.arange(120) < 60)).all()


def test_features_are_thumbnail_means_and_deviations() -> None:
    image = np.full((2, 224, 224, 1), 51, np.uint8)
    maps = tf.constant(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2).repeat(2, axis=0))
    values = acceptance.pooled(image, [maps]).numpy()
    assert values.shape == (2, acceptance.THUMBNAIL**2 + 4)
    assert values[0, : acceptance.THUMBNAIL**2] == pytest.approx(0.2, abs=1e-5)
    assert values[0, -4:] == pytest.approx([3, 4, np.sqrt(5), np.sqrt(5)])


def test_varied_x_rays_are_reproducible_and_others() -> None:
    xrays = np.repeat(phantom()[np.newaxis], 3, axis=0)
    one, again = acceptance.varied(xrays, 5), acceptance.varied(xrays, 5)
    assert np.array_equal(one, again)
    assert one.dtype == np.uint8
    assert not np.array_equal(one, xrays)


def test_the_report_counts_refused_x_rays_and_accepted_foreign_images_by_name() -> None:
    records = [_record("test", "a"), _record("test", "a"), _record("held-out", "b")]
    measured = _measured(records, [0.9, 0.1, 0.1])
    rule = Acceptance(trained=True, threshold=0.5, rule="as the test says")
    reported = acceptance.report(rule, measured, Strict(), phantom()[np.newaxis], seed=0)
    assert [(s.name, s.images, s.share) for s in reported.refused] == [
        ("held-out: b / Normal", 1, 1.0),
        ("test: a / Normal", 2, 0.5),
    ]
    shares = {s.name: s.share for s in reported.accepted_foreign}
    assert shares["photograph"] == 0
    assert all(s.images == 2 for s in reported.accepted_foreign)
    pictures = {s.name: (s.pictures, s.related) for s in reported.accepted_foreign}
    assert pictures["CT slice"] == (1, 0)
    assert pictures["ultrasound"] == (2, 2)
    assert pictures["X-ray tilted"] == pictures["noise"] == (None, None)


def _record(split: str, cohort: str) -> Record:
    return Record("x.png", "Normal", cohort, "0" * 64, "0", 0, split)


def _measured(records: Sequence[Record], accepted: list[float]) -> Measured:
    count = len(records)
    heatmaps = np.zeros((count, 7, 7), np.float32)
    return Measured(records, np.zeros(count), np.zeros(count, bool), np.array(accepted), heatmaps)
