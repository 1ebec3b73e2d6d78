"""A recipe: one TOML file that, with the data, decides everything about a release."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from training.errors import ConfigInvalid

Share = Annotated[float, Field(ge=0, lt=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Model):
    """Which images are learned from."""

    labels: tuple[str, str] = ("COVID-19", "Normal")
    aliases: dict[str, str] = Field(default={}, description="Other names of labels → label.")
    other_labels: tuple[str, ...] = Field(
        default=(),
        description="Known, but neither class: never trained on, evaluated on their own.",
    )
    cohorts: tuple[str, ...] = Field(
        default=(), description="The cohorts to train on; all where empty. Others are held out."
    )
    limit: dict[str, PositiveInt] = Field(
        default={},
        description="Label → the most images of it to use, drawn by the seed. Others are held out.",
    )
    folds: int = Field(default=10, ge=3, description="One is the test split, one validation.")
    duplicate_bits: int = Field(
        default=10, ge=0, le=256, description="Hash distance up to which two images are one group."
    )

    @model_validator(mode="after")
    def _only_labels_are_limited(self) -> Self:
        unknown = sorted(set(self.limit) - set(self.labels))
        if unknown:
            raise ValueError(
                f"expected a limit of {' or '.join(self.labels)}; received {', '.join(unknown)}"
            )
        return self


class Augment(_Model):
    """Random changes of the training images. All off by default."""

    flip: bool = Field(default=False, description="Left and right.")
    rotate_degrees: float = Field(default=0, ge=0, le=45, description="At most, either way.")
    zoom: Share = Field(default=0, description="At most, in and out, as a share of the side.")
    shift: Share = Field(default=0, description="At most, any way, as a share of the side.")
    stretch: Share = Field(default=0, description="At most, of one side against the other.")
    contrast: Share = Field(default=0, description="At most, up and down.")
    brightness: Share = Field(default=0, description="At most, up and down, as a share of white.")
    gamma: float = Field(default=0, ge=0, le=2, description="At most, of its logarithm, to base 2.")
    frame: Share = Field(
        default=0,
        description="Share of images whose outer part becomes that of another image, darkened.",
    )
    blur: Share = Field(default=0, description="At most, how far towards the blurred image.")
    sharpen: float = Field(default=0, ge=0, le=3, description="At most, the same way back.")
    noise: Share = Field(default=0, description="At most, its standard deviation, of white.")
    mixup: float = Field(
        default=0,
        ge=0,
        le=2,
        description="Images and targets are mixed with another's by shares of Beta(mixup, mixup).",
    )

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return self != Augment()


class Stage(_Model):
    """One call of `fit`: what trains, on what, how fast."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    train_from: str = Field(
        description="`head`, `all`, or the name of the first layer of the backbone that trains."
    )
    batch_norm: Literal["inference", "training"] = Field(
        default="inference",
        description="`training`: batch normalisation that trains uses the batch's statistics.",
    )
    epochs: int = Field(ge=1)
    size: int = Field(default=224, ge=32, le=512, description="Side of the images, in pixels.")
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: float = Field(default=0, ge=0)
    weight_decay: float = Field(default=0, ge=0)
    average: Share = Field(
        default=0,
        description="Momentum, a step, of the moving average that the stage's weights end as.",
    )
    label_smoothing: Share = 0
    augment: Augment = Augment()


class Config(_Model):
    """A whole recipe."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")] = "covid19-resnet50"
    note: str = Field(default="", description="What the model card says of the release first.")
    about_data: str = Field(
        default="",
        description="What the model card says of the images: eligibility, origin of the labels.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    backbone: str = Field(
        default="imagenet",
        description="`imagenet`, `none` (random), or the path of a Keras weights file.",
    )
    cache_features: bool = Field(
        default=True,
        description="Compute a frozen backbone's features once where nothing augments.",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    sensitivity: float = Field(
        default=0.95, gt=0, lt=1, description="The least that the decision threshold must give."
    )
    data: Data = Data()
    stages: tuple[Stage, ...] = Field(min_length=1)

    def with_backbone(self, backbone: str) -> "Config":
        """Take another backbone, and adapt the stages to it where it is random.

        A random backbone that is never trained can only be noise: where the first stage would
        keep it frozen, every stage trains all layers, batch normalisation included.
        """
        config = self.model_copy(update={"backbone": backbone})
        if backbone != "none" or self.stages[0].train_from == "all":
            return config
        change = {"train_from": "all", "batch_norm": "training"}
        stages = tuple(stage.model_copy(update=change) for stage in self.stages)
        return config.model_copy(update={"stages": stages})


def load_config(path: Path) -> Config:
    """Read a recipe.

    Raises:
        ConfigInvalid: There is no such file, it is no TOML, or a value cannot be.
    """
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigInvalid(f"a recipe at {path}", error.strerror or "an error") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"TOML in {path}", str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigInvalid(f"a recipe in {path}", f"{where}: {first['msg']}") from error
