"""The clients. Both say the same, and differ only in how they wait."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import anyio
import anyio.to_thread
import httpx
from pydantic import TypeAdapter, ValidationError

from covid_xray.answers import Prediction, Problem, Version, Versions
from covid_xray.errors import CovidXrayError, ProblemReceived, Unreachable, UnusableAnswer
from covid_xray.retries import Attempts, Retries, retry_after_s

Image = str | os.PathLike[str] | bytes | BinaryIO
"""An X-ray: the path of its file, its bytes, or an open file."""

T = TypeVar("T")

_PROBLEM = "application/problem+json"
_PREDICTION = TypeAdapter(Prediction)
_VERSIONS = TypeAdapter(Versions)
_BATCH: TypeAdapter[list[Prediction | Problem]] = TypeAdapter(list[Prediction | Problem])
_WORD = r"[!-~]+"
_CONNECT_S = 10.0
_LEAST_S, _MOST_S = 0.001, 1e6
_LATER_S = 5.0
"""The client waits so much longer than it asks the service to, and so hears why it was too long."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A request that can be sent more than once.

    Attributes:
        method: Of HTTP.
        path: Below the service's address.
        files: Form field and bytes of each file.
        params: The query.
    """

    method: str
    path: str
    files: list[tuple[str, bytes]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """What httpx takes; a file's own name, which may tell a patient's, is not sent."""
        files = [(name, ("upload", data)) for name, data in self.files]
        return {"files": files or None, "params": self.params}


def _predict(data: bytes) -> _Call:
    return _Call("POST", "/v1/predictions", [("file", data)])


def _predict_batch(files: Sequence[bytes]) -> _Call:
    return _Call("POST", "/v1/predictions/batch", [("files", data) for data in files])


def _heatmap(data: bytes, opacity: float | None, *, legend: bool | None) -> _Call:
    params = {}
    if opacity is not None:
        params["opacity"] = f"{opacity:g}"
    if legend is not None:
        params["legend"] = str(legend).lower()
    return _Call("POST", "/v1/heatmaps", [("file", data)], params)


_MODELS = _Call("GET", "/v1/models")


def _options(address: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    if not _is_web(address):
        raise Unreachable("Expected an address such as http://127.0.0.1:8000; received another.")
    if not _LEAST_S <= timeout_s < _MOST_S:
        raise ValueError(
            f"Expected from {_LEAST_S:g} up to {_MOST_S:g} seconds; received {timeout_s:g}."
        )
    headers = {"X-Request-Timeout": f"{timeout_s:.3f}"}
    if api_key is not None:
        if not re.fullmatch(_WORD, api_key):
            raise ValueError("Expected an API key, one word in ASCII; received another text.")
        headers["X-API-Key"] = api_key
    timeout = httpx.Timeout(timeout_s + _LATER_S, connect=min(_CONNECT_S, timeout_s))
    return {"base_url": address, "headers": headers, "timeout": timeout}


def _is_web(address: str) -> bool:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)


def _read(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    return image.read()


def _check(outcome: httpx.Response | httpx.HTTPError, address: str) -> httpx.Response:
    """Give an answer that is one.

    Raises:
        CovidXrayError: It is none.
    """
    if isinstance(outcome, httpx.HTTPError):
        reason = str(outcome) or type(outcome).__name__
        raise Unreachable(
            f"Expected an answer from {address}; received none: {reason}."
        ) from outcome
    if outcome.is_success:
        return outcome
    raise _problem(outcome)


def _problem(response: httpx.Response) -> CovidXrayError:
    media_type = response.headers.get("content-type", "").split(";")[0]
    try:
        problem = Problem.model_validate_json(response.content) if media_type == _PROBLEM else None
    except ValidationError:
        problem = None
    if problem is None:
        return UnusableAnswer(
            f"Expected an answer or a problem; received status {response.status_code} "
            f"with {media_type or 'no content type'}."
        )
    return ProblemReceived(problem, retry_after_s(response), response.headers.get("x-request-id"))


def _parse(form: TypeAdapter[T], response: httpx.Response) -> T:
    try:
        return form.validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "its text"
        raise UnusableAnswer(
            f"Expected an answer of this service; received one with {where}: {first['msg']}."
        ) from error


class Client:
    """Asks the service, and waits for it. Use it as a context manager, or `close` it.

    Args:
        address: Of the service, such as `http://127.0.0.1:8000`; with a path where it is behind
            one.
        api_key: What the service's operator gave.
        timeout_s: Seconds that the service is given from a request to its answer
            (`X-Request-Timeout`); it drops what comes too late. The client itself waits 5 s longer,
            each time that it sends or receives something: where a network or a proxy is slow and
            does not stop, a call may take longer than that.
        retries: When a request is sent again.
        transport: What sends, for tests and special networks.

    Raises:
        Unreachable: The address is none of the web.
        ValueError: The timeout or the API key is none.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._address = address
        self._retries = retries or Retries()
        options = _options(address, api_key, timeout_s)
        self._http = httpx.Client(**options, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def predict(self, image: Image) -> Prediction:
        """Have one X-ray read.

        Raises:
            ProblemReceived: The service does not answer for it, and says why.
            CovidXrayError: There is no answer that can be used.
        """
        return _parse(_PREDICTION, self._send(_predict(_read(image))))

    def predict_batch(self, images: Sequence[Image]) -> list[Prediction | Problem]:
        """Have several X-rays read in one request: for each, in their order, what came of it.

        Where there are none, nothing is asked.

        Raises:
            ProblemReceived: The service does not answer for any, and says why.
            CovidXrayError: There is no answer that can be used.
        """
        if not images:
            return []
        call = _predict_batch([_read(image) for image in images])
        return _parse(_BATCH, self._send(call))

    def heatmap(
        self, image: Image, *, opacity: float | None = None, legend: bool | None = None
    ) -> bytes:
        """Have it drawn where in an X-ray the model sees COVID-19.

        Args:
            image: The X-ray.
            opacity: Of the hottest point, in [0, 1]; 0 gives the X-ray alone.
            legend: Whether the picture says what it shows.

        Returns:
            A PNG.

        Raises:
            ProblemReceived: The service does not answer for it, and says why.
            CovidXrayError: There is no answer that can be used.
        """
        return self._send(_heatmap(_read(image), opacity, legend=legend)).content

    def models(self) -> list[Version]:
        """List the versions of the model that the service has, the newest first.

        Raises:
            CovidXrayError: There is no answer that can be used.
        """
        versions = _parse(_VERSIONS, self._send(_MODELS))
        return versions.models

    def _send(self, call: _Call) -> httpx.Response:
        attempts = Attempts(self._retries)
        while True:
            outcome = self._try(call)
            delay_s = attempts.delay_s(outcome)
            if delay_s is None:
                return _check(outcome, self._address)
            time.sleep(delay_s)

    def _try(self, call: _Call) -> httpx.Response | httpx.HTTPError:
        try:
            return self._http.request(call.method, call.path, **call.arguments())
        except httpx.HTTPError as error:
            return error


class AsyncClient:
    """Asks the service without blocking the event loop; all else is as in `Client`.

    Args:
        address: Of the service, such as `http://127.0.0.1:8000`; with a path where it is behind
            one.
        api_key: What the service's operator gave.
        timeout_s: Seconds that the service is given from a request to its answer
            (`X-Request-Timeout`); it drops what comes too late. The client itself waits 5 s longer,
            each time that it sends or receives something: where a network or a proxy is slow and
            does not stop, a call may take longer than that.
        retries: When a request is sent again.
        transport: What sends, for tests and special networks.

    Raises:
        Unreachable: The address is none of the web.
        ValueError: The timeout or the API key is none.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._address = address
        self._retries = retries or Retries()
        options = _options(address, api_key, timeout_s)
        self._http = httpx.AsyncClient(**options, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def predict(self, image: Image) -> Prediction:
        """Have one X-ray read; see `Client.predict`."""
        call = _predict(await anyio.to_thread.run_sync(_read, image))
        return _parse(_PREDICTION, await self._send(call))

    async def predict_batch(self, images: Sequence[Image]) -> list[Prediction | Problem]:
        """Have several X-rays read in one request; see `Client.predict_batch`."""
        if not images:
            return []
        call = _predict_batch([await anyio.to_thread.run_sync(_read, image) for image in images])
        return _parse(_BATCH, await self._send(call))

    async def heatmap(
        self, image: Image, *, opacity: float | None = None, legend: bool | None = None
    ) -> bytes:
        """Have it drawn where in an X-ray the model sees COVID-19; see `Client.heatmap`."""
        data = await anyio.to_thread.run_sync(_read, image)
        return (await self._send(_heatmap(data, opacity, legend=legend))).content

    async def models(self) -> list[Version]:
        """List the versions of the model that the service has; see `Client.models`."""
        versions = _parse(_VERSIONS, await self._send(_MODELS))
        return versions.models

    async def _send(self, call: _Call) -> httpx.Response:
        attempts = Attempts(self._retries)
        while True:
            outcome = await self._try(call)
            delay_s = attempts.delay_s(outcome)
            if delay_s is None:
                return _check(outcome, self._address)
            await anyio.sleep(delay_s)

    async def _try(self, call: _Call) -> httpx.Response | httpx.HTTPError:
        try:
            return await self._http.request(call.method, call.path, **call.arguments())
        except httpx.HTTPError as error:
            return error
