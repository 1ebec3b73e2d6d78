"""The contract of a release folder: its manifest, and that its files are the ones it names."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import CardNotFound, ReleaseInvalid, ReleaseNotFound

MANIFEST = "manifest.json"
CARD = "MODEL_CARD.md"

_PART = 2**22
"""Bytes that are hashed at a time: so many that other threads seldom wait for this one."""

Probability = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["f32", "bf16", "int8"]
EngineName = Literal["openvino", "tensorflow"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputContract(_Model):
    """What goes into the SavedModel's `serving_default`."""

    tensor: Literal["image"] = "image"
    dtype: Literal["uint8"] = "uint8"
    shape: tuple[None, Literal[224], Literal[224], Literal[1]] = (None, 224, 224, 1)
    resize: str = Field(description="Name of the rule that makes the input out of an image.")


class Decision(_Model):
    """When a probability is called COVID-19."""

    threshold: Probability = Field(description="COVID-19 is said from this probability upwards.")
    rule: str = Field(description="How the threshold was chosen, and on which images.")


class PredictionSetRule(_Model):
    """Which labels cannot be ruled out at a confidence (split conformal prediction)."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    least: dict[str, Probability] = Field(
        description="A label is in the set from this probability upwards."
    )
    images: dict[str, int] = Field(description="Validation images it was calibrated on, by label.")

    def labels(self, probabilities: Mapping[str, float]) -> tuple[str, ...]:
        """Name the labels that cannot be ruled out; none where the model knows none well enough."""
        return tuple(label for label, p in probabilities.items() if p >= self.least[label])


class Share(_Model):
    """A part of a set of images."""

    name: str = Field(description="Of the set.")
    images: int = Field(description="In the whole set.")
    share: Probability
    pictures: int | None = Field(
        default=None,
        description="Of how many different pictures the images are views; none where each is made "
        "anew.",
    )
    related: int | None = Field(
        default=None,
        description="How many of these pictures are of a file, a clip or a head that was learned "
        "from too.",
    )


class Acceptance(_Model):
    """When an image counts as a frontal chest X-ray."""

    trained: bool = Field(description="False: the score is a constant 1 and refuses nothing.")
    threshold: Probability
    rule: str
    refused: tuple[Share, ...] = Field(
        default=(), description="Of the X-rays of each split, cohort and label."
    )
    accepted_foreign: tuple[Share, ...] = Field(
        default=(), description="Of images that are no frontal chest X-rays, by what they are."
    )


class Estimate(_Model):
    """A measured value with its 95% interval."""

    value: float
    low: float
    high: float


class Cohort(_Model):
    """The measurements on one set of images."""

    name: str
    split: str = Field(
        description="`test`, `validation`, or `held-out` for what training never saw."
    )
    images: dict[str, int] = Field(description="Number of images by label.")
    metrics: dict[str, Estimate] = Field(description="By name, such as `auc` or `sensitivity`.")


class Control(_Model):
    """How well the labels are told apart on test images that were changed to make it hard."""

    name: str = Field(description="What was changed.")
    auc: Estimate


class Mistake(_Model):
    """A test image that is called the wrong label."""

    file: str
    label: str
    probability: Probability = Field(description="Of the positive label.")


class GoldenAnswer(_Model):
    """An answer for `app.imaging.phantom`."""

    probabilities: tuple[Probability, Probability]
    acceptance: Probability
    heatmap_mean: Probability


class Golden(GoldenAnswer):
    """The answer for `app.imaging.phantom`, by TensorFlow in f32."""

    tolerance: Annotated[float, Field(gt=0, le=0.05, description="Of an engine in f32.")]
    reduced_tolerance: Annotated[
        float, Field(gt=0, le=0.1, description="Of an engine in bf16 or int8.")
    ] = 0.05
    int8: GoldenAnswer | None = Field(
        default=None,
        description="By the quantised network, where it passed: it agrees on X-rays, and the "
        "phantom is none.",
    )


class Dataset(_Model):
    """The images that a release was made from."""

    fingerprint: Sha256 = Field(description="Over every used file's hash, label, cohort and split.")
    images: dict[str, dict[str, int]] = Field(description="split → label → number of images.")


class Continuation(_Model):
    """The release whose weights training went on from."""

    name: str
    version: int
    digest: Sha256
    stages: int = Field(description="How many of the recipe's stages it had been trained by.")


class Training(_Model):
    """How the release was made, and how to make it again."""

    command: str
    config: dict[str, Any]
    seed: int
    continued_from: Continuation | None = None
    backbone: str
    epochs: int
    packages: dict[str, str]
    python: str
    hardware: str
    dataset: Dataset


class Network(_Model):
    """The release whose network this is, file by file: none was trained or exported anew."""

    name: str
    version: int
    digest: Sha256
    hardware: str = Field(description="What it was measured anew on.")


class Manifest(_Model):
    """`manifest.json` of a release."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    version: Annotated[int, Field(ge=1)]
    created: datetime
    labels: tuple[str, str] = Field(
        description="In the order of `probabilities`; the positive first."
    )
    input: InputContract
    decision: Decision
    temperature: Annotated[float, Field(gt=0, description="What the logits are divided by.")]
    bias: float = Field(default=0.0, description="What is added to the positive label's then.")
    acceptance: Acceptance
    prediction_sets: tuple[PredictionSetRule, ...] = ()
    metrics: tuple[Cohort, ...]
    controls: tuple[Control, ...] = ()
    mistakes: tuple[Mistake, ...] = Field(default=(), description="The worst, the worst first.")
    precisions: dict[EngineName, tuple[Precision, ...]] = Field(
        description="Those that gave the same answers on the test split."
    )
    golden: Golden
    training: Training
    network_of: Network | None = Field(
        default=None, description="Where a network that was there was measured anew: whose it is."
    )
    files: dict[str, Sha256] = Field(description="Path inside the release → SHA-256.")

    @model_validator(mode="after")
    def _paths_stay_inside(self) -> "Manifest":
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"expected a path inside the release; received {name}")
        if "saved_model.pb" not in self.files:
            raise ValueError("expected saved_model.pb among the files; received none")
        return self


