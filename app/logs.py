"""The log: JSON objects or text, one event a line, and nothing in it of what a client sent.

Everything logs by the standard library, uvicorn too; structlog only formats it.
"""

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from app.errors import CovidXrayError

Format = Literal["json", "console"]

FIELDS = ("method", "route", "status", "duration_ms", "stages_ms", "problem")
"""What an event may tell by `extra` beside its text; anything else a library adds is left out."""


def configure_logging(level: str, log_format: Format) -> None:
    """Log to standard error.

    Args:
        level: The least severity, such as `info`.
        log_format: JSON for programs, or text for a person.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(make_formatter(log_format))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    silence_libraries()


def silence_libraries() -> None:
    """Keep from standard error what libraries say of an upload."""
    # Pillow warns of each odd tag of a file, by a line that Python then remembers for good.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # These quote the headers of DICOM files; where pydicom is imported, its logger is turned off.
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\.")
    # Below this level they tell bytes of uploads, or the paths that they ask for.
    for name in ("python_multipart", "PIL", "pydicom", "highdicom", "imagecodecs", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)


def make_formatter(log_format: Format) -> logging.Formatter:
    """Make the formatter; each event carries the ids that are bound where it is logged."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(FIELDS),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _tell_exception,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _renderer(log_format),
        ],
    )


def _renderer(log_format: Format) -> Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _tell_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put text in the place of an exception."""
    found = event.pop("exc_info", None)
    error = found[1] if isinstance(found, tuple) else None
    if error is not None:
        event["exception"] = "".join(_lines(error)).rstrip()
    return event


def _lines(error: BaseException) -> Iterator[str]:
    """Tell where an exception was raised and its type, its causes first.

    What it says is told for this service's own errors only: a library's may quote the bytes that
    it stumbled over, which are an upload's.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _lines(cause)
        yield "\nwhich led to\n\n"
    yield from traceback.format_tb(error.__traceback__)
    said = f": {error}" if isinstance(error, CovidXrayError) else ""
    yield f"{type(error).__module__}.{type(error).__qualname__}{said}\n"
