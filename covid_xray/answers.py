"""What the service answers with. What a newer service says beyond this is passed over."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(_Answer):
    """Why there is no answer, after RFC 9457.

    Attributes:
        type: Stable name of the kind of problem.
        title: It, for people.
        status: The HTTP status.
        detail: What was expected and received, for people.
        code: The end of `type`, for programs.
        expected: What would have been right.
        received: What came instead.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    expected: str | None = None
    received: str | None = None


class Acceptance(_Answer):
    """How much the image looks like the frontal chest X-rays that the model was made for.

    Attributes:
        score: In [0, 1].
        threshold: Below it an image is refused.
    """

    score: float
    threshold: float


class ReadWarning(_Answer):
    """Something that the answer's reader should know.

    Attributes:
        code: Stable, for programs.
        detail: For people.
    """

    code: str
    detail: str


class DicomInstance(_Answer):
    """Which DICOM instance was read, by its UIDs; None where it has none that is valid."""

    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    sop_class_uid: str | None


class ImageRead(_Answer):
    """What was read.

    Attributes:
        format: Such as `PNG`.
        width: Columns, as shown upright.
        height: Rows, as shown upright.
        sha256: Of the file's bytes, in hexadecimal.
        dicom: Of a DICOM file only.
    """

    format: str
    width: int
    height: int
    sha256: str
    dicom: DicomInstance | None = None


class Heatmap(_Answer):
    """The X-ray with the heatmap over it.

    Attributes:
        media_type: Of the picture.
        data: The picture, in base64.
    """

    media_type: str
    data: str


class Model(_Answer):
    """What answered.

    Attributes:
        name: Of the model.
        version: Of the model.
        digest: SHA-256 of the release's manifest.
    """

    name: str
    version: int
    digest: str


class Prediction(_Answer):
    """The answer for one image.

    Attributes:
        id: Of this answer.
        label: The first label where its probability reaches the threshold, else the second.
        probabilities: By label; they add up to 1.
        decision_threshold: From which probability upwards the first label is said.
        prediction_set: By confidence, such as `95%`, the labels that cannot be ruled out. Both: the
            image could be either. None: take it as no answer.
        acceptance: How much the image looks like those that the model was made for.
        warnings: What its reader should know.
        image: What was read.
        model: What answered.
        timings_ms: Milliseconds by stage.
        heatmap: Only where it was asked for.
    """

    id: UUID
    label: str
    probabilities: dict[str, float]
    decision_threshold: float
    prediction_set: dict[str, list[str]]
    acceptance: Acceptance
    warnings: list[ReadWarning]
    image: ImageRead
    model: Model
    timings_ms: dict[str, float]
    heatmap: Heatmap | None = None


class Version(_Answer):
    """A version of the model that the service has.

    Attributes:
        name: Of the model.
        version: Its number.
        state: `serving`, `loading`, `available` or `refused`.
        reason: Why it was refused.
        digest: SHA-256 of its manifest.
        created: When it was made.
        engine: What runs it, where it is serving.
        precision: What it is computed in.
    """

    name: str
    version: int
    state: str
    reason: str | None = None
    digest: str | None = None
    created: datetime | None = None
    engine: str | None = None
    precision: str | None = None


class Versions(_Answer):
    """All versions, the newest first."""

    models: list[Version] = Field(default_factory=list)
