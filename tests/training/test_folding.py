import keras
import numpy as np
import pytest
import tensorflow as tf

from training import folding, model

Images = np.ndarray


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(3).normal(0, 50, (4, 96, 96, 3)).astype(np.float32)


@pytest.fixture
def network() -> keras.Model:
    """Random kernels, and batch normalisation as after training: no scale or mean is 1 or 0."""
    keras.utils.set_random_seed(7)
    network, rng = model.build(2, "none", 96), np.random.default_rng(8)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.gamma.assign(rng.choice([-1, 1], shape) * rng.uniform(0.3, 1.5, shape))
            layer.beta.assign(rng.normal(0, 0.2, shape))
            layer.moving_mean.assign(rng.normal(0, 0.2, shape))
            layer.moving_variance.assign(rng.uniform(0.2, 2, shape))
    return network


def features(network: keras.Model, images: Images, *, training: bool) -> Images:
    cut = model.feature_extractor(model.fused(network))
    values: Images = cut(images, training=training).numpy()
    return values


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "rounded", lambda values: values)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("training", "error"), [(False, 1e-3), (True, 0.05)])
def test_without_rounding_a_folded_network_gives_the_same_features(
    network: keras.Model, images: Images, training: bool, error: float
) -> None:
    before = features(network, images, training=training)
    folding.fold(network)
    after = features(network, images, training=training)
    # In training epsilon does not grow with the kernels.
    assert np.abs(after - before).max() < error * before.std()


@pytest.mark.usefixtures("exact")
def test_a_channel_of_hardly_any_scale_is_left_as_it_is(
    network: keras.Model, images: Images
) -> None:
    norm = network.get_layer("conv2_block1_1_bn")
    gamma = norm.gamma.numpy()
    gamma[:3] = [0, 1e-3, -1e-6]
    norm.gamma.assign(gamma)
    before = features(network, images, training=False)
    folding.fold(network)
    assert np.array_equal(norm.gamma.numpy()[:3], gamma[:3])
    after = features(network, images, training=False)
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() < 2e-3 * before.std()


def test_what_is_left_to_multiply_by_is_one_and_every_kernel_is_a_bfloat16(
    network: keras.Model,
) -> None:
    folding.fold(network)
    norms = [
        layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 53
    for norm in norms:
        left = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        assert np.abs(left - 1).max() < 1e-5
    kernels = [each.numpy() for each in network.trainable_variables if each.name == "kernel"]
    assert len(kernels) == 58
    for kernel in kernels:
        assert np.array_equal(kernel, kernel.astype(tf.bfloat16.as_numpy_dtype))


def test_a_network_that_was_folded_is_not_changed_by_folding(network: keras.Model) -> None:
    folding.fold(network)
    once = network.get_weights()
    folding.fold(network)
    for first, second in zip(once, network.get_weights(), strict=True):
        assert np.allclose(first, second, rtol=1e-5, atol=1e-6)
