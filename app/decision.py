"""What a model's answer for an image means: the release's thresholds applied, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import NotAChestRadiograph
from app.imaging import ImageWarning
from app.release import Manifest


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How much the image looks like the X-rays that the release was made for."""

    score: float
    threshold: float

    @property
    def is_enough(self) -> bool:
        """Whether it counts as one."""
        return self.score >= self.threshold


@dataclass(frozen=True, slots=True)
class Decision:
    """What is said of an image.

    Attributes:
        label: The first label where its probability reaches the threshold, else the second.
        probabilities: By label.
        prediction_set: Confidence, such as `95%` → the labels that cannot be ruled out at it.
    """

    label: str
    probabilities: dict[str, float]
    prediction_set: dict[str, tuple[str, ...]]


def decide(manifest: Manifest, probabilities: Sequence[float]) -> Decision:
    """Say a label, and which cannot be ruled out.

    Args:
        manifest: Of the release that answered.
        probabilities: In [0, 1], in the order of the manifest's labels.
    """
    by_label = dict(zip(manifest.labels, probabilities, strict=True))
    positive, negative = manifest.labels
    return Decision(
        label=positive if by_label[positive] >= manifest.decision.threshold else negative,
        probabilities=by_label,
        prediction_set={
            f"{rule.confidence:.0%}": rule.labels(by_label) for rule in manifest.prediction_sets
        },
    )


def judge(manifest: Manifest, acceptance: Acceptance, *, refuses: bool) -> tuple[ImageWarning, ...]:
    """Say whether the image is one that the release was made for.

    Args:
        manifest: Of the release that answered.
        acceptance: What it said of the image.
        refuses: Whether another image is refused; else it is answered with a warning.

    Raises:
        NotAChestRadiograph: It is none, and is refused.
    """
    if not manifest.acceptance.trained:
        detail = "This release cannot tell whether an image is a frontal chest X-ray."
        return (ImageWarning("acceptance-not-trained", detail),)
    if acceptance.is_enough:
        return ()
    error = NotAChestRadiograph(
        f"a frontal chest X-ray, with an acceptance score of at least {acceptance.threshold:g}",
        f"an image with the score {acceptance.score:.3g}",
    )
    if refuses:
        raise error
    return (ImageWarning(error.code, str(error)),)
