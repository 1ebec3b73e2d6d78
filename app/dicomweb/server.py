"""A DICOMweb server elsewhere, such as a PACS: QIDO-RS, WADO-RS and STOW-RS by dicomweb-client.

It waits for answers: whoever has other things to do calls it in a thread. What the server says is
not repeated to anybody but for a status and failure reasons, since it may be of a patient.
"""

import contextlib
import io
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import responses
from typing import Any
from urllib.parse import urlsplit

import pydicom
import requests
from dicomweb_client.uri import URI
from dicomweb_client.web import DICOMwebClient

from app.dicomweb.destination import Credentials
from app.errors import CredentialsInvalid, DicomWebError, DicomWebRefused, DicomWebUnavailable
from app.imaging.dicom_rules import CAPTURE_MODALITIES, XRAY_MODALITIES
from app.reports.device import MANUFACTURER, OVERLAY_SERIES

MAX_INSTANCES = 1000
"""Images of one study that are looked at."""

_ANSWER = "an answer of the DICOMweb server"

_JSON = "application/dicom+json"
_DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_ANSWER_BYTES = 2**24
"""Of an answer that holds no image."""

_MULTIPART_BYTES = 2**16
"""That an image has around it in an answer."""

_SLOWEST = 10
"""Times as long as the server may be silent, an answer as a whole may take."""

_LATER = {401, 403, 404, 405, 407, 408, 425, 429}
"""Statuses that time mends, or an operator; with those of the server itself:"""
_SERVER_ERRORS = 500

_CONFLICT = 409
_DUPLICATE = 0x0111
"""Failure reason: the instance is there already."""

_LATER_REASONS = {0x0110, *range(0xA700, 0xA800)}
"""Failure reasons that time may mend: out of resources, and a processing failure, which servers
answer for whatever went wrong while they stored."""

logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL + 1)  # it repeats what servers say


@dataclass(frozen=True, slots=True)
class Instance:
    """Which DICOM instance it is.

    Attributes:
        study: Study instance UID.
        series: Series instance UID.
        uid: SOP instance UID.
    """

    study: str
    series: str
    uid: str


