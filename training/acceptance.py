"""Tell frontal chest X-rays from everything else, by what the network's own maps hold.

The backbone has learned what chests look like. How much its filters answer to an image, and how
unevenly over it, tells whether there is one; logistic regression on those numbers says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from app.engines import Engine
from app.imaging import SIZE, Pixels
from app.release import Acceptance, Share
from training.config import Augment
from training.evaluate import Measured, measure
from training.foreign import Foreign, foreign
from training.metrics import Scores
from training.pipeline import augmented

Features = NDArray[np.float32]

LAYERS = ("conv3_block4_out", "conv4_block6_out")
"""What they answer to was found to tell most. The last block's maps, which the classes are told by,
make foreign images look like one or the other, and those before hold too little of a chest."""
THUMBNAIL = 16
FEATURES = THUMBNAIL**2 + 2 * (512 + 1024)

MOST_XRAYS = 1500
"""X-rays to learn from, as they are; as many again are varied."""
MOST_FOREIGN = 4000
"""Foreign images to learn from; no more than four thirds of the X-rays, varied ones included."""
SPOILED_WEIGHT = 3
"""X-rays that are turned or cut are the hardest to tell: so many of these for each other image."""
MOST_CHOOSING = 400
"""Foreign images to choose the threshold on; no more than validation X-rays."""
MOST_MEASURED = 700
"""Foreign images to measure on; no more than test X-rays."""

INVERSE_DECAY = 0.01
LEAST_SPREAD = 1e-3
"""A feature that varies less is not standardised to more: it would be noise enlarged."""
PASSING = 0.99
RULE = (
    "halfway, in log odds, between the score that {passing:.0%} of the {images} validation X-rays "
    "reach and the score that {passing:.0%} of {foreign} foreign images stay below; at most the "
    "former"
)
VARIATION = Augment(
    flip=True,
    rotate_degrees=10,
    zoom=0.15,
    shift=0.05,
    stretch=0.1,
    contrast=0.4,
    brightness=0.12,
    gamma=0.8,
    frame=0.25,
    blur=0.95,
    sharpen=2,
    noise=0.03,
)
"""What differs between hospitals' X-rays and makes none of them less of an X-ray."""


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """Logistic regression, the features' standardisation folded into its kernel.

    Attributes:
        kernel: float32 `[features, 1]`.
        bias: float32 `[1]`.
    """

    kernel: Features
    bias: Features

    def log_odds(self, features: Features) -> Scores:
        """Log odds, float64 `[n]`, that features `[n, features]` are of a frontal chest X-ray."""
        odds: Scores = (features @ self.kernel + self.bias)[:, 0].astype(np.float64)
        return odds


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What `learn` gives.

    Attributes:
        classifier: For the graph.
        rule: For the manifest.
        accepted: Which of the validation X-rays pass, `[n]`.
    """

    classifier: Classifier
    rule: Acceptance
    accepted: NDArray[np.bool_]


def pooled(image: tf.Tensor, maps: Sequence[tf.Tensor]) -> tf.Tensor:
    """Reduce an image and its maps to what the classifier takes.

    Args:
        image: uint8 `[n, 224, 224, 1]`.
        maps: Of `LAYERS`, float32 `[n, h, w, c]` each.

    Returns:
        Mean and standard deviation of each channel, and the image as 16×16 means in 0 to 1;
        float32 `[n, features]`.
    """
    step = SIZE // THUMBNAIL
    small = tf.nn.avg_pool2d(tf.cast(image, tf.float32) / 255, step, step, "VALID")
    parts = [tf.reshape(small, [-1, THUMBNAIL**2])]
    for values in maps:
        mean = tf.reduce_mean(values, axis=(1, 2), keepdims=True)  # [n, 1, 1, c]
        variance = tf.reduce_mean((values - mean) ** 2, axis=(1, 2))  # [n, c]
        parts += [mean[:, 0, 0], tf.sqrt(variance)]
    return tf.concat(parts, axis=1)


def learn(
    extract: Callable[[Pixels], Features], train: Pixels, validation: Pixels, seed: int
) -> Learned:
    """Fit the classifier on the training split and choose its threshold on validation.

    Args:
        extract: Gives the features of images, `[n, features]`.
        train: X-rays, uint8 `[n, 224, 224, 1]`.
        validation: X-rays of the validation split, the same way.
        seed: Of everything random.
    """
    rng = np.random.default_rng(seed)
    chosen = train[np.sort(rng.permutation(len(train))[:MOST_XRAYS])]
    count = min(MOST_FOREIGN, 8 * len(chosen) // 3)
    other = foreign(train, count, seed, measured=False, spoiled_weight=SPOILED_WEIGHT)
    features = extract(np.concatenate([chosen, varied(chosen, seed), other.pixels]))
    classifier = fit(features, np.arange(len(features)) < 2 * len(chosen), seed)
    count = min(MOST_CHOOSING, len(validation))
    strange = foreign(validation, count, seed + 1, measured=False)
    known, unknown = (
        classifier.log_odds(extract(pixels)) for pixels in (validation, strange.pixels)
    )
    text = RULE.format(passing=PASSING, images=len(known), foreign=len(unknown))
    limit = choose(known, unknown)
    rule = Acceptance(trained=True, threshold=float(expit(limit)), rule=text)
    return Learned(classifier, rule, known >= limit)


def fit(features: Features, xray: NDArray[np.bool_], seed: int) -> Classifier:
    """Fit the classifier on features `[n, features]`, of X-rays where `xray` `[n]` is true."""
    mean = features.mean(axis=0, dtype=np.float64)
    scale = np.maximum(features.std(axis=0, dtype=np.float64), LEAST_SPREAD)
    model = LogisticRegression(C=INVERSE_DECAY, max_iter=3000, random_state=seed)
    model.fit((features - mean) / scale, xray)
    kernel = model.coef_[0] / scale
    bias = model.intercept_ - mean @ kernel
    return Classifier(kernel[:, np.newaxis].astype(np.float32), bias.astype(np.float32))


def choose(known: Scores, unknown: Scores) -> float:
    """Choose the threshold's log odds as `RULE` says.

    Args:
        known: Log odds of the validation X-rays.
        unknown: Log odds of foreign images.
    """
    reached = float(np.quantile(known, 1 - PASSING, method="lower"))
    below = float(np.quantile(unknown, PASSING))
    return min(reached, (reached + below) / 2)


def varied(xrays: Pixels, seed: int, batch: int = 64) -> Pixels:
    """Change X-rays as other hospitals might have taken them: the same number, in order."""
    parts = [
        tf.cast(tf.round(augmented(xrays[i : i + batch], VARIATION, [seed, i])), tf.uint8).numpy()
        for i in range(0, len(xrays), batch)
    ]
    return np.concatenate(parts)


def report(
    rule: Acceptance, measured: Measured, engine: Engine, xrays: Pixels, seed: int
) -> Acceptance:
    """Add to a rule what it refuses and what it accepts.

    Args:
        rule: With its threshold.
        measured: What the model says of X-rays, of any splits.
        engine: What runs the model.
        xrays: The test split's, uint8 `[n, 224, 224, 1]`, to make foreign images of.
        seed: Of the foreign images.
    """
    strange = foreign(xrays, min(MOST_MEASURED, len(xrays)), seed + 2, measured=True)
    accepted = measure(engine, strange.pixels, [], "").acceptance >= rule.threshold
    return rule.model_copy(
        update={
            "refused": _refused(measured, rule.threshold),
            "accepted_foreign": _accepted(strange, accepted),
        }
    )


def _refused(measured: Measured, threshold: float) -> tuple[Share, ...]:
    names = [f"{r.split}: {r.cohort or 'unnamed'} / {r.label}" for r in measured.records]
    return _shares(names, measured.acceptance < threshold)


def _accepted(strange: Foreign, accepted: NDArray[np.bool_]) -> tuple[Share, ...]:
    """Tell of the kinds that are views of pictures also of how many, and of which origin."""
    return tuple(
        share.model_copy(
            update=dict(zip(("pictures", "related"), strange.pictures[share.name], strict=True))
        )
        if share.name in strange.pictures
        else share
        for share in _shares(strange.kinds, accepted)
    )


def _shares(names: Sequence[str], hit: NDArray[np.bool_]) -> tuple[Share, ...]:
    """Name by name, how many there are and which part of them is hit."""
    found = np.array(names)
    return tuple(
        Share(name=name, images=int((found == name).sum()), share=float(hit[found == name].mean()))
        for name in sorted(set(names))
    )
