"""What goes over the wire: the answers, and problems after RFC 9457."""

from datetime import datetime
from http import HTTPStatus
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.errors import CovidXrayError
from app.registry import Entry, Serving, State
from app.release import EngineName, Manifest, Precision

_TYPE_PREFIX = "urn:covid-xray:problem:"

_STATUS = {
    "malformed-request": HTTPStatus.BAD_REQUEST,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "not-acceptable": HTTPStatus.NOT_ACCEPTABLE,
    "upload-stalled": HTTPStatus.REQUEST_TIMEOUT,
    "payload-too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported-encoding": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "unsupported-image-type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "unreadable-image": HTTPStatus.UNPROCESSABLE_ENTITY,
    "unsupported-image": HTTPStatus.UNPROCESSABLE_ENTITY,
    "not-a-chest-radiograph": HTTPStatus.UNPROCESSABLE_ENTITY,
    "release-not-found": HTTPStatus.NOT_FOUND,
    "card-not-found": HTTPStatus.NOT_FOUND,
    "other-study": HTTPStatus.CONFLICT,
    "not-ready": HTTPStatus.SERVICE_UNAVAILABLE,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
    "outbox-full": HTTPStatus.SERVICE_UNAVAILABLE,
    "deadline-passed": HTTPStatus.GATEWAY_TIMEOUT,
}


def _is_none(value: object) -> bool:
    return value is None