class DicomWebServer:
    """A server that is asked; a `Destination` of results.

    Args:
        url: Root of its services, such as `http://127.0.0.1:8042/dicom-web`.
        credentials: Whose name it is asked in; nobody's where None.
        timeout_s: Seconds that it may be silent.
        max_bytes: Of one image.

    Raises:
        DicomWebUnavailable: It is no such URL, or has a user in it.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials | None = None,
        timeout_s: float = 30.0,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        self._url = _checked(url)
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes

    def store(self, instances: Sequence[bytes]) -> None:
        """Store DICOM files of ours; see `Destination`.

        Raises:
            DicomWebUnavailable: Not now.
            DicomWebRefused: Never.
        """
        datasets = [pydicom.dcmread(io.BytesIO(each)) for each in instances]
        with self._open(_JSON, _ANSWER_BYTES) as client:
            try:
                answer = client.store_instances(datasets)
            except requests.HTTPError as error:
                answer = _read_conflict(error)
            _check_stored(answer, {str(each.SOPInstanceUID) for each in datasets})

    def find_images(self, study: str, series: str | None = None) -> list[Instance]:
        """Find the images of a study that may be chest X-rays, and none that this service made.

        Args:
            study: Study instance UID.
            series: Series instance UID, where only one is meant.

        Raises:
            DicomWebError: There is no answer, no such study or series, or too much in it.
        """
        wanted = {"SeriesInstanceUID": series} if series else None
        with self._open(_JSON, _ANSWER_BYTES) as client:
            found = _read(
                client.search_for_series(study, fields=["Manufacturer"], search_filters=wanted)
            )
            if not found:
                raise DicomWebRefused(f"images of {_named(study, series)}", "none")
            images: list[Instance] = []
            for each in filter(_may_be_xray, found):
                uid = str(each.SeriesInstanceUID)
                images += _search(client, study, uid, MAX_INSTANCES - len(images))
        return images

    def retrieve(self, instance: Instance) -> bytes:
        """Fetch one image as the server has it.

        Raises:
            DicomWebError: There is no answer, or not one image of the size that is read.
        """
        uri = URI(self._url, instance.study, instance.series, instance.uid)
        with self._open(_DICOM, self._max_bytes + _MULTIPART_BYTES) as client:
            parts = list(client.iter_bulkdata(str(uri)))
        if len(parts) != 1:
            raise DicomWebRefused("one instance", f"{len(parts)}")
        return bytes(parts[0])

    @contextlib.contextmanager
    def _open(self, accept: str, most: int) -> Iterator[DICOMwebClient]:
        """Open a connection; what goes wrong with it is told in our errors.

        Args:
            accept: Media type of answers.
            most: Bytes of an answer.
        """
        bound = _Bound(most, _SLOWEST * self._timeout_s)
        try:
            with requests.Session() as session, contextlib.closing(bound):
                session.auth = _Request(accept, self._credentials)
                session.max_redirects = 0  # followed, a POST would become a GET that stores nothing
                client = DICOMwebClient(
                    self._url,
                    session,
                    callback=bound,
                    chunk_size=2**20,
                    timeout=self._timeout_s,
                )
                client.set_http_retry_params(retry=False)  # whoever calls decides
                yield client
        except DicomWebError:
            raise
        except CredentialsInvalid as error:
            raise DicomWebUnavailable(error.expected, error.received) from error
        except requests.HTTPError as error:
            raise _of_status(error) from error
        except requests.TooManyRedirects as error:
            raise DicomWebUnavailable(_ANSWER, "a redirect") from error
        except requests.Timeout as error:
            raise DicomWebUnavailable(_ANSWER, f"none in {self._timeout_s:g} s") from error
        except requests.exceptions.SSLError as error:
            raise DicomWebUnavailable(_ANSWER, "a certificate that is not trusted") from error
        except requests.ConnectionError as error:
            raise DicomWebUnavailable(_ANSWER, "no connection, or a broken one") from error
        except Exception as error:  # what answers may be any server, and its answer anything
            raise DicomWebUnavailable(_ANSWER, "one that cannot be read") from error


class _Request(requests.auth.AuthBase):
    """What every request says of itself."""

    def __init__(self, accept: str, credentials: Credentials | None) -> None:
        self._accept = accept
        self._credentials = credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.pop("Host", None)  # dicomweb-client forgets the port in it
        request.headers["Accept"] = self._accept
        if self._credentials:
            request.headers["Authorization"] = self._credentials.authorization().encode()
        return request


class _Bound:
    """Counts an answer's bytes while they arrive, and closes it.

    Args:
        most: Bytes.
        within_s: Seconds from its head to its end.
    """

    def __init__(self, most: int, within_s: float) -> None:
        self._most = most
        self._within_s = within_s
        self._responses: list[requests.Response] = []

    def close(self) -> None:
        """Close what was not read to its end."""
        for response in self._responses:
            response.close()

    def __call__(self, response: requests.Response, **_: object) -> None:
        self._responses.append(response)
        response.raw = _Counted(response.raw, self._most, time.monotonic() + self._within_s)
        # dicomweb-client overlooks JSON that has a charset.
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type.endswith("json"):
            response.headers["Content-Type"] = media_type


class _Counted:
    """The body of an answer, as requests reads it."""

    def __init__(self, raw: Any, most: int, deadline: float) -> None:  # noqa: ANN401 -- urllib3's
        self._raw = raw
        self._most = most
        self._deadline = deadline

    def stream(self, size: int, *, decode_content: bool) -> Iterator[bytes]:
        """Give it in pieces, each as soon as it is there."""
        got = 0
        while piece := self._raw.read1(size, decode_content=decode_content):
            got += len(piece)
            if got > self._most:
                raise DicomWebRefused(f"an answer of at most {self._most} bytes", "more")
            if time.monotonic() > self._deadline:
                raise DicomWebUnavailable("an answer in time", "one that goes on and on")
            yield piece

    def __getattr__(self, name: str) -> object:
        return getattr(self._raw, name)


def _checked(url: str) -> str:
    """Give a URL without the slash at its end; one with a user in it would be told in errors."""
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or "@" in parts.netloc or parts.query or parts.fragment:
        wanted = "the address of a DICOMweb server, such as http://127.0.0.1:8042/dicom-web"
        raise DicomWebUnavailable(f"{wanted}, and no user in it", "another")
    return url.rstrip("/")


def _read(answer: list[dict[str, dict[str, Any]]]) -> list[pydicom.Dataset]:
    return [pydicom.Dataset.from_json(each) for each in answer]


def _named(study: str, series: str | None) -> str:
    return f"series {series} of study {study}" if series else f"study {study}"


def _may_be_xray(series: pydicom.Dataset) -> bool:
    """Tell whether a series may hold X-rays; what else keeps them out is in their own headers."""
    of_xrays = series.get("Modality") in XRAY_MODALITIES | CAPTURE_MODALITIES
    is_ours = (
        series.get("Manufacturer") == MANUFACTURER  # which servers need not tell
        or series.get("SeriesDescription") == OVERLAY_SERIES
    )
    return of_xrays and not is_ours


def _search(client: DICOMwebClient, study: str, series: str, most: int) -> list[Instance]:
    """Find all instances of a series; a server may give them bit by bit."""
    found: dict[str, None] = {}
    while len(found) <= most:
        page = _read(client.search_for_instances(study, series, offset=len(found)))
        new = {str(each.SOPInstanceUID) for each in page} - found.keys()
        if not new:
            return [Instance(study, series, uid) for uid in found]
        found |= dict.fromkeys(sorted(new))
    raise DicomWebRefused(f"a study with at most {MAX_INSTANCES} images that may be X-rays", "more")


def _read_conflict(error: requests.HTTPError) -> pydicom.Dataset:
    """Read what a server says where it stored nothing.

    Raises:
        DicomWebError: It says no more than a status.
    """
    response: Any = error.response  # there is always one, whatever the types of requests say
    if response.status_code != _CONFLICT:
        raise _of_status(error) from error
    try:
        return pydicom.Dataset.from_json(response.json())
    except Exception as unreadable:  # its answer may be anything
        raise _of_status(error) from unreadable


def _check_stored(answer: pydicom.Dataset, wanted: set[str]) -> None:
    """Check that a server says of every instance that it has it."""
    failures = {
        str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
        for item in answer.get("FailedSOPSequence", [])
    }
    reasons = set(failures.values()) - {_DUPLICATE}
    if reasons:
        told = ", ".join(f"0x{reason:04X}" for reason in sorted(reasons))
        kind = DicomWebUnavailable if reasons <= _LATER_REASONS else DicomWebRefused
        raise kind("the DICOMweb server to store all instances", f"failure reason {told}")
    stored = {
        str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence", [])
    }
    if missing := wanted - stored - failures.keys():
        raise DicomWebUnavailable(
            "an answer that names each instance as stored",
            f"one that leaves out {len(missing)} of {len(wanted)}",
        )


def _of_status(error: requests.HTTPError) -> DicomWebError:
    response: Any = error.response
    status = response.status_code
    kind = DicomWebUnavailable if status in _LATER or status >= _SERVER_ERRORS else DicomWebRefused
    meaning = f"status {status} ({responses.get(status, 'unknown')})"
    return kind("the DICOMweb server to do what it is asked", meaning)
