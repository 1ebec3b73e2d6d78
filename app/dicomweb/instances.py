"""What comes of the DICOM instances of a request: each is analysed, and its result goes on."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from app.dicomweb.outbox import Outbox
from app.errors import (
    CapacityError,
    CovidXrayError,
    InputError,
    OtherStudy,
    UnreadableImage,
    UnsupportedImage,
)
from app.imaging import DicomInstance, identify
from app.reports import write_secondary_capture, write_sr
from app.scheduler import Place
from app.service import Finding, InferenceService


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an instance.

    Attributes:
        uids: Which instance it is; none where that cannot be read.
        error: Why there is no result; none where there is one.
        warnings: Codes of what the result's reader should know.
    """

    uids: DicomInstance | None
    error: CovidXrayError | None = None
    warnings: tuple[str, ...] = ()


class Analyst:
    """Analyses the instances of a request, and passes the results on.

    Args:
        service: Reads an image.
        outbox: Takes results; none where they go nowhere.
        study: Study instance UID that all have to have; none for any.
    """

    def __init__(
        self, service: InferenceService, outbox: Outbox | None, study: str | None = None
    ) -> None:
        self._service = service
        self._outbox = outbox
        self._study = study

    async def analyse(self, files: Sequence[bytes], deadline: float) -> list[Outcome]:
        """Give what comes of each, in their order; an instance's failure is its own.

        Args:
            files: The instances.
            deadline: When all must be done, on the clock of `time.monotonic`.

        Raises:
            CapacityError: There is no place or no room for one of them or its result, or the
                deadline passed: who sends all of them again gets the same results.
            CovidXrayError: There is no result, and the service is to blame for all.
        """
        if self._outbox:
            self._outbox.check_room(len(files))
        with self._service.scheduler.admit(deadline, len(files)) as places:
            pairs = zip(places, files, strict=True)
            outcomes = await asyncio.gather(*(self._outcome(*pair) for pair in pairs))
        errors = [outcome.error for outcome in outcomes if outcome.error]
        for error in errors:
            if isinstance(error, CapacityError):
                raise error
        if len(errors) == len(files) and not any(isinstance(each, InputError) for each in errors):
            raise errors[0]
        return outcomes

    async def _outcome(self, place: Place, data: bytes) -> Outcome:
        try:
            return await place.run(partial(self._read, place, data))
        except CovidXrayError as error:  # it got no thread in time
            return Outcome(None, error)

    # From here on everything runs on one of the scheduler's threads.

    def _read(self, place: Place, data: bytes) -> Outcome:
        uids = identify(data, self._service.limits)
        try:
            key = self._check(uids)
            finding = self._service.find(place, data)
            place.check()
            self._pass_on(key, finding)
        except CovidXrayError as error:
            return Outcome(uids, error)
        warnings = (warning.code for warning in finding.prediction.warnings)
        return Outcome(uids, warnings=tuple(warnings))

    def _check(self, uids: DicomInstance | None) -> str:
        """Refuse what the answer could not name or the request is not about; give its UID."""
        if uids is None:
            raise UnreadableImage("a DICOM file with a header that can be read", "another file")
        if uids.sop_class_uid is None or uids.sop_instance_uid is None:
            raise UnsupportedImage("an instance with its SOP class and instance UIDs", "another")
        if self._study not in (None, uids.study_instance_uid):
            raise OtherStudy("an instance of the study that the request names", "one of another")
        return uids.sop_instance_uid

    def _pass_on(self, instance: str, finding: Finding) -> None:
        if self._outbox is None:
            return
        prediction = finding.prediction
        results = write_sr(finding), write_secondary_capture(finding)
        key = f"{instance} {prediction.model.digest}"
        self._outbox.put(key, str(prediction.id), results)
