"""When a request is sent again.

It may have been worked on before: no call of this client changes anything in the service, and the
same X-ray has the same answer.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_BUSY = {
    httpx.codes.TOO_MANY_REQUESTS,
    httpx.codes.BAD_GATEWAY,
    httpx.codes.SERVICE_UNAVAILABLE,
}

# There was no connection, or it broke off; timeouts of what was sent are not among them.
_BROKEN = (
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how long.

    A service that is busy (429, 503) is asked again when it wants to be (`Retry-After`). Where it
    does not say, where a proxy has no answer of it (502, or a 504 that is no problem of the
    service), and where no connection came about or it broke off, the time between two tries doubles
    from `first_s` on, and a random part of it is waited, so that many clients do not come at once.
    What took longer than the client's timeout is not sent again, nor what the service refuses.

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
            if outcome.status_code not in _BUSY and not _is_late_proxy(outcome):
                return None
            told = retry_after_s(outcome)
            return self._backoff_s() if told is None else told
        return self._backoff_s() if isinstance(outcome, _BROKEN) else None

    def _backoff_s(self) -> float:
        most = self._retries.first_s * 2.0**self._made
        return most * (0.5 + self._draw() / 2)


def _is_late_proxy(response: httpx.Response) -> bool:
    """Tell a proxy's 504 from that of the service, which says that the request's time is over."""
    media_type = response.headers.get("content-type", "")
    is_late = response.status_code == httpx.codes.GATEWAY_TIMEOUT
    return is_late and not media_type.startswith("application/problem+json")


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
