"""Refuses uploads from the head of their request alone, as cheaply and as seldom as it can.

Who is refused comes again, so that an overload is mostly refusals: they must not take the
processor from what was admitted.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import NotReady, Overloaded
from app.observability import note_problem
from app.problems import answer, retry_after_s
from app.schemas import Problem
from app.service import InferenceService

AT_ONCE_PER_S = 50
"""Refusals that are told at once: enough for a balancer to ask another instance without delay."""

LONGEST_PAUSE_S = 1.0
"""Before any other refusal; no `Retry-After` says less. A client that asks again as soon as it is
refused, whatever it was told, thus does so about once a second."""


class Pace:
    """Spreads events over time: so many a second, and as many at once after a second without.

    Args:
        per_s: How many.
        longest_s: Pause that is never exceeded; then there are more.
    """

    def __init__(self, per_s: float, longest_s: float) -> None:
        self._interval_s = 1 / per_s
        self._longest_s = longest_s
        self._last = -math.inf

    def pause_s(self, now: float) -> float:
        """Tell the seconds before the next event, and count it.

        Args:
            now: In seconds, on a clock that never goes back.
        """
        after_last = max(self._last, now - 1) + self._interval_s
        self._last = min(after_last, now + self._longest_s)
        return max(0.0, self._last - now)


class Gate:
    """Lets an upload in where there is a place for it.

    Nothing of a refused body is kept. What comes of it after the answer is dropped by the server.

    Args:
        app: What is behind it.
        routes: Of uploads; all else is let through.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app = app
        self._routes = routes
        self._pace = Pace(AT_ONCE_PER_S, LONGEST_PAUSE_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, after ASGI."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        if pause_s := self._pace.pause_s(time.monotonic()):
            await _pause(pause_s, Headers(scope=scope), receive)
        await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """Give the answer to an upload that has no place; none to any other request."""
        if scope["method"] != "POST":
            return None
        service: InferenceService = scope["app"].state.service
        try:
            service.scheduler.check_room()
        except Overloaded as error:
            full = error
        except NotReady:
            return None
        else:
            return None
        route = next((each for each in self._routes if each.matches(scope)[0] is Match.FULL), None)
        if route is None:
            return None
        scope["route"] = route  # which metrics and log name
        note_problem(full.code)
        return _render(full.expected, full.received, retry_after_s(full), route.path)


async def _pause(seconds: float, headers: Headers, receive: Receive) -> None:
    """Wait, and drop meanwhile what comes of the body: the server would keep the beginning of it.

    A client that asks before it sends a body (`Expect: 100-continue`) is not told to do so.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            coming = "expect" not in headers
            while coming:
                coming = (await receive()).get("more_body", False)
            await asyncio.sleep(seconds)


@lru_cache(maxsize=64)
def _render(expected: str, received: str, seconds: int, path: str) -> Response:
    """Make a refusal; a few serve for all, since they differ in route and `Retry-After` only."""
    error = Overloaded(expected, received, retry_after_s=seconds)
    return answer(Problem.of(error), {"Retry-After": str(seconds)}, path=path)
