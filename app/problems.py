"""Problems as answers over HTTP, after RFC 9457."""

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

from app.errors import CovidXrayError, Overloaded
from app.observability import note_problem
from app.schemas import Problem

MEDIA_TYPE = "application/problem+json"
INFERENCE_PROTOCOL = "/v2"
"""Where its paths begin."""
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
_HEADERS: dict[int | str, dict[str, Any]] = {
    HTTPStatus.UNAUTHORIZED: {
        "WWW-Authenticate": {
            "description": "How to send a key.",
            "required": True,
            "schema": {"type": "string"},
        }
    },
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: {
        "Accept-Encoding": {
            "description": "What a body may be compressed by, where it was by something else.",
            "schema": {"type": "string"},
        }
    },
    HTTPStatus.SERVICE_UNAVAILABLE: {
        "Retry-After": {
            "description": "Seconds after which to ask again.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        }
    },
}
"""Of the answers that carry problems, by status, for the documentation."""

_log = logging.getLogger(__name__)


def to_problem(error: CovidXrayError) -> Problem:
    """Tell an error to its sender; one that is the service's own is logged instead."""
    problem = Problem.of(error)
    note_problem(problem.code)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:  # its sender is told nothing of it
        _log.error("A request failed.", exc_info=error)
    return problem


def answer(
    problem: Problem, headers: Mapping[str, str] | None = None, *, path: str = ""
) -> JSONResponse:
    """Make the answer that carries a problem.

    Args:
        problem: What is told.
        headers: Of the answer.
        path: That was asked for.
    """
    content = content_of(problem, path)
    return JSONResponse(content, problem.status, dict(headers or {}), media_type=MEDIA_TYPE)


def content_of(problem: Problem, path: str) -> dict[str, Any]:
    """Give what a problem's JSON holds; the Open Inference Protocol wants `error` beside it."""
    content = problem.model_dump(exclude_none=True)
    if path == INFERENCE_PROTOCOL or path.startswith(f"{INFERENCE_PROTOCOL}/"):
        content["error"] = problem.detail
    return content


def problems(
    *statuses: int | str, schema: Mapping[str, Any] = PROBLEM_SCHEMA
) -> dict[int | str, dict[str, Any]]:
    """Describe problems in OpenAPI."""
    return {
        status: {
            "description": HTTPStatus(status).phrase if isinstance(status, int) else "A problem",
            "headers": dict(_HEADERS.get(status, {})),
            "content": {MEDIA_TYPE: {"schema": dict(schema)}},
        }
        for status in statuses
    }


def retry_after_s(error: Overloaded) -> int:
    """Tell the whole seconds, at least one, after which to try again."""
    return max(1, math.ceil(error.retry_after_s))
