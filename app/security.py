"""Who may ask, and what every answer tells a browser to refrain from."""

import base64
import binascii
import ipaddress
from collections.abc import MutableMapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from fastapi import Depends, params
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api_keys import ApiKeys
from app.errors import AnonymousAccess, Unauthorized
from app.problems import answer, to_problem
from app.schemas import Problem

Exposure = Literal["open", "key", "off"]
"""Whether a page answers everybody, who has a key, or nobody."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Of every answer: JSON, problems and pictures are neither rendered as a page nor kept."""

# Swagger UI starts by an inline script; nothing in its page comes from a request. It shows a
# heatmap from a blob, and its icons from data.
_DOCS_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}

# It shows an X-ray from a blob. All else is its own files and the API; it never makes a script.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-cache",
}

_HEALTH = ("/health/", "/v2/health/")
_METRICS = ("/metrics",)
_DOCS = ("/docs", "/openapi.json", "/static-offline-docs/")
_PAGE = ("/page/",)

_SCHEMES = (
    APIKeyHeader(name="X-API-Key", scheme_name="ApiKey", auto_error=False),
    HTTPBearer(scheme_name="Bearer", description="The same key.", auto_error=False),
)


class Access:
    """Who may ask for what. Health is open; what has no rule of its own needs a key.

    Args:
        keys_file: The hashes of the keys; without it everybody may ask.
        docs: Exposure of Swagger UI and the OpenAPI document.
        metrics: Exposure of the metrics.
        page: Exposure of the page for people.

    Raises:
        KeysInvalid: The file cannot be used.
    """

    def __init__(
        self, keys_file: Path | None, docs: Exposure, metrics: Exposure, page: Exposure
    ) -> None:
        self._keys = ApiKeys(keys_file) if keys_file else None
        self._docs = docs
        self._metrics = metrics
        self._page = page

    @property
    def schemes(self) -> Sequence[params.Depends]:
        """What tells OpenAPI of the keys; they are asked for by `Guard`, before any route is."""
        return [Depends(scheme) for scheme in _SCHEMES] if self._keys else []

    def check_address(self, host: str, *, allow_anonymous: bool) -> None:
        """Refuse to be open to a network by mistake.

        Raises:
            AnonymousAccess: There are no keys, and others than this machine can reach `host`.
        """
        if self._keys or allow_anonymous or _is_loopback(host):
            return
        raise AnonymousAccess(
            "COVID_XRAY_API_KEYS_FILE, or COVID_XRAY_ALLOW_ANONYMOUS=true, for an address that "
            "other machines can reach",
            f"neither for {host}",
        )

    def check(self, path: str, headers: Headers) -> Problem | None:
        """Tell why a request is refused, if it is."""
        exposure = self._exposure(path)
        if exposure == "off":
            return Problem.of_status(HTTPStatus.NOT_FOUND)
        if exposure == "open" or self._keys is None:
            return None
        key = _presented(headers, basic=_is_shown(path))
        if key is not None and self._keys.accept(key):
            return None
        received = "none" if key is None else "another one"
        return to_problem(Unauthorized("an API key of this service", received))

    def _exposure(self, path: str) -> Exposure:
        if path.startswith(_HEALTH):
            return "open"
        if path.startswith(_METRICS):
            return self._metrics
        if is_page(path):
            return self._page
        return self._docs if is_docs(path) else "key"


def is_docs(path: str) -> bool:
    """Tell whether a path belongs to Swagger UI."""
    return path.startswith(_DOCS)


def is_page(path: str) -> bool:
    """Tell whether a path belongs to the page for people."""
    return path == "/" or path.startswith(_PAGE)


def _is_shown(path: str) -> bool:
    """Tell whether a browser shows what is at a path, and so has to ask for the key itself."""
    return is_docs(path) or is_page(path)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _presented(headers: Headers, *, basic: bool) -> str | None:
    """Find the key in a request's headers.

    Args:
        headers: Of the request.
        basic: Take it as the password of HTTP Basic, too: all that a browser can send for a page.
            Elsewhere this would let any other page ask with the key that the browser keeps.
    """
    if "x-api-key" in headers:
        return headers["x-api-key"].strip()
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if basic and scheme.lower() == "basic":
        return _password(value.strip())
    return None


def _password(value: str) -> str | None:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


class Guard:
    """Refuses who may not ask before anything of the body is read, and adds the headers.

    Args:
        app: What is guarded.
        access: Who may ask.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, after ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        app = self._refusal(path, Headers(scope=scope)) or self._app
        await app(scope, receive, _with_headers(send, path))

    def _refusal(self, path: str, headers: Headers) -> ASGIApp | None:
        problem = self._access.check(path, headers)
        if problem is None:
            return None
        challenge = 'Basic realm="covid-xray"' if _is_shown(path) else 'Bearer realm="covid-xray"'
        refused = problem.status == HTTPStatus.UNAUTHORIZED
        return answer(problem, {"WWW-Authenticate": challenge} if refused else {}, path=path)


def _with_headers(send: Send, path: str) -> Send:
    headers = HEADERS | _special_headers(path)

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            _set_defaults(message, headers)
        await send(message)

    return send_with_headers


def _special_headers(path: str) -> dict[str, str]:
    if is_docs(path):
        return _DOCS_HEADERS
    return _PAGE_HEADERS if is_page(path) else {}


def _set_defaults(message: MutableMapping[str, Any], headers: dict[str, str]) -> None:
    present = MutableHeaders(scope=message)
    for name, value in headers.items():
        present.setdefault(name, value)
