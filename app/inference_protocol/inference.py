"""Rows through the service: each has a place and a thread of its own, as every image has."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.engines import Predictions
from app.errors import InputError, NotReady
from app.inference_protocol.tensors import Row
from app.release import Manifest, Release
from app.scheduler import Place
from app.service import InferenceService


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What a release says about one row."""

    release: Release
    predictions: Predictions


async def infer(
    service: InferenceService, rows: Sequence[Row], deadline: float, version: int | None
) -> tuple[Manifest, Predictions]:
    """Ask the release that serves, and give it and its answer for all rows.

    It says what the model says: no row is refused by its acceptance score, which is in the answer.

    Args:
        service: What answers.
        rows: The images; places are held for all of them or for none.
        deadline: When the answer must be ready, on the clock of `time.monotonic`.
        version: The only one that may answer, or none.

    Raises:
        InputError: A row cannot be read; the first that fails ends all.
        EngineError: Inference failed.
        NotReady: Another version serves.
        CapacityError: There is no place for all of them, or the deadline passed.
    """
    while True:
        check_version(service, version)
        answers = await _infer_rows(service, rows, deadline)
        release = answers[0].release
        # Where a new release took the place of the old in between, all rows are asked again.
        if all(answer.release is release for answer in answers):
            break
    manifest = release.manifest
    _check_served(manifest, version)
    return manifest, _stack([answer.predictions for answer in answers])


def check_version(service: InferenceService, version: int | None) -> None:
    """Tell whether a version serves; none stands for whichever does.

    Raises:
        NotReady: It does not.
    """
    _check_served(service.registry.serving.release.manifest, version)


def _check_served(manifest: Manifest, version: int | None) -> None:
    if version not in (None, manifest.version):
        raise NotReady(f"version {manifest.version}, which serves", f"{version}")


async def _infer_rows(
    service: InferenceService, rows: Sequence[Row], deadline: float
) -> list[_Answer]:
    with service.scheduler.admit(deadline, len(rows)) as places:
        jobs = [partial(_answer, service, *each) for each in zip(places, rows, strict=True)]
        if len(jobs) == 1:
            return [await places[0].run(jobs[0])]
        try:
            async with asyncio.TaskGroup() as group:  # the first that fails cancels the others
                tasks = [
                    group.create_task(place.run(partial(_numbered, job, number)))
                    for number, (place, job) in enumerate(zip(places, jobs, strict=True))
                ]
        except ExceptionGroup as failed:
            error = failed.exceptions[0]
        else:
            return [task.result() for task in tasks]
        raise error


def _stack(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        heatmap=np.concatenate([part.heatmap for part in parts]),
        acceptance=np.concatenate([part.acceptance for part in parts]),
    )


# From here on everything runs on one of the scheduler's threads.


def _answer(service: InferenceService, place: Place, row: Row) -> _Answer:
    service.begin(place)
    image = service.decode(row())[1] if callable(row) else row
    serving, predictions = service.run_model(place, image)
    release = serving.release
    positive = float(predictions.probabilities[0, 0])
    service.recorder.record_probability(release.manifest.version, positive)
    return _Answer(release, predictions)


def _numbered(job: Callable[[], _Answer], number: int) -> _Answer:
    """Let what is wrong with one of several rows tell with which."""
    try:
        return job()
    except InputError as error:
        raise type(error)(error.expected, f"{error.received} (row {number})") from error