class _Schema(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class Problem(_Schema):
    """Why there is no answer, after RFC 9457."""

    type: str = Field(
        description="Stable name of the kind of problem.",
        examples=["urn:covid-xray:problem:unsupported-image-type"],
    )
    title: str = Field(examples=["The file is of a type that is not read"])
    status: int = Field(description="The HTTP status.", examples=[415])
    detail: str = Field(examples=["Expected a PNG, JPEG or DICOM file; received a PDF."])
    code: str = Field(
        description="The end of `type`, for programs.", examples=["unsupported-image-type"]
    )
    expected: str | None = Field(
        default=None,
        description="What would have been right.",
        examples=["a PNG, JPEG or DICOM file"],
    )
    received: str | None = Field(default=None, description="What came instead.", examples=["a PDF"])

    @classmethod
    def of(cls, error: CovidXrayError) -> Self:
        """Tell an error of this service's tree; one that is the service's own without details."""
        status = _STATUS.get(error.code)
        if status is None:
            return cls.internal()
        return cls(
            type=_TYPE_PREFIX + error.code,
            title=error.title,
            status=status,
            detail=str(error),
            code=error.code,
            expected=error.expected,
            received=error.received,
        )

    @classmethod
    def of_status(cls, status: int) -> Self:
        """Tell a status that HTTP itself explains, such as 404 or 405."""
        http = HTTPStatus(status)
        code = http.phrase.lower().replace(" ", "-")
        return cls(
            type="about:blank", title=http.phrase, status=http, detail=http.description, code=code
        )

    @classmethod
    def internal(cls) -> Self:
        """Tell that the service failed, and nothing of its internals."""
        return cls(
            type=_TYPE_PREFIX + CovidXrayError.code,
            title=CovidXrayError.title,
            status=HTTPStatus.INTERNAL_SERVER_ERROR,
            detail="The service failed on this request; its log says why.",
            code=CovidXrayError.code,
        )


class AcceptanceSchema(_Schema):
    """How much the image looks like the frontal chest X-rays that the release was made for."""

    score: float = Field(description="In [0, 1].", examples=[0.98])
    threshold: float = Field(description="Below it an image is refused.", examples=[0.5])


class WarningSchema(_Schema):
    """Something that the answer's reader should know."""

    code: str = Field(description="Stable, for programs.", examples=["bit-depth-inferred"])
    detail: str = Field(
        description="For people.",
        examples=["A 16-bit image that uses 12 bits only; it was scaled by these."],
    )


class DicomSchema(_Schema):
    """Which DICOM object was read; null where it has no such UID, or one of another form."""

    study_instance_uid: str | None = Field(examples=["1.2.826.0.1.3680043.8.498.1"])
    series_instance_uid: str | None = Field(examples=["1.2.826.0.1.3680043.8.498.1.1"])
    sop_instance_uid: str | None = Field(examples=["1.2.826.0.1.3680043.8.498.1.1.1"])
    sop_class_uid: str | None = Field(examples=["1.2.840.10008.5.1.4.1.1.1.1"])


class ImageSchema(_Schema):
    """What was read."""

    format: str = Field(examples=["PNG"])
    width: int = Field(description="Columns, as shown upright.", examples=[1024])
    height: int = Field(description="Rows, as shown upright.", examples=[1024])
    sha256: str = Field(description="Of the file's bytes.", examples=["5f70bf18a0860070" * 4])
    dicom: DicomSchema | None = Field(
        default=None, exclude_if=_is_none, description="Only of a DICOM file."
    )


class HeatmapSchema(_Schema):
    """The X-ray with the heatmap over it."""

    media_type: str = Field(default="image/png", examples=["image/png"])
    data: str = Field(
        description="The picture, in base64.",
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
    )


class ModelSchema(_Schema):
    """What answered."""

    name: str = Field(examples=["covid19-resnet50"])
    version: int = Field(examples=[1])
    digest: str = Field(
        description="SHA-256 of the release's manifest, which holds that of each of its files.",
        examples=["6b23c0d5f35d1b11" * 4],
    )


class PredictionSchema(_Schema):
    """The answer for one image."""

    id: UUID = Field(description="Of this answer.")
    label: str = Field(
        description="COVID-19 where its probability reaches the threshold, else Normal.",
        examples=["COVID-19"],
    )
    probabilities: dict[str, float] = Field(
        description="By label; they add up to 1. Calibrated for the share of COVID-19 among the "
        "images that the release was validated on: where COVID-19 is rarer, fewer of those with a "
        "given probability have it.",
        examples=[{"COVID-19": 0.91, "Normal": 0.09}],
    )
    decision_threshold: float = Field(
        description="From which probability upwards COVID-19 is said.", examples=[0.5]
    )
    prediction_set: dict[str, list[str]] = Field(
        description="By confidence, the labels that cannot be ruled out (split conformal "
        "prediction). Both: the image could be either. None: the model is less sure of either "
        "label than it is of most X-rays of that label; take it as no answer.",
        examples=[{"90%": ["COVID-19"], "95%": ["COVID-19"]}],
    )
    acceptance: AcceptanceSchema
    warnings: list[WarningSchema]
    image: ImageSchema
    model: ModelSchema
    timings_ms: dict[str, float] = Field(
        description="Milliseconds by stage.",
        examples=[{"decode": 11.2, "queue": 0.1, "inference": 16.8, "total": 28.1}],
    )
    heatmap: HeatmapSchema | None = Field(
        default=None, exclude_if=_is_none, description="Only where it is asked for."
    )


class ReleaseSchema(_Schema):
    """A version in the model store."""

    name: str = Field(examples=["covid19-resnet50"])
    version: int = Field(examples=[1])
    state: State = Field(description="What the service does with it.")
    reason: str | None = Field(default=None, description="Why it was refused.")
    digest: str | None = Field(default=None, description="SHA-256 of its manifest.")
    created: datetime | None = None
    engine: EngineName | None = Field(
        default=None, description="What runs it, where it is serving."
    )
    precision: Precision | None = Field(default=None, description="What it is computed in.")

    @classmethod
    def of(cls, entry: Entry, serving: Serving) -> Self:
        """Tell what the registry knows of a version."""
        release = entry.release
        engine = serving.engine if entry.state is State.SERVING else None
        return cls(
            name=serving.release.manifest.name,
            version=entry.version,
            state=entry.state,
            reason=entry.reason,
            digest=release.digest if release else None,
            created=release.manifest.created if release else None,
            engine=engine.name if engine else None,
            precision=engine.precision if engine else None,
        )


class ReleaseDetailSchema(ReleaseSchema):
    """A version with its manifest: labels, thresholds, metrics by cohort, training, file hashes."""

    manifest: Manifest | None = Field(default=None, description="None where it was refused.")

    @classmethod
    def of(cls, entry: Entry, serving: Serving) -> Self:
        """Tell what the registry knows of a version, with its manifest."""
        summary = ReleaseSchema.of(entry, serving).model_dump()
        return cls(**summary, manifest=entry.release.manifest if entry.release else None)


class ReleasesSchema(_Schema):
    """All versions, the newest first."""

    models: list[ReleaseSchema]


class AliveSchema(_Schema):
    """The process answers."""

    status: Literal["alive"] = "alive"


class ReadySchema(_Schema):
    """A release is loaded and warm."""

    status: Literal["ready"] = "ready"
    name: str = Field(examples=["covid19-resnet50"])
    version: int = Field(examples=[1])
    waiting_results: int | None = Field(
        default=None,
        exclude_if=_is_none,
        description="That the DICOMweb server has not got yet, and that an end of the process "
        "would lose; only where there is such a server.",
    )
