"""A worker's part: an engine, and files read, decoded, scored and decided on as by the service."""

import hashlib
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.bulk import rows
from app.bulk.listing import read_file
from app.bulk.rows import Row
from app.decision import Acceptance, decide, judge
from app.engines import EngineFactory, EngineOptions
from app.errors import CovidXrayError, ReleaseInvalid
from app.imaging import Limits, Radiograph, decode
from app.logs import silence_libraries
from app.registry import Registry, open_servable
from app.release import Release
from app.settings import Settings, make_cache_dir


@dataclass(frozen=True, slots=True)
class Job:
    """What each worker has to know.

    Attributes:
        settings: What the operator chose.
        version: Of the release.
        digest: Of the release; a worker whose model store holds another does not begin.
        threads: Of an engine.
        new_engine: Makes an engine.
    """

    settings: Settings
    version: int
    digest: str
    threads: int
    new_engine: EngineFactory


def choose_release(settings: Settings, new_engine: EngineFactory) -> Release:
    """Open the release that scores, and verify its files.

    Raises:
        ReleaseError: There is none that can be used.
        SettingsInvalid: The folder for compiled networks cannot be used.
    """
    make_cache_dir(settings)
    version = _registry(settings, settings.model_version, 1, new_engine).choose()
    return open_servable(settings.model_store / settings.model_name / str(version))


class Scorer:
    """Owns an engine, and scores files with it; several threads may do so at the same time.

    Args:
        job: What to do.

    Attributes:
        schema: Of its rows.

    Raises:
        ReleaseError: The release is not the same here, or is not what it must be.
        EngineUnavailable: The engine is not installed.
    """

    def __init__(self, job: Job) -> None:
        silence_libraries()
        self._registry = _registry(job.settings, job.version, job.threads, job.new_engine)
        self._serving = self._registry.load()
        self._limits = Limits(max_pixels=job.settings.max_pixels)
        self._max_bytes = job.settings.max_upload_bytes
        self._refuses = job.settings.acceptance == "enforce"
        self._alone = job.threads == 1
        self.schema = rows.schema_of(self._serving.release.manifest)
        if self._serving.release.digest != job.digest:
            raise ReleaseInvalid(
                f"the release {job.digest} on each machine", self._serving.release.digest
            )

    def score(self, path: str, shown: str) -> Row:
        """Score a file; whatever is wrong with it is told in its row.

        Args:
            path: What to read.
            shown: The same as text, for the row.
        """
        row = rows.of_file(shown, self._serving.release, self._serving.engine)
        try:
            self._fill(row, path)
        except CovidXrayError as error:
            row |= rows.of_error(error)
        except Exception as error:  # noqa: BLE001 -- no file stops a run; its row tells the type
            row |= rows.of_error(error)
        return row

    def _fill(self, row: Row, path: str) -> None:
        data = read_file(path, self._max_bytes)
        try:
            radiograph = decode(data, self._limits, reduced=True)
        except Exception:
            row["sha256"] = hashlib.sha256(data).hexdigest()  # else the radiograph knows it
            raise
        row |= rows.of_radiograph(radiograph)
        self._answer(row, radiograph)

    def _answer(self, row: Row, radiograph: Radiograph) -> None:
        manifest = self._serving.release.manifest
        images = radiograph.to_model_input()[np.newaxis]
        answer = self._serving.engine.predict(images, alone=self._alone)
        acceptance = Acceptance(float(answer.acceptance[0]), manifest.acceptance.threshold)
        row |= rows.of_acceptance(acceptance)
        row["warnings"] += rows.of_warnings(judge(manifest, acceptance, refuses=self._refuses))
        row |= rows.of_decision(decide(manifest, answer.probabilities[0].tolist()))


def _registry(
    settings: Settings, version: int | None, threads: int, new_engine: EngineFactory
) -> Registry:
    options = EngineOptions(settings.engine, settings.precision, threads, settings.cache_dir)
    load = partial(new_engine, options=options)
    return Registry(settings.model_store, settings.model_name, load, version)
