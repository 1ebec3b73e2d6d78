"""Chest X-rays of a DICOMweb server: fetched, analysed here, and their results stored there."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.errors import (
    CovidXrayError,
    DicomWebError,
    DicomWebUnavailable,
    NotAChestRadiograph,
)
from app.reading import Content, remarks_on, write_row
from app.reports import write_secondary_capture, write_sr
from app.schemas import PredictionSchema
from app.service import Finding, InferenceService, Prediction

if TYPE_CHECKING:  # it takes a second to import
    from app.dicomweb.server import DicomWebServer, Instance

WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each further try to store results."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What came of an image.

    Attributes:
        uid: Its SOP instance UID.
        prediction: The answer, where there is one.
        error: Why there is none, or why its results are not stored.
        stored: Whether its results are; None where they were not to be.
    """

    uid: str
    prediction: Prediction | None = None
    error: CovidXrayError | None = None
    stored: bool | None = None

    @property
    def is_lost(self) -> bool:
        """Whether there are results that nobody has."""
        return self.prediction is not None and self.stored is False

    @property
    def is_none_of_ours(self) -> bool:
        """Whether the image is no frontal chest X-ray, of which a study may well have some."""
        return isinstance(self.error, NotAChestRadiograph)

    def as_json(self) -> str:
        """Write it as one line of JSON."""
        told: dict[str, Any] = {"instance": self.uid, "stored": self.stored}
        told |= self._content() or {}
        if self.error:
            told["problem"] = {"code": self.error.code, "detail": str(self.error)}
        return json.dumps(told)

    def as_row(self) -> str:
        """Write it as one line of text."""
        content = self._content()
        remarks = remarks_on(content) if content else []
        if self.stored is not None and content:
            remarks.append("stored" if self.stored else "NOT STORED")
        if self.error:
            remarks.append(str(self.error))
        return write_row(content, self.uid, " ".join(remarks))

    def _content(self) -> Content | None:
        if self.prediction is None:
            return None
        return PredictionSchema.model_validate(self.prediction).model_dump(mode="json")


async def analyse_all(
    images: Iterable["Instance"],
    server: "DicomWebServer",
    service: InferenceService,
    *,
    store: bool,
    waits_s: Sequence[float] = WAITS_S,
) -> AsyncIterator[Analysis]:
    """Analyse images of a server, one after another; one image's failure is its own.

    Args:
        images: What `server` has found.
        server: Has them, and gets a Structured Report and a Secondary Capture of each.
        service: Analyses.
        store: Whether results go anywhere.
        waits_s: Seconds before each further try to store.
    """
    for image in images:
        try:
            data = await asyncio.to_thread(server.retrieve, image)
            write = _write if store else _write_nothing
            prediction, results = await service.report(data, math.inf, write)
        except CovidXrayError as error:
            yield Analysis(image.uid, error=error)
            continue
        if not store:
            yield Analysis(image.uid, prediction)
            continue
        try:
            await _store(server, results, waits_s)
        except DicomWebError as error:
            yield Analysis(image.uid, prediction, error, stored=False)
        else:
            yield Analysis(image.uid, prediction, stored=True)


def _write(finding: Finding) -> tuple[Prediction, tuple[bytes, ...]]:
    return finding.prediction, (write_sr(finding), write_secondary_capture(finding))


def _write_nothing(finding: Finding) -> tuple[Prediction, tuple[bytes, ...]]:
    return finding.prediction, ()


async def _store(
    server: "DicomWebServer", results: Sequence[bytes], waits_s: Sequence[float]
) -> None:
    for wait_s in waits_s:
        try:
            return await asyncio.to_thread(server.store, results)
        except DicomWebUnavailable:
            await asyncio.sleep(wait_s)
    return await asyncio.to_thread(server.store, results)
