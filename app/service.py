"""One use of the product, without HTTP: decode → predict → decide → explain."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeVar
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray

from app.decision import Acceptance, decide, judge
from app.engines import Predictions
from app.errors import CovidXrayError, NotReady
from app.imaging import DicomInstance, ImageWarning, Limits, Pixels, Radiograph, decode
from app.overlay import OPACITY, Legend, add_legend, draw_overlay, encode_png
from app.registry import Registry, Serving
from app.release import EngineName, Manifest, Precision, Release
from app.scheduler import Place, Scheduler

T = TypeVar("T")

Stage = Literal["receive", "queue", "decode", "inference", "encode"]


class Recorder(Protocol):
    """Is told how images fare. It is called on any thread, and neither waits nor raises."""

    def record_stage(self, stage: Stage, start: float, end: float) -> None:
        """Note when a stage began and ended, on the clock of `time.monotonic`."""

    def record_acceptance(self, version: int, score: float, *, accepted: bool) -> None:
        """Note an image's acceptance score by a version, in [0, 1], and whether it is enough."""

    def record_probability(self, version: int, probability: float) -> None:
        """Note the first label's probability that a version of the model gave, in [0, 1]."""

    def record_batch(self, files: int) -> None:
        """Note how many files a batch request has."""


class Unrecorded:
    """A recorder that notes nothing."""

    def record_stage(self, stage: Stage, start: float, end: float) -> None:
        """See `Recorder`."""

    def record_acceptance(self, version: int, score: float, *, accepted: bool) -> None:
        """See `Recorder`."""

    def record_probability(self, version: int, probability: float) -> None:
        """See `Recorder`."""

    def record_batch(self, files: int) -> None:
        """See `Recorder`."""


