from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.engines import create_engine
from training import acceptance, export, model
from training.acceptance import Classifier
from training.config import Config, Stage
from training.pipeline import to_network_input

SCALING = export.Scaling(1.7, -0.4)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (3, 14, 14, 1), np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(11)
    return model.build(2, "none", 224)


@pytest.fixture(scope="module")
def graph(network: keras.Model) -> export.ReleaseGraph:
    return export.ReleaseGraph(network, SCALING)


@pytest.fixture(scope="module")
def saved(graph: export.ReleaseGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    export.save(graph, path)
    return path


def test_the_graph_gives_the_networks_probabilities_scaled(
    graph: export.ReleaseGraph, network: keras.Model, images: np.ndarray
) -> None:
    plain = network(to_network_input(images)).numpy()
    scaled = plain ** (1 / SCALING.temperature) * np.exp([SCALING.bias, 0])
    scaled /= scaled.sum(axis=1, keepdims=True)
    # Kernels are rounded to float16.
    assert np.allclose(graph.serve(images)["probabilities"], scaled, atol=2e-3)


def test_the_heatmap_is_grad_cam_by_automatic_differentiation(
    graph: export.ReleaseGraph, network: keras.Model, images: np.ndarray
) -> None:
    rounded = keras.models.clone_model(network)
    for mine, theirs in zip(rounded.variables, network.variables, strict=True):
        value = theirs.numpy()
        mine.assign(value.astype(np.float16).astype(np.float32) if value.ndim > 1 else value)
    rounded.layers[-1].activation = keras.activations.linear
    maps = keras.Model(rounded.input, rounded.layers[174].output)(to_network_input(images))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        hidden = tf.reduce_mean(maps, axis=(1, 2))
        logits = model.head(rounded)(hidden)
        difference = logits[:, 0] - logits[:, 1]
    weights = tf.reduce_mean(tape.gradient(difference, maps), axis=(1, 2))  # Selvaraju's alpha
    heat = tf.nn.relu(tf.einsum("nhwc,nc->nhw", maps, weights)).numpy()
    heat /= heat.max(axis=(1, 2), keepdims=True)
    assert np.abs(graph.serve(images)["heatmap"].numpy() - heat).max() < 1e-4


def test_both_engines_give_the_graphs_answers_for_any_batch(
    graph: export.ReleaseGraph, saved: Path, images: np.ndarray
) -> None:
    wanted = {name: value.numpy() for name, value in graph.serve(images).items()}
    for choice in ("openvino", "tensorflow"):
        engine = create_engine(saved, choice)
        for batch in (images, images[:1]):
            answer = engine.predict(batch)
            for name, values in wanted.items():
                got = getattr(answer, name)
                assert np.abs(got - values[: len(batch)]).max() < 1e-3, (choice, name)
        engine.close()


def test_the_saved_model_is_small_and_has_no_variables(saved: Path) -> None:
    assert (saved / "saved_model.pb").stat().st_size < 60e6
    assert (saved / "variables" / "variables.data-00000-of-00001").stat().st_size < 1e5


def test_acceptance_is_a_constant_one_without_a_classifier(
    graph: export.ReleaseGraph, images: np.ndarray
) -> None:
    assert graph.serve(images)["acceptance"].numpy().tolist() == [1.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def accepting(graph: export.ReleaseGraph, images: np.ndarray) -> Classifier:
    """A classifier of random weights that is sure of nothing."""
    features, rng = export.all_features(graph, images), np.random.default_rng(6)
    kernel = rng.normal(size=(acceptance.FEATURES, 1))
    kernel *= 2 / (features @ kernel).std()
    bias = -features.mean(axis=0) @ kernel
    return Classifier(kernel.astype(np.float32), bias.astype(np.float32))


def test_both_engines_give_the_classifiers_acceptance_and_nothing_else_changes(
    graph: export.ReleaseGraph,
    network: keras.Model,
    accepting: Classifier,
    images: np.ndarray,
    tmp_path: Path,
) -> None:
    judging = export.ReleaseGraph(network, SCALING, accepting)
    wanted = 1 / (1 + np.exp(-accepting.log_odds(export.all_features(graph, images))))
    assert 0.01 < wanted.min() < wanted.max() < 0.99
    export.save(judging, tmp_path / "model")
    plain = graph.serve(images)
    for choice in ("openvino", "tensorflow"):
        engine = create_engine(tmp_path / "model", choice)
        answer = engine.predict(images)
        engine.close()
        assert np.abs(answer.acceptance - wanted).max() < 1e-5, choice
        assert np.abs(answer.probabilities - plain["probabilities"].numpy()).max() < 1e-5
        assert np.abs(answer.heatmap - plain["heatmap"].numpy()).max() < 1e-3


def test_the_classifiers_constants_come_after_the_networks(
    graph: export.ReleaseGraph, network: keras.Model, accepting: Classifier
) -> None:
    judging = export.ReleaseGraph(network, SCALING, accepting)
    order = [
        [g.variable(c).path for c in function.get_concrete_function().captured_inputs[:count]]
        for g, function, count in (
            (graph, graph.logits, None),
            (judging, judging.serve, len(graph.logits.get_concrete_function().captured_inputs)),
        )
    ]
    assert order[0] == order[1]


def test_a_network_survives_its_file(network: keras.Model, tmp_path: Path) -> None:
    network.save_weights(tmp_path / "x.weights.h5")
    recipe = Config(stages=(Stage(name="a", train_from="all", epochs=1, learning_rate=1),))
    again = export.load_network(tmp_path / "x.weights.h5", recipe)
    for a, b in zip(again.variables, network.variables, strict=True):
        assert np.array_equal(a, b)


def test_the_scaling_undoes_overconfidence_and_a_label_said_too_seldom() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 2, 20_000)
    positive = rng.random(20_000) < 1 / (1 + np.exp(-margin))
    logits = np.stack([3 * (margin - 0.7), np.zeros_like(margin)], axis=1)
    scaling = export.fit_scaling(logits, positive)
    assert scaling.temperature == pytest.approx(3, rel=0.05)
    assert scaling.bias == pytest.approx(0.7, abs=0.05)
    assert np.allclose(scaling.scores(logits), 1 / (1 + np.exp(-margin)), atol=0.02)


def test_labels_that_are_told_apart_without_a_mistake_give_a_scaling_within_its_limits() -> None:
    margin = np.array([-9.0, -8, 8, 9])
    logits = np.stack([margin, np.zeros_like(margin)], axis=1)
    scaling = export.fit_scaling(logits, margin > 0)
    assert 0.05 <= scaling.temperature <= 20
    assert abs(scaling.bias) <= 5


@pytest.mark.parametrize(("sensitivity", "called"), [(0.95, 285), (0.9, 270), (0.501, 151)])
def test_the_threshold_is_the_highest_that_gives_the_sensitivity(
    sensitivity: float, called: int
) -> None:
    scores = np.concatenate([np.linspace(0.99, 0.4, 300), np.linspace(0.7, 0, 300)])
    positive = np.arange(600) < 300
    threshold = export.choose_threshold(scores, positive, sensitivity)
    assert (scores[positive] >= threshold).sum() == called
    assert np.abs(scores - threshold).min() > 0


def test_the_threshold_lies_halfway_to_the_next_lower_score() -> None:
    scores, positive = np.array([0.9, 0.8, 0.3, 0.5, 0.1]), np.array([1, 1, 1, 0, 0], bool)
    assert export.choose_threshold(scores, positive, 0.95) == pytest.approx(0.2)
    assert export.choose_threshold(scores, positive, 0.6) == pytest.approx(0.65)


def test_a_positive_that_acceptance_refuses_counts_as_missed() -> None:
    scores = np.array([0.9, 0.8, 0.6, 0.4, 0.5, 0.1])
    positive = np.array([1, 1, 1, 1, 0, 0], bool)
    refused = np.array([1, 0, 0, 0, 0, 0], bool)
    assert export.choose_threshold(scores, positive, 0.75) == pytest.approx(0.55)
    # Three of four are asked for, and the first is not answered: the fourth is needed.
    assert export.choose_threshold(scores, positive, 0.75, ~refused) == pytest.approx(0.25)


def test_where_too_many_are_refused_the_threshold_calls_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scores = np.array([0.9, 0.8, 0.6, 0.1])
    positive = np.array([1, 1, 1, 0], bool)
    accepted = np.array([1, 1, 0, 1], bool)
    assert export.choose_threshold(scores, positive, 0.95, accepted) == pytest.approx(0.45)
    assert "let 3 of 3 X-rays of the positive label pass" in caplog.text
    assert export.choose_threshold(scores, positive, 0.95, ~positive) == pytest.approx(0.35)


def test_a_share_of_whole_images_asks_for_no_image_more() -> None:
    scores = np.linspace(1, 0.01, 100)
    threshold = export.choose_threshold(scores, np.ones(100, bool), 0.55)  # 0.55 * 100 > 55
    assert (scores >= threshold).sum() == 55
