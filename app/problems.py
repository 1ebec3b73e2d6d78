"""Problems as answers over HTTP, after RFC 9457."""

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus

from fastapi.responses import JSONResponse

from app.errors import CovidXrayError, Overloaded
from app.observability import note_problem
from app.schemas import Problem

MEDIA_TYPE = "application/problem+json"

_log = logging.getLogger(__name__)


def to_problem(error: CovidXrayError) -> Problem:
    """Tell an error to its sender; one that is the service's own is logged instead."""
    problem = Problem.of(error)
    note_problem(problem.code)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:  # its sender is told nothing of it
        _log.error("A request failed.", exc_info=error)
    return problem


def answer(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Make the answer that carries a problem."""
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, problem.status, dict(headers or {}), media_type=MEDIA_TYPE)


def retry_after_s(error: Overloaded) -> int:
    """Tell the whole seconds, at least one, after which to try again."""
    return max(1, math.ceil(error.retry_after_s))
