import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from app.errors import InferenceFailed
from app.logs import configure_logging, make_formatter


def write(message: str = "an event", **options: Any) -> str:
    record = logging.makeLogRecord(
        {"name": "some.library", "levelname": "WARNING", "levelno": 30, "msg": message, **options}
    )
    return make_formatter("json").format(record)


def caught(fail: Callable[[], None]) -> Any:
    try:
        fail()
    except (InferenceFailed, ValueError):
        return sys.exc_info()
    raise AssertionError("nothing was raised")


def test_an_event_is_one_line_of_json() -> None:
    text = write("two\nlines, %d", args=(7,))
    assert "\n" not in text
    event = json.loads(text)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "two\nlines, 7", "level": "warning", "logger": "some.library"}


def test_an_event_carries_the_ids_that_are_bound() -> None:
    with bound_contextvars(request_id="pacs-7"):
        assert json.loads(write())["request_id"] == "pacs-7"
    assert "request_id" not in json.loads(write())


def test_of_what_a_library_adds_only_known_fields_are_told() -> None:
    event = json.loads(write(status=200, color_message="red", patient="jane"))
    assert event["status"] == 200
    assert not {"color_message", "patient"} & event.keys()


def test_what_a_librarys_exception_says_is_not_logged_but_where_it_was_raised() -> None:
    def fail() -> None:
        raise ValueError("bytes of an upload")

    text = json.loads(write(exc_info=caught(fail)))["exception"]
    assert "bytes of an upload" not in text.splitlines()[-1]
    assert text.endswith("builtins.ValueError")
    assert "in fail" in text
    assert 'tests/app/test_logs.py"' in text


def test_what_an_exception_of_this_service_says_is_logged_with_what_led_to_it() -> None:
    def fail() -> None:
        try:
            int("secret")
        except ValueError as error:
            raise InferenceFailed("an answer", "none") from error

    text = json.loads(write(exc_info=caught(fail)))["exception"]
    first, second = text.split("which led to")
    assert first.rstrip().endswith("builtins.ValueError")
    assert second.endswith("app.errors.InferenceFailed: Expected an answer; received none.")
    assert "invalid literal" not in text


def test_a_person_gets_text() -> None:
    record = logging.makeLogRecord({"name": "app.registry", "msg": "Serving.", "levelname": "INFO"})
    text = make_formatter("console").format(record)
    assert "Serving." in text
    assert "app.registry" in text
    assert not text.startswith("{")


@pytest.mark.parametrize("found", [None, (None, None, None)])
def test_an_event_without_an_exception_has_none(found: object) -> None:
    assert "exception" not in json.loads(write(exc_info=found))


QUOTING = ("PIL", "highdicom", "pydicom", "python_multipart")


@pytest.fixture
def _configured() -> Iterator[None]:
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in QUOTING}
    with warnings.catch_warnings():
        configure_logging("debug", "json")
        yield
    for logger, level in loggers.items():
        logger.setLevel(level)


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("library", QUOTING)
def test_libraries_that_quote_uploads_are_not_listened_to(library: str) -> None:
    assert not logging.getLogger(f"{library}.part").isEnabledFor(logging.WARNING)


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("library", ["PIL", "highdicom", "pydicom"])
def test_nor_are_their_warnings(library: str) -> None:
    warnings.warn_explicit("a value", UserWarning, "part.py", 1, f"{library}.part")
