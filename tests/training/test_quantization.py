from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from app.engines import INT8, Predictions, create_engine
from app.errors import InferenceFailed
from app.release import Acceptance, Decision, Precision
from tests.fakes import FakeEngine
from training import quantization, stages
from training.dataset import Record
from training.evaluate import measure
from training.publish import Calibration

RNG = np.random.default_rng(0)
IMAGES = (
    RNG.integers(0, 256, (12, 224, 224, 1), np.uint8)
    // np.arange(1, 13, dtype=np.uint8)[:, None, None, None]
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel with two convolutions and the outputs of a release."""
    folder = tmp_path_factory.mktemp("release")
    first, second = (
        tf.constant(RNG.normal(0, 0.3, shape), tf.float32) for shape in ((3, 3, 1, 8), (3, 3, 8, 2))
    )

    def signature(image: object) -> dict[str, object]:
        x = tf.nn.relu(tf.nn.conv2d(tf.cast(image, tf.float32) / 255, first, 4, "SAME"))
        maps = tf.nn.relu(tf.nn.conv2d(x, second, 8, "SAME"))
        return {
            "probabilities": tf.nn.softmax(tf.reduce_mean(maps, [1, 2])),
            "heatmap": tf.sigmoid(maps[..., 0]),
            "acceptance": tf.sigmoid(tf.reduce_mean(maps, [1, 2, 3])),
        }

    module = tf.Module()
    spec = tf.TensorSpec([None, 224, 224, 1], tf.uint8, name="image")
    module.serve = tf.function(signature, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def test_a_quantised_network_answers_nearly_as_the_whole_one_and_can_be_taken_out(
    saved: Path,
) -> None:
    before = {path.name for path in saved.iterdir()}
    quantization.quantize(saved, IMAGES, seed=0)
    exact, rounded = (
        create_engine(saved, "openvino", precision).predict(IMAGES) for precision in PRECISIONS
    )
    assert not np.array_equal(exact.probabilities, rounded.probabilities)
    assert np.allclose(exact.probabilities, rounded.probabilities, atol=0.02)
    assert np.allclose(exact.heatmap, rounded.heatmap, atol=0.05)
    quantization.remove(saved)
    assert {path.name for path in saved.iterdir()} == before


def test_a_quantised_network_that_was_not_written_whole_is_not_there(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino: Any = pytest.importorskip("openvino")

    def killed(_: object, target: Path) -> None:
        target.write_bytes(b"<")
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino, "save_model", killed)
    with pytest.raises(KeyboardInterrupt):
        quantization.quantize(saved, IMAGES, seed=0)
    assert not (saved / INT8).exists()
    monkeypatch.undo()
    quantization.quantize(saved, IMAGES, seed=0)
    assert {path.name for path in saved.iterdir() if "partial" in path.name} == set()
    quantization.remove(saved)


PRECISIONS: tuple[Precision, ...] = ("f32", "int8")


class Shifted(FakeEngine):
    """Says a little more of everything; fails where it would say very much more."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def predict(self, images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
        said = super().predict(images, alone=alone)
        if self.shift > 1:
            raise InferenceFailed("probabilities in [0, 1]", "other values")
        return Predictions(
            (said.probabilities + np.array([self.shift, -self.shift], np.float32)),
            said.heatmap,
            said.acceptance,
        )


@pytest.mark.parametrize(
    ("int8_shift", "passed"),
    [(0.001, ("f32", "bf16", "int8")), (0.1, ("f32", "bf16")), (2, ("f32", "bf16"))],
)
def test_only_what_gives_the_same_answers_stays_in_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8_shift: float, passed: tuple[str, ...]
) -> None:
    release = tmp_path / "release"
    release.mkdir()
    for suffix in (".xml", ".bin"):
        (release / INT8).with_suffix(suffix).touch()
    levels = np.linspace(30, 225, 20).astype(np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (20, 224, 224, 1))
    records = [
        Record(f"{i}.png", "COVID-19" if i > 9 else "Normal", "c", "0", "0", i, "test")
        for i in range(20)
    ]
    shifts = {"f32": 0.0, "bf16": 0.002, "int8": int8_shift}

    def measured(_: object, engine: FakeEngine, __: object) -> Any:
        return measure(engine, pixels, records, "COVID-19")

    monkeypatch.setattr(stages, "_measure", measured)
    monkeypatch.setattr(stages, "native_precisions", lambda: ("int8", "bf16", "f32"))
    monkeypatch.setattr(stages, "create_engine", lambda *of: Shifted(shifts[of[2]]))
    monkeypatch.setattr(stages, "_calibration", calibration)
    run: Any = SimpleNamespace(folder=tmp_path)
    found, numbers = stages.agreement_of_engines(run, measured(None, FakeEngine(), None))
    assert found["openvino"] == passed
    assert numbers["OpenVINO f32"]["probability_difference_p99"] == 0
    assert (release / INT8).exists() == ("int8" in passed)
    assert (release / INT8).with_suffix(".bin").exists() == ("int8" in passed)


def test_a_quantised_network_that_makes_its_release_too_large_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / INT8).write_bytes(bytes(100))
    monkeypatch.setattr(quantization, "MOST_BYTES", 100)
    assert quantization.fits(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"1")
    assert not quantization.fits(tmp_path)


def calibration(_: object) -> Calibration:
    return Calibration(
        temperature=1,
        bias=0,
        decision=Decision(threshold=0.502, rule="fixed"),
        acceptance=Acceptance(trained=True, threshold=0.5, rule="fixed"),
        prediction_sets=(),
    )