@dataclass(frozen=True, slots=True)
class Release:
    """A release folder whose files were found to be what its manifest says.

    Attributes:
        path: The folder, named by its version.
        manifest: Its contract.
        digest: SHA-256 of `manifest.json`, which names every other file's.
    """

    path: Path
    manifest: Manifest
    digest: str


def open_release(path: Path) -> Release:
    """Read a release's manifest and verify the hash of every file.

    Raises:
        ReleaseNotFound: There is no such folder, or no manifest in it.
        ReleaseInvalid: The manifest is malformed, or a file is missing, changed, not listed or
            cannot be read.
    """
    try:
        text = (path / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise ReleaseNotFound(f"a release with a {MANIFEST} at {path}", "none") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "its text"
        raise ReleaseInvalid(
            f"a manifest of schema version 1 at {path}", f"{where}: {first['msg']}"
        ) from error
    if path.name != str(manifest.version):
        raise ReleaseInvalid(
            f"version {path.name} in the manifest at {path}", f"{manifest.version}"
        )
    _verify_files(path, manifest)
    return Release(path, manifest, hashlib.sha256(text).hexdigest())


def read_card(release: Release) -> bytes:
    """Read a release's model card, Markdown in UTF-8.

    Raises:
        CardNotFound: It has none.
    """
    try:
        return (release.path / CARD).read_bytes()
    except OSError as error:
        manifest = release.manifest
        raise CardNotFound(
            f"a {CARD} in {manifest.name} version {manifest.version}", "none"
        ) from error


def hash_files(path: Path) -> dict[str, str]:
    """Hash every file of a release folder but its manifest: path inside the folder → SHA-256."""
    return {name: _sha256(path / name) for name in sorted(_names(path))}


def _verify_files(path: Path, manifest: Manifest) -> None:
    try:
        found = hash_files(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    listed = manifest.files
    if missing := sorted(listed.keys() - found.keys()):
        raise ReleaseInvalid(f"every file that {path / MANIFEST} lists", f"no {missing[0]}")
    if unlisted := sorted(found.keys() - listed.keys()):
        raise ReleaseInvalid(f"only the files that {path / MANIFEST} lists", f"also {unlisted[0]}")
    for name, sha256 in listed.items():
        if found[name] != sha256:
            raise ReleaseInvalid(f"{path / name} with SHA-256 {sha256}", found[name])


def _unreadable(path: Path, error: OSError) -> ReleaseInvalid:
    return ReleaseInvalid(
        f"files that can be read at {path}", f"{error.filename or 'one'}: {error.strerror}"
    )


def _names(path: Path) -> Iterator[str]:
    for file in path.rglob("*"):
        if file.is_file() and file != path / MANIFEST:
            yield file.relative_to(path).as_posix()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while part := stream.read(_PART):
            digest.update(part)
    return digest.hexdigest()
