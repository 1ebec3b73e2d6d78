from pathlib import Path
from typing import Any
from urllib.error import URLError

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import model
from training.errors import BackboneUnavailable, ConfigInvalid


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return model.build(2, "none", 32)


def test_the_network_is_the_articles(network: keras.Model) -> None:
    assert len(network.layers) == 175 + 6
    assert network.layers[0].name == "input_layer" or "input" in network.layers[0].name
    assert network.layers[174].name == "conv5_block3_out"
    assert isinstance(network.layers[175], keras.layers.GlobalAveragePooling2D)
    head = network.layers[176:]
    assert [layer.units for layer in head] == [1024, 1024, 1024, 512, 2]
    assert [layer.activation.__name__ for layer in head] == ["relu"] * 4 + ["softmax"]
    reference = keras.applications.ResNet50(include_top=False, weights=None)
    assert [type(a) for a in network.layers[:175]] == [type(b) for b in reference.layers]


def test_the_head_stage_trains_the_dense_layers_and_nothing_else(network: keras.Model) -> None:
    model.set_trainable(network, "head", "inference")
    assert not any(layer.trainable for layer in network.layers[:175])
    assert all(layer.trainable for layer in network.layers[175:])
    assert len(network.trainable_variables) == 10


def test_fine_tuning_trains_from_a_layer_on_without_batch_normalisation(
    network: keras.Model,
) -> None:
    model.set_trainable(network, "conv5_block1_1_conv", "inference")
    first = [layer.name for layer in network.layers].index("conv5_block1_1_conv")
    for index, layer in enumerate(network.layers):
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        assert layer.trainable == (index >= first and not normalises), layer.name


def test_all_layers_can_train_with_batch_normalisation(network: keras.Model) -> None:
    model.set_trainable(network, "all", "training")
    assert all(layer.trainable for layer in network.layers)


@pytest.mark.parametrize(("train_from", "first"), [("head", 176), ("conv5_block3_1_conv", 165)])
def test_a_training_step_moves_only_what_trains(
    network: keras.Model, train_from: str, first: int
) -> None:
    model.set_trainable(network, train_from, "inference")
    network.compile(keras.optimizers.SGD(1.0), "categorical_crossentropy", jit_compile=False)
    before = {v.path: v.numpy() for v in network.variables}
    images = np.random.default_rng(0).normal(0, 60, (4, 32, 32, 3)).astype(np.float32)
    network.train_on_batch(images, np.eye(2, dtype=np.float32)[[0, 1, 0, 1]])
    moved = {v.path for v in network.variables if not np.array_equal(v.numpy(), before[v.path])}
    layers = [layer.name for layer in network.layers]
    assert moved
    assert min(layers.index(path.split("/")[0]) for path in moved) == first
    assert not any("gamma" in path or "moving" in path for path in moved)


def test_head_and_feature_extractor_together_are_the_network(network: keras.Model) -> None:
    images = np.random.default_rng(1).normal(0, 60, (2, 32, 32, 3)).astype(np.float32)
    features = model.feature_extractor(network)(images)
    assert features.shape == (2, 2048)
    assert np.allclose(model.head(network)(features), network(images), atol=1e-6)


def batch(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 60, (8, 32, 32, 3)).astype(np.float32)


def test_the_fused_network_is_the_same_network(network: keras.Model) -> None:
    fast = model.fused(network)
    names = [[layer.name for layer in copy.layers[1:]] for copy in (fast, network)]
    assert names[0] == names[1]
    assert any(isinstance(layer, model.BatchNormalization) for layer in fast.layers)
    assert np.allclose(fast(batch(1)), network(batch(1)), atol=1e-5)
    mine, keras_own = (copy(batch(1), training=True) for copy in (fast, network))
    assert np.allclose(mine, keras_own, atol=1e-4)
    for mine, keras_own in zip(fast.weights, network.weights, strict=True):
        assert np.allclose(mine, keras_own, rtol=0.1, atol=1e-3), mine.path


def test_fused_batch_normalisation_learns_as_keras_does() -> None:
    images = np.random.default_rng(0).normal(3, 2, (16, 5, 5, 4)).astype(np.float32)
    layers = [keras.layers.BatchNormalization(), model.BatchNormalization()]
    mine, keras_own = (layer(images, training=True) for layer in reversed(layers))
    assert np.allclose(mine, keras_own, atol=1e-4)
    for mine, keras_own in zip(layers[1].weights, layers[0].weights, strict=True):
        # TensorFlow's moving variance is the unbiased one, of n - 1.
        assert np.allclose(mine, keras_own, rtol=0.01 / 400 + 1e-4), mine.path
    layers[1].trainable = False
    before = layers[1].moving_mean.numpy()
    layers[1](images, training=True)
    assert np.array_equal(layers[1].moving_mean, before)


