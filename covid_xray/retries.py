"""When a request is sent again: only where it is sure that the service has not worked on it."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_BUSY = {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}

# Nothing of the request had been sent.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how long.

    A service that is busy (429, 503) is asked again when it wants to be (`Retry-After`). Where it
    does not say, and where no connection came about, the time between two tries doubles from
    `first_s` on, and a random part of it is waited, so that many clients do not come at once.
    What broke off later is not sent again: an image may have been worked on.

    Attributes:
        times: Most of them; 0 for none.
        within_s: Seconds after the first try in which another may begin.
        first_s: Most seconds before the first of those that the service did not time.
    """

    times: int = 4
    within_s: float = 60.0
    first_s: float = 0.5


class Attempts:
    """The tries of one request.

    Args:
        retries: How many there may be.
        clock: Seconds that only grow.
        draw: A random number in [0, 1).
    """

    def __init__(
        self,
        retries: Retries,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._retries = retries
        self._clock = clock
        self._draw = draw
        self._started = clock()
        self._made = 0

    def delay_s(self, outcome: httpx.Response | httpx.HTTPError) -> float | None:
        """Tell how long to wait for the next try; none where there is to be no other.

        Args:
            outcome: Of the last try.
        """
        if self._made >= self._retries.times:
            return None
        wanted = self._wanted_s(outcome)
        left = self._started + self._retries.within_s - self._clock()
        if wanted is None or wanted > left:
            return None
        self._made += 1
        return wanted

    def _wanted_s(self, outcome: httpx.Response | httpx.HTTPError) -> float | None:
        if isinstance(outcome, httpx.Response):
            if outcome.status_code not in _BUSY:
                return None
            told = retry_after_s(outcome)
            return self._backoff_s() if told is None else told
        return self._backoff_s() if isinstance(outcome, _NOT_SENT) else None

    def _backoff_s(self) -> float:
        most = self._retries.first_s * 2.0**self._made
        return most * (0.5 + self._draw() / 2)


def retry_after_s(response: httpx.Response) -> float | None:
    """Read when the service wants to be asked again: seconds from now, or none where not told."""
    text: str = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
