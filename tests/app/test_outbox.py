"""The outbox, with a clock that tests turn and a server that does as it is told."""

import logging
from collections.abc import Callable

import pytest

import app.dicomweb.outbox
from app.dicomweb.outbox import Outbox, OutboxLimits
from app.errors import (
    DicomWebRefused,
    DicomWebUnavailable,
    InferenceFailed,
    NotReady,
    OutboxFull,
    PayloadTooLarge,
)
from tests.fakes import FakeDestination
from tests.integration.load import until

DOWN = DicomWebUnavailable("an answer", "none")
REFUSED = DicomWebRefused("to be stored", "0122")


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Filled:
    """An outbox with some results, whose sending is left to the test.

    Args:
        results: How many.
        errors: What the server says first.
        chance: Of the longest waits that there may be, 1, to half of them, 0.
        age_s: After which a result is given up.
    """

    def __init__(
        self, results: int, *errors: Exception, chance: float = 1.0, age_s: float = 100
    ) -> None:
        self.clock = Clock()
        self.server = FakeDestination(*errors)
        limits = OutboxLimits(items=3, bytes=1000, age_s=age_s, close_s=5)
        self.outbox = Outbox(self.server, limits, self.clock, lambda: chance)
        for number in range(results):
            self.outbox.put(f"key-{number}", f"prediction-{number}", [b"%d" % number, b"picture"])

    def turn(self, seconds: float) -> None:
        self.clock.now += seconds
        self.outbox.send_due()


def test_a_result_is_sent_as_a_whole_and_then_is_no_more_there() -> None:
    filled = Filled(2)
    assert (filled.outbox.state.items, filled.outbox.state.bytes) == (2, 16)
    filled.turn(0)
    assert filled.server.stored == [(b"0", b"picture"), (b"1", b"picture")]
    state = filled.outbox.state
    assert (state.items, state.bytes, state.oldest_s, state.sent) == (0, 0, 0, 2)


@pytest.mark.parametrize("error", [DOWN, InferenceFailed("x", "y"), ZeroDivisionError()])
def test_what_fails_is_tried_again_later_and_later(error: Exception) -> None:
    filled = Filled(1, *[error] * 4)
    filled.turn(0)
    for wait in (1, 2, 4, 8):
        filled.turn(wait - 0.01)
        asked = filled.server.asked
        filled.turn(0.01)
        assert filled.server.asked == asked + 1
    state = filled.outbox.state
    assert (state.items, state.sent, state.retries) == (0, 1, 4)


def test_waits_grow_to_a_minute_and_are_shorter_by_chance() -> None:
    for chance, longest in ((1, 60), (0, 30)):
        filled = Filled(1, *[DOWN] * 20, chance=chance, age_s=10_000)
        for _ in range(10):
            filled.turn(60)
        filled.turn(longest - 0.01)
        assert filled.server.asked == 10
        filled.turn(0.01)
        assert filled.server.asked == 11


def test_a_wait_tells_when_to_come_again() -> None:
    filled = Filled(3, *[DOWN] * 3)
    filled.turn(0)
    filled.clock.now += 1
    filled.server.errors = [DOWN] * 3
    filled.outbox.send_due()  # the second try of all: the third is in two seconds
    with pytest.raises(OutboxFull) as refused:
        filled.outbox.check_room()
    assert refused.value.retry_after_s == pytest.approx(2)


def test_what_is_refused_for_good_is_given_up_at_once_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    filled = Filled(2, REFUSED)
    filled.turn(0)
    assert filled.server.stored == [(b"1", b"picture")]
    state = filled.outbox.state
    assert (state.items, state.sent, state.given_up) == (0, 1, {"refused": 1, "expired": 0})
    assert "prediction-0 is given up (refused)" in caplog.text
    assert "key-0" not in caplog.text