UNRECORDED = Unrecorded()


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What was read; `dicom` is None for PNG and JPEG."""

    format: str
    width: int
    height: int
    sha256: str
    dicom: DicomInstance | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What answered: a release, and what computed it."""

    name: str
    version: int
    digest: str
    engine: EngineName
    precision: Precision


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer.

    Attributes:
        id: Of this answer.
        label: The first label where its probability reaches the threshold, else the second.
        probabilities: By label.
        decision_threshold: From which probability upwards the first label is said.
        prediction_set: Confidence, such as `95%` → the labels that cannot be ruled out at it.
        acceptance: Whether the image is one that the release was made for.
        warnings: What its reader should know.
        image: What was read.
        model: What answered.
        timings_ms: Milliseconds by stage: `decode`, `queue`, `inference`, `total`.
    """

    id: UUID
    label: str
    probabilities: dict[str, float]
    decision_threshold: float
    prediction_set: dict[str, tuple[str, ...]]
    acceptance: Acceptance
    warnings: tuple[ImageWarning, ...]
    image: ImageInfo
    model: ModelInfo
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Analysis:
    """One image's way through the service: what was decoded, and the model's one row for it."""

    serving: Serving
    radiograph: Radiograph
    probabilities: NDArray[np.float32]
    heatmap: NDArray[np.float32]
    acceptance: Acceptance
    warnings: tuple[ImageWarning, ...]
    timings_s: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """An answer and what it was made of: all that a report or a picture is made from.

    Attributes:
        prediction: The answer.
        radiograph: What was decoded for the model.
        heatmap: float32 `[7, 7]` in [0, 1].
        decode_whole: Decodes all of the file's pixels, where the model did with fewer.
    """

    prediction: Prediction
    radiograph: Radiograph
    heatmap: NDArray[np.float32]
    decode_whole: Callable[[], Radiograph]

    def draw(self, opacity: float = OPACITY, *, legend: bool = True) -> Pixels:
        """Draw the heatmap over the X-ray: uint8 `[height, width, 3]` in RGB.

        Args:
            opacity: Of the hottest point, in [0, 1]; 0 gives the X-ray alone.
            legend: Whether a text below the X-ray says what is seen.
        """
        radiograph = self.decode_whole() if self.radiograph.is_reduced else self.radiograph
        picture = draw_overlay(radiograph.pixels, self.heatmap, opacity)
        if not legend:
            return picture
        label, other = self.prediction.probabilities
        model = self.prediction.model
        return add_legend(picture, Legend(label, other, model.name, model.version, opacity))


class InferenceService:
    """Answers for images.

    Args:
        registry: Knows the release that answers.
        scheduler: Bounds the work.
        limits: What is decoded at all.
        recorder: Is told how images fare.
        acceptance: What becomes of an image that is no frontal chest X-ray: `enforce` refuses it,
            `warn` answers with a warning.
    """

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        limits: Limits,
        recorder: Recorder,
        acceptance: Literal["enforce", "warn"] = "enforce",
    ) -> None:
        self.registry = registry
        self.scheduler = scheduler
        self.limits = limits
        self.recorder = recorder
        self._refuses = acceptance == "enforce"
        self._not_ready: str | None = None

    def leave(self, reason: str) -> None:
        """Be ready no more, but go on answering.

        Args:
            reason: What the service is from now on.
        """
        self._not_ready = reason

    def check_ready(self) -> Manifest:
        """Give what is served.

        Raises:
            NotReady: Nothing is served, or nothing more should be sent here.
        """
        if self._not_ready:
            raise NotReady("a service that takes requests", self._not_ready)
        return self.registry.serving.release.manifest

    async def predict(self, data: bytes, deadline: float) -> Prediction:
        """Answer for one image.

        Args:
            data: The file's bytes.
            deadline: When the answer must be ready, on the clock of `time.monotonic`.

        Raises:
            InputError: It cannot be read, or it is no frontal chest X-ray.
            EngineError: Inference failed.
            CapacityError: There is no place for it, or its deadline passed.
        """
        with self.scheduler.admit(deadline) as (place,):
            return await place.run(partial(self._predict, place, data))

    async def report(self, data: bytes, deadline: float, write: Callable[[Finding], T]) -> T:
        """Answer for one image in another form; raises as `predict` does.

        Args:
            data: The file's bytes.
            deadline: When the answer must be ready, on the clock of `time.monotonic`.
            write: Makes the answer's form, on the thread that ran the inference; what it raises
                is raised.
        """
        with self.scheduler.admit(deadline) as (place,):
            return await place.run(partial(self._report, place, data, write))

    async def predict_batch(
        self, files: Sequence[bytes], deadline: float
    ) -> list[Prediction | CovidXrayError]:
        """Answer for several images, in their order; an image's failure is its own.

        Raises:
            CapacityError: There are not enough places for all of them.
        """
        self.recorder.record_batch(len(files))
        with self.scheduler.admit(deadline, len(files)) as places:
            pairs = zip(places, files, strict=True)
            return await asyncio.gather(*(self._predict_or_error(*pair) for pair in pairs))

    async def explain(
        self, data: bytes, deadline: float, opacity: float = OPACITY, *, legend: bool = True
    ) -> bytes:
        """Draw where in the image the model sees COVID-19, as a PNG; raises as `predict` does.

        Args:
            data: The file's bytes.
            deadline: When the picture must be ready, on the clock of `time.monotonic`.
            opacity: Of the hottest point, in [0, 1]; 0 gives the X-ray alone.
            legend: Whether a text below the X-ray says what is seen.
        """
        with self.scheduler.admit(deadline) as (place,):
            return await place.run(partial(self._explain, place, data, opacity, legend=legend))

    async def _predict_or_error(self, place: Place, data: bytes) -> Prediction | CovidXrayError:
        try:
            return await place.run(partial(self._predict, place, data))
        except CovidXrayError as error:
            return error

    # From here on everything runs on one of the scheduler's threads.

    def _predict(self, place: Place, data: bytes) -> Prediction:
        return self.find(place, data).prediction

    def _report(self, place: Place, data: bytes, write: Callable[[Finding], T]) -> T:
        finding = self.find(place, data)
        place.check()
        return write(finding)

    def find(self, place: Place, data: bytes) -> Finding:
        """Answer for an image on the thread that its place has; raises as `predict` does.

        Args:
            place: Whose job calls it.
            data: The file's bytes.
        """
        finding = self._conclude(place, data)
        prediction = finding.prediction
        positive = next(iter(prediction.probabilities.values()))
        self.recorder.record_probability(prediction.model.version, positive)
        return finding

    def _explain(self, place: Place, data: bytes, opacity: float, *, legend: bool) -> bytes:
        finding = self._conclude(place, data)
        return encode_png(finding.draw(opacity, legend=legend))

    def _conclude(self, place: Place, data: bytes) -> Finding:
        analysis = self._analyze(place, data)
        return Finding(
            _decide(analysis),
            analysis.radiograph,
            analysis.heatmap,
            partial(decode, data, self.limits),
        )

    def _analyze(self, place: Place, data: bytes) -> _Analysis:
        start = time.monotonic()
        self.begin(place)
        radiograph, image = self.decode(data)
        decoded = time.monotonic()
        serving, answer = self.run_model(place, image)
        done = time.monotonic()
        acceptance = _acceptance(serving.release, answer)
        return _Analysis(
            serving=serving,
            radiograph=radiograph,
            probabilities=answer.probabilities[0],
            heatmap=answer.heatmap[0],
            acceptance=acceptance,
            warnings=radiograph.warnings
            + judge(serving.release.manifest, acceptance, refuses=self._refuses),
            timings_s={
                "decode": decoded - start,
                "queue": place.waited_s,
                "inference": done - decoded,
                "total": place.waited_s + done - start,
            },
        )

    def begin(self, place: Place) -> None:
        """Note that an image has got its thread."""
        self.recorder.record_stage("queue", place.began - place.waited_s, place.began)

    def decode(self, data: bytes) -> tuple[Radiograph, Pixels]:
        """Decode a file as far as the model needs it, and to its input, uint8 `[224, 224, 1]`.

        Raises:
            InputError: It cannot be read.
        """
        start = time.monotonic()
        radiograph = decode(data, self.limits, reduced=True)
        image = radiograph.to_model_input()
        self.recorder.record_stage("decode", start, time.monotonic())
        return radiograph, image

    def run_model(self, place: Place, image: Pixels) -> tuple[Serving, Predictions]:
        """Ask the release that answers about one image, uint8 `[224, 224, 1]`.

        The engine may be closed by the time that it is given back.

        Raises:
            EngineError: Inference failed.
            CapacityError: Nobody waits for it any more, or nothing is served.
        """
        place.check()
        start = time.monotonic()
        with self.registry.lease() as serving:
            answer = serving.engine.predict(image[np.newaxis], alone=place.is_alone)
        self.recorder.record_stage("inference", start, time.monotonic())
        version, acceptance = serving.release.manifest.version, _acceptance(serving.release, answer)
        self.recorder.record_acceptance(version, acceptance.score, accepted=acceptance.is_enough)
        return serving, answer


def _acceptance(release: Release, answer: Predictions) -> Acceptance:
    return Acceptance(float(answer.acceptance[0]), release.manifest.acceptance.threshold)


def _decide(analysis: _Analysis) -> Prediction:
    release, engine = analysis.serving.release, analysis.serving.engine
    manifest = release.manifest
    radiograph = analysis.radiograph
    decision = decide(manifest, analysis.probabilities.tolist())
    return Prediction(
        id=uuid4(),
        label=decision.label,
        probabilities=decision.probabilities,
        decision_threshold=manifest.decision.threshold,
        prediction_set=decision.prediction_set,
        acceptance=analysis.acceptance,
        warnings=analysis.warnings,
        image=ImageInfo(
            radiograph.format,
            radiograph.width,
            radiograph.height,
            radiograph.sha256,
            radiograph.dicom,
        ),
        model=ModelInfo(
            manifest.name,
            manifest.version,
            release.digest,
            engine.name,
            engine.precision,
        ),
        timings_ms={
            stage: round(1000 * seconds, 3) for stage, seconds in analysis.timings_s.items()
        },
    )
