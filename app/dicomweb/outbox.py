"""What waits to be sent: results, in memory only and bounded, tried again and never lost unsaid."""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.dicomweb.destination import Destination
from app.errors import CovidXrayError, DicomWebRefused, NotReady, OutboxFull, PayloadTooLarge

Reason = Literal["refused", "expired"]
"""Why a result is given up: the server will never take it, or it did not within its age."""

FIRST_WAIT_S = 1.0
"""Before the second try; each wait after it is twice as long."""
LONGEST_WAIT_S = 60.0
_DOUBLINGS = 16
"""More of them would be longer anyway."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """What may wait.

    Attributes:
        items: Results, each of one image.
        bytes: Of all of them.
        age_s: Seconds after which a result that could not be sent is given up.
        close_s: Seconds in which the outbox tries to send all when the service stops.
    """

    items: int
    bytes: int
    age_s: float
    close_s: float


@dataclass(frozen=True, slots=True)
class OutboxState:
    """What an operator sees of it; all but the first three since the start.

    Attributes:
        items: Results that wait.
        bytes: Of all of them.
        oldest_s: Seconds since the oldest came; 0 where none waits.
        sent: Results that the server has.
        retries: Tries that failed and were, or will be, repeated.
        given_up: Results by why they were given up.
    """

    items: int = 0
    bytes: int = 0
    oldest_s: float = 0.0
    sent: int = 0
    retries: int = 0
    given_up: dict[Reason, int] = field(default_factory=lambda: {"refused": 0, "expired": 0})


@dataclass(slots=True, eq=False)
class _Item:
    """The result on one image; when it came and is due, by the outbox's clock."""

    name: str
    instances: tuple[bytes, ...] = field(repr=False)
    since: float
    due: float
    tries: int = 0

    @property
    def size(self) -> int:
        return sum(map(len, self.instances))


class Outbox:
    """Sends results, on a thread of its own: who puts one in does not wait for the server.

    Args:
        destination: Where they go.
        limits: What may wait.
        clock: Seconds, that only ever grow.
        chance: Gives numbers in [0, 1), so that not all services come back at once.
    """

    def __init__(
        self,
        destination: Destination,
        limits: OutboxLimits,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._destination = destination
        self._limits = limits
        self._clock = clock
        self._chance = chance
        self._items: dict[str, _Item] = {}
        self._changed = threading.Condition()
        self._ends: float | None = None
        self._is_failing = False
        self._sent = 0
        self._retries = 0
        self._given_up: dict[Reason, int] = {"refused": 0, "expired": 0}
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    @property
    def state(self) -> OutboxState:
        """What waits, and what came of the rest."""
        with self._changed:
            return OutboxState(
                items=len(self._items),
                bytes=self._size(),
                oldest_s=self._clock() - min(each.since for each in self._items.values())
                if self._items
                else 0.0,
                sent=self._sent,
                retries=self._retries,
                given_up=dict(self._given_up),
            )

    def check_room(self, count: int = 1) -> None:
        """Tell whether results can be put in now, so that no image is analysed in vain.

        Args:
            count: How many.

        Raises:
            OutboxFull: They cannot.
            NotReady: The outbox is closing.
        """
        with self._changed:
            self._check_room(count, 1)

    def put(self, key: str, name: str, instances: Sequence[bytes]) -> None:
        """Take a result, to be sent as soon as may be; one that waits already is not taken twice.

        Args:
            key: Of the same result always the same; told to nobody.
            name: Identifies it in the log; nothing of a patient or an image.
            instances: DICOM files.

        Raises:
            OutboxFull: There is no room for it now.
            PayloadTooLarge: There never will be.
            NotReady: The outbox is closing.
        """
        now = self._clock()
        item = _Item(name, tuple(instances), now, now)
        if item.size > self._limits.bytes:
            raise PayloadTooLarge(
                f"a result of at most {self._limits.bytes} bytes", f"{item.size} bytes"
            )
        with self._changed:
            if key not in self._items:
                self._check_room(1, item.size)
                self._items[key] = item
                self._changed.notify_all()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self) -> None:
        """Try to send what waits, each result at once; what is left when time is up is logged."""
        with self._changed:
            now = self._clock()
            self._ends = now + self._limits.close_s
            for item in self._items.values():
                item.due = min(item.due, now)
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(self._limits.close_s)
        with self._changed:
            if self._items:
                _log.error("%d result(s) could not be sent in time.", len(self._items))
            for item in self._items.values():
                _log.error("The result of prediction %s was not sent, and is lost.", item.name)

    def send_due(self) -> None:
        """Send all that is due now, each result once."""
        with self._changed:
            now = self._clock()
            due = [(key, item) for key, item in self._items.items() if item.due <= now]
        for key, item in due:
            if not self._is_over():
                self._try(key, item)

    def _run(self) -> None:
        while self._wait():
            self.send_due()

    def _wait(self) -> bool:
        """Wait until something is due; False when nothing more is to be sent."""
        with self._changed:
            while not self._is_over():
                next_due = min((item.due for item in self._items.values()), default=None)
                if next_due is not None and next_due <= self._clock():
                    return True
                ends = [each for each in (next_due, self._ends) if each is not None]
                self._changed.wait(max(0.0, min(ends) - self._clock()) if ends else None)
            return False

    def _is_over(self) -> bool:
        return self._ends is not None and (not self._items or self._clock() >= self._ends)

    def _try(self, key: str, item: _Item) -> None:
        try:
            self._destination.store(item.instances)
        except DicomWebRefused as error:
            self._give_up(key, item, "refused", error)
        except Exception as error:  # noqa: BLE001 -- whatever it was, the next may be better
            self._postpone(key, item, error)
        else:
            self._settle(key)

    def _settle(self, key: str) -> None:
        with self._changed:
            del self._items[key]
            self._sent += 1
        if self._is_failing:
            self._is_failing = False
            _log.info("Results can be sent again.")

    def _postpone(self, key: str, item: _Item, error: Exception) -> None:
        now = self._clock()
        last = item.since + self._limits.age_s
        if now >= last:
            self._give_up(key, item, "expired", error)
            return
        wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(item.tries, _DOUBLINGS))
        with self._changed:
            item.tries += 1
            item.due = min(now + wait * (1 + self._chance()) / 2, last)
            self._retries += 1
        if not self._is_failing:
            self._is_failing = True
            _log.warning("Results cannot be sent; they wait. %s", _tell(error))

    def _give_up(self, key: str, item: _Item, reason: Reason, error: Exception) -> None:
        with self._changed:
            del self._items[key]
            self._given_up[reason] += 1
        _log.error(
            "The result of prediction %s is given up (%s). %s", item.name, reason, _tell(error)
        )

    def _check_room(self, count: int, size: int) -> None:
        if self._ends is not None:
            raise NotReady("a running service", "one that is stopping")
        most = self._limits
        if len(self._items) + count > most.items or self._size() + size > most.bytes:
            raise OutboxFull(
                f"room for {count} of at most {most.items} results and {most.bytes} bytes that "
                "wait for the DICOMweb server",
                f"{len(self._items)} that wait",
                retry_after_s=self._retry_after_s(),
            )

    def _size(self) -> int:
        return sum(item.size for item in self._items.values())

    def _retry_after_s(self) -> float:
        """Seconds until something is tried again, which may make room."""
        first = min((item.due for item in self._items.values()), default=0.0)
        return max(1.0, first - self._clock())


def _tell(error: Exception) -> str:
    """Say what went wrong; of a library's exception its type only, as it may quote anything."""
    return str(error) if isinstance(error, CovidXrayError) else type(error).__name__