def test_what_is_too_old_is_tried_a_last_time_and_given_up() -> None:
    filled = Filled(1, *[DOWN] * 20)
    for _ in range(12):
        filled.turn(9)
    asked = filled.server.asked
    state = filled.outbox.state
    assert (state.items, state.given_up) == (0, {"refused": 0, "expired": 1})
    filled.turn(1000)
    assert filled.server.asked == asked


def test_the_oldest_tells_its_age() -> None:
    filled = Filled(1, DOWN)
    filled.turn(0)
    filled.clock.now += 7
    filled.outbox.put("later", "later", [b"x"])
    assert filled.outbox.state.oldest_s == 7


def test_a_full_outbox_takes_nothing_by_number_or_by_bytes() -> None:
    by_number = Filled(3).outbox
    with pytest.raises(OutboxFull, match="3 that wait"):
        by_number.check_room()
    with pytest.raises(OutboxFull):
        by_number.put("key-3", "prediction-3", [b"x"])
    by_bytes = Filled(0).outbox
    by_bytes.put("large", "large", [b"x" * 990])
    by_bytes.check_room(2)
    with pytest.raises(OutboxFull):
        by_bytes.put("more", "more", [b"x" * 11])
    by_bytes.put("last", "last", [b"x" * 10])
    with pytest.raises(OutboxFull):
        by_bytes.check_room()
    assert by_bytes.state.bytes == 1000


def test_a_result_that_never_fits_is_told_apart_from_one_that_must_wait() -> None:
    with pytest.raises(PayloadTooLarge):
        Filled(0).outbox.put("huge", "huge", [b"x" * 600, b"x" * 401])


def test_a_result_that_waits_already_is_not_taken_twice_even_by_a_full_outbox() -> None:
    filled = Filled(3)
    filled.outbox.put("key-1", "prediction-again", [b"1", b"picture"])
    filled.turn(0)
    assert len(filled.server.stored) == 3


def test_that_a_server_is_down_and_back_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    filled = Filled(3, *[DOWN] * 3)
    filled.turn(0)
    filled.turn(1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


# --- with its thread


@pytest.fixture
def running() -> Callable[..., Outbox]:
    def running(server: FakeDestination, close_s: float = 5) -> Outbox:
        outbox = Outbox(server, OutboxLimits(items=9, bytes=1000, age_s=100, close_s=close_s))
        outbox.start()
        return outbox

    return running


def test_closing_sends_at_once_what_waits_for_its_next_try(
    running: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.dicomweb.outbox, "FIRST_WAIT_S", 60)
    server = FakeDestination(DOWN, DOWN)
    outbox = running(server)
    server.may_answer.clear()
    outbox.put("one", "one", [b"1"])
    outbox.put("two", "two", [b"2"])
    server.may_answer.set()
    until(lambda: outbox.state.retries == 2)
    outbox.close()
    assert sorted(server.stored) == [(b"1",), (b"2",)]
    with pytest.raises(NotReady):
        outbox.check_room()


def test_what_cannot_be_sent_while_closing_is_logged_without_naming_an_image(
    running: Callable[..., Outbox], caplog: pytest.LogCaptureFixture
) -> None:
    outbox = running(FakeDestination(*[DOWN] * 1000), close_s=0.1)
    outbox.put("1.2.3.5 digest", "prediction-7", [b"1"])
    outbox.close()
    assert "1 result(s) could not be sent" in caplog.text
    assert "prediction-7 was not sent, and is lost" in caplog.text
    assert "1.2.3.5" not in caplog.text


def test_a_server_that_does_not_answer_does_not_hold_up_the_end(
    running: Callable[..., Outbox], caplog: pytest.LogCaptureFixture
) -> None:
    server = FakeDestination()
    server.may_answer.clear()
    outbox = running(server, close_s=0.1)
    outbox.put("one", "prediction-1", [b"1"])
    outbox.close()
    assert "prediction-1 was not sent" in caplog.text
    server.may_answer.set()


def test_an_empty_outbox_closes_at_once(running: Callable[..., Outbox]) -> None:
    running(FakeDestination(), close_s=30).close()
