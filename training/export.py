"""The trained network → one SavedModel that holds everything between pixels and answer."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from app.imaging import SIZE, Pixels
from training.acceptance import LAYERS, Classifier, Features, pooled
from training.config import Config
from training.metrics import Scores
from training.model import BACKBONE_LAYERS, build
from training.pipeline import to_network_input

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scaling:
    """What makes probabilities of logits: `softmax(logits / temperature + [bias, 0])`.

    A temperature (Guo et al., ICML 2017) moves all probabilities away from one half or towards it;
    where one label is said too seldom, only a bias mends that (Platt, 1999).

    Attributes:
        temperature: Greater than 0.
        bias: Of the positive label, in log odds.
    """

    temperature: float = 1.0
    bias: float = 0.0

    def scores(self, logits: Scores) -> Scores:
        """Probability of the positive label, float64 `[n]`, of logits `[n, 2]`."""
        found: Scores = expit((logits[:, 0] - logits[:, 1]) / self.temperature + self.bias)
        return found


UNSCALED = Scaling()


class ReleaseGraph:
    """The signature of a release, `serve`, and the `logits` that it is calibrated by.

    Kernels are float16 constants that the graph casts to float32: half the file, and an engine
    folds the casts when it loads. Biases and batch normalisation stay in float32; a variance may
    be larger than float16 can hold.

    Args:
        model: The network, built in float32.
        scaling: What makes the logits probabilities.
        classifier: What scores acceptance; a constant 1 stands for it where None.
    """

    def __init__(
        self, model: keras.Model, scaling: Scaling = UNSCALED, classifier: Classifier | None = None
    ) -> None:
        # [n, h, w, 3] -> the maps of `LAYERS`, then the backbone's last, [n, 7, 7, 2048]
        outputs = [model.get_layer(name).output for name in LAYERS]
        last = model.layers[BACKBONE_LAYERS - 1].output
        self._backbone = keras.Model(model.input, [*outputs, last])
        self._weights = [_constant(v) for v in self._backbone.trainable_variables]
        self._statistics = [_constant(v) for v in self._backbone.non_trainable_variables]
        layers = model.layers[BACKBONE_LAYERS + 1 :]
        self._head = [(_constant(layer.kernel), _constant(layer.bias)) for layer in layers]
        pairs = [
            *zip(self._weights, self._backbone.trainable_variables, strict=True),
            *zip(self._statistics, self._backbone.non_trainable_variables, strict=True),
        ]
        for layer, (kernel, bias) in zip(layers, self._head, strict=True):
            pairs += [(kernel, layer.kernel), (bias, layer.bias)]
        self._variables = {id(constant): variable for constant, variable in pairs}
        self._temperature = tf.constant(scaling.temperature, tf.float32)
        self._bias = tf.constant([scaling.bias, 0], tf.float32)
        self._classifier = classifier
        image = tf.TensorSpec([None, SIZE, SIZE, 1], tf.uint8, name="image")
        self.serve = tf.function(self._serve, input_signature=[image])
        self.logits = tf.function(self._logits, input_signature=[image])
        self.features = tf.function(self._features, input_signature=[image])

    def variable(self, constant: tf.Tensor) -> keras.Variable:
        """Tell which of the network's variables a constant of the graph was made from."""
        return self._variables[id(constant)]

    def _serve(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 `[n, 224, 224, 1]` → probabilities, heatmap and acceptance."""
        maps = self._maps(image)
        logits, gradient = self._logits_and_gradient(tf.reduce_mean(maps[-1], axis=(1, 2)))
        return {
            "probabilities": tf.nn.softmax(logits / self._temperature + self._bias),
            "heatmap": _grad_cam(maps[-1], gradient),
            "acceptance": self._acceptance(image, maps[:-1]),  # its constants come after all others
        }

    def _logits(self, image: tf.Tensor) -> tf.Tensor:
        """uint8 `[n, 224, 224, 1]` → logits `[n, 2]`, not scaled."""
        return self._logits_and_gradient(tf.reduce_mean(self._maps(image)[-1], axis=(1, 2)))[0]

    def _features(self, image: tf.Tensor) -> tf.Tensor:
        """uint8 `[n, 224, 224, 1]` → what the acceptance is scored by, `[n, features]`."""
        return pooled(image, self._maps(image)[:-1])

    def _acceptance(self, image: tf.Tensor, maps: list[tf.Tensor]) -> tf.Tensor:
        """Score `[n]`, 0 to 1."""
        if self._classifier is None:
            return tf.ones([tf.shape(image)[0]])
        c = self._classifier
        log_odds = pooled(image, maps) @ tf.constant(c.kernel) + tf.constant(c.bias)  # [n, 1]
        return tf.sigmoid(log_odds[:, 0])

    def _maps(self, image: tf.Tensor) -> list[tf.Tensor]:
        weights = [tf.cast(w, tf.float32) for w in self._weights]
        outputs, _ = self._backbone.stateless_call(
            weights, self._statistics, to_network_input(image), training=False
        )
        return list(outputs)

    def _logits_and_gradient(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits `[n, 2]`, and the gradient `[n, 2048]` of their difference by the features.

        The head is piecewise linear: backwards, it is its kernels and the ReLUs' masks.
        """
        kernels = [tf.cast(kernel, tf.float32) for kernel, _ in self._head]
        hidden, masks = features, []
        for kernel, (_, bias) in zip(kernels[:-1], self._head[:-1], strict=True):
            before = hidden @ kernel + bias
            masks.append(tf.cast(before > 0, tf.float32))
            hidden = tf.nn.relu(before)
        logits = hidden @ kernels[-1] + self._head[-1][1]
        gradient = (kernels[-1][:, 0] - kernels[-1][:, 1])[:, tf.newaxis]  # [512, 1]
        for kernel, mask in zip(reversed(kernels[:-1]), reversed(masks), strict=True):
            # The kernel stands on the left: OpenVINO 2026.4 gives wrong products where one square
            # constant is the right-hand side both as it is and transposed.
            gradient = kernel @ (gradient * tf.transpose(mask))  # [units before, n]
        return logits, tf.transpose(gradient)


def load_network(weights: Path, config: Config, size: int = SIZE) -> keras.Model:
    """Build the trained network in float32, whatever it was trained in."""
    keras.mixed_precision.set_global_policy("float32")
    model = build(len(config.data.labels), "none", size)
    model.load_weights(weights)
    return model


def save(graph: ReleaseGraph, path: Path) -> None:
    """Write the SavedModel."""
    signature = graph.serve.get_concrete_function()
    # A bare module: the network's own variables stay out of the file.
    tf.saved_model.save(tf.Module(), str(path), {"serving_default": signature})


def all_logits(graph: ReleaseGraph, pixels: Pixels, batch: int = 32) -> Scores:
    """Logits float64 `[n, 2]` of uint8 `[n, 224, 224, 1]`."""
    parts = [graph.logits(pixels[i : i + batch]).numpy() for i in range(0, len(pixels), batch)]
    return np.concatenate(parts).astype(np.float64)


def all_features(graph: ReleaseGraph, pixels: Pixels, batch: int = 32) -> Features:
    """What acceptance is learned from, float32 `[n, features]`, of uint8 `[n, 224, 224, 1]`."""
    parts = [graph.features(pixels[i : i + batch]).numpy() for i in range(0, len(pixels), batch)]
    return np.concatenate(parts)


def fit_scaling(logits: Scores, positive: NDArray[np.bool_]) -> Scaling:
    """Find the scaling of the least cross-entropy (Platt, 1999, without his smoothed targets).

    Args:
        logits: `[n, 2]`, the positive label first.
        positive: `[n]`.

    Returns:
        A temperature between 0.05 and 20 and a bias between -5 and 5, the limits being for labels
        that are told apart without a mistake.
    """
    margin = logits[:, 0] - logits[:, 1]
    sign = np.where(positive, 1, -1)

    def cross_entropy(parameters: Scores) -> float:
        log_temperature, bias = parameters
        scaled = margin / np.exp(log_temperature) + bias
        return float(np.logaddexp(0, -sign * scaled).mean())

    limits = [(np.log(0.05), np.log(20)), (-5, 5)]
    log_temperature, bias = minimize(cross_entropy, (0, 0), method="L-BFGS-B", bounds=limits).x
    return Scaling(float(np.exp(log_temperature)), float(bias))


def choose_threshold(
    scores: Scores,
    positive: NDArray[np.bool_],
    sensitivity: float,
    accepted: NDArray[np.bool_] | None = None,
) -> float:
    """Find the threshold of the best specificity among those of at least a sensitivity.

    The highest such threshold has the best specificity. It is laid halfway to the next lower score,
    so that no image sits on it. Where acceptance refuses so many positives that none is left to
    reach the sensitivity by, it is the highest that calls all the accepted ones.

    Args:
        scores: Probability of the positive label `[n]`.
        positive: `[n]`, at least one of them True.
        sensitivity: The least share of the positives that the threshold must call.
        accepted: `[n]`, which acceptance lets pass; the others count as not called. All where
            None, or where it refuses all positives.
    """
    answered = np.ones(len(scores), bool)
    if accepted is not None and (accepted & positive).any():
        answered = accepted
    own = np.sort(scores[positive & answered])[::-1]
    wanted = math.ceil(sensitivity * positive.sum() - 1e-9)
    if wanted > len(own):
        log.warning(
            "Expected acceptance to let %d of %d X-rays of the positive label pass, for a "
            "sensitivity of %s; it passes %d: the threshold calls them all.",
            *(wanted, positive.sum(), sensitivity, len(own)),
        )
    lowest = own[min(wanted, len(own)) - 1]
    below = scores[answered & (scores < lowest)]
    return float((lowest + (below.max() if len(below) else 0.0)) / 2)


def _constant(variable: keras.Variable) -> tf.Tensor:
    value = variable.numpy()
    kernel = value.ndim > 1
    return tf.constant(value.astype(np.float16 if kernel else np.float32))


def _grad_cam(maps: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017), `[n, 7, 7]`, each image's maximum at 1.

    All zero where nothing speaks for the positive label.
    """
    heat = tf.nn.relu(tf.einsum("nhwc,nc->nhw", maps, gradient))
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))
