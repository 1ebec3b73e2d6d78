"""What a model card says beyond the manifest's own numbers, and Markdown out of templates."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import ValidationError

from app.release import Manifest, Share
from training.config import Config
from training.metrics import clopper_pearson

_WORDS = {"name", "note", "about_data"}
"""Of a recipe, what changes no number."""


def markdown(template: str, **values: object) -> str:
    """Fill in one of the package's templates; a value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("training", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(),  # of HTML, which Markdown is not
    )
    environment.filters["cell"] = cell
    text: str = environment.get_template(template).render(**values)
    return text.rstrip() + "\n"


def cell(name: str) -> str:
    """Write a name of the data so that it stays in its cell of a table."""
    return " ".join(name.split()).replace("|", r"\|")


def at_prevalence(probability: float, share: float, prevalence: float) -> float:
    """Give what a calibrated probability becomes where another share of people is positive.

    Bayes' rule, as in Saerens et al. (Neural Computation, 2002): the odds change as those of the
    shares do. It holds where nothing but the share changes.

    Args:
        probability: 0 to 1, of the positive label.
        share: Of positives among the images that it was calibrated on, between 0 and 1.
        prevalence: The other share.
    """
    positive = probability * prevalence / share
    negative = (1 - probability) * (1 - prevalence) / (1 - share)
    return positive / (positive + negative)


def calibrated_at(manifest: Manifest) -> float:
    """Give the share of positives among the validation images of the two labels."""
    images = manifest.training.dataset.images["validation"]
    positive, negative = (images.get(label, 0) for label in manifest.labels)
    return positive / (positive + negative)


def interval(share: Share) -> tuple[float, float]:
    """Give a share's 95% interval, as if its images were independent."""
    return clopper_pearson(round(share.share * share.images), share.images)


def labels_apart(manifest: Manifest) -> bool:
    """Tell whether each cohort that was tested on is named, and holds one of the labels only."""
    tested = [cohort.name for cohort in manifest.metrics if cohort.split == "test"]
    first, second = (
        {name.removesuffix(f" / {label}") for name in tested if name.endswith(f" / {label}")}
        for label in manifest.labels
    )
    return bool(first and second) and not first & second and "unnamed" not in first | second


def same_recipe(recipe: Config, other: Mapping[str, Any]) -> bool:
    """Tell whether a recipe and another's content make the same, whatever their notes say."""
    try:
        found = Config.model_validate(other)
    except ValidationError:
        return False  # it says what no recipe says any more
    return found.model_dump(exclude=_WORDS) == recipe.model_dump(exclude=_WORDS)