def test_fine_tuning_takes_no_gradient_that_a_gpu_cannot_give_deterministically(
    network: keras.Model,
) -> None:
    fast = model.fused(network)
    model.set_trainable(fast, "conv5_block3_1_conv", "inference")

    def gradients(images: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(fast(images, training=True)[:, 0])
        found: list[tf.Tensor] = tape.gradient(loss, fast.trainable_variables)
        return found

    operations = tf.function(gradients).get_concrete_function(batch(1)).graph.get_operations()
    assert any("Conv2DBackprop" in each.type for each in operations)
    assert not [each for each in operations if each.type.startswith("FusedBatchNormGrad")]


def test_frozen_batch_normalisation_computes_as_tensorflows_one_operation_does() -> None:
    images = np.random.default_rng(0).normal(3, 2, (16, 5, 5, 4)).astype(np.float32)
    layer = model.BatchNormalization()
    layer(images, training=True)  # moves what is stored
    layer.trainable = False
    one, *_ = tf.raw_ops.FusedBatchNormV3(
        x=images,
        scale=layer.gamma,
        offset=layer.beta,
        mean=layer.moving_mean,
        variance=layer.moving_variance,
        epsilon=layer.epsilon,
        is_training=False,
    )
    assert np.allclose(layer(images, training=True), one, rtol=1e-5, atol=1e-5)


def test_weights_of_the_fused_network_load_into_the_plain_one(
    network: keras.Model, tmp_path: Path
) -> None:
    model.fused(network).save_weights(tmp_path / "x.weights.h5")
    plain = model.build(2, "none", 32)
    plain.load_weights(tmp_path / "x.weights.h5")
    for mine, wanted in zip(plain.weights, network.weights, strict=True):
        assert np.array_equal(mine, wanted)


def test_the_summary_names_every_layer_with_its_state(network: keras.Model) -> None:
    model.set_trainable(network, "head", "inference")
    lines = list(model.summary(network))
    assert any("Total params" in line for line in lines)
    table = lines[-181:]
    assert table[0].split()[0] == "0"
    assert "conv5_block3_out" in table[174]
    assert table[174].endswith("frozen")
    assert table[180].split()[0] == "180"
    assert "(None, 2)" in table[180]
    assert table[180].endswith("trains")


def test_an_unknown_layer_is_refused_by_name(network: keras.Model) -> None:
    with pytest.raises(ConfigInvalid, match="conv9"):
        model.set_trainable(network, "conv9", "inference")


def test_a_backbone_file_gives_its_weights(backbone_file: Path) -> None:
    built = model.build(2, str(backbone_file), 32)
    reference = keras.applications.ResNet50(include_top=False, weights=None)
    reference.load_weights(backbone_file)
    for mine, wanted in zip(built.layers[:175], reference.layers, strict=True):
        for a, b in zip(mine.weights, wanted.weights, strict=True):
            assert np.array_equal(a, b)


def test_imagenet_weights_come_from_keras_own_checked_download(
    monkeypatch: pytest.MonkeyPatch, backbone_file: Path
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, origin: str, **options: Any) -> str:
        asked.update(options, name=name, origin=origin)
        return str(backbone_file)

    monkeypatch.setattr("keras.src.applications.resnet.file_utils.get_file", download)
    built = model.build(2, "imagenet", 32)
    assert asked["name"] == "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert len(asked["file_hash"]) == 32
    assert len(built.layers) == 181


def test_without_the_download_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise URLError("no route to host")

    monkeypatch.setattr("keras.src.applications.resnet.file_utils.get_file", download)
    with pytest.raises(BackboneUnavailable, match=r"--backbone PATH .* --backbone none") as caught:
        model.build(2, "imagenet", 32)
    assert "no route to host" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_foreign_backbone_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneUnavailable, match="no file"):
        model.build(2, str(tmp_path / "none.weights.h5"), 32)
    foreign = tmp_path / "foreign.weights.h5"
    foreign.write_bytes(b"not weights")
    with pytest.raises(BackboneUnavailable, match=r"foreign\.weights\.h5"):
        model.build(2, str(foreign), 32)
