"""What no route tells of itself in the OpenAPI document: examples, and what holds for all."""

from collections.abc import Callable
from functools import partial

from app.examples import Json, add_examples

_BATCH = "/v1/predictions/batch"
_ID = "X-Request-ID"
_ID_HEADER: Json = {
    "description": "The request's own, where it is one word of at most 64 letters, digits, `.`, "
    "`_` and `-`; else a new one.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
}


def documented(describe: Callable[[], Json], max_batch: int) -> Callable[[], Json]:
    """Wrap what makes the OpenAPI document, so that it tells all.

    Args:
        describe: Makes it of the routes.
        max_batch: Files that a batch may have.
    """
    return partial(_describe, describe, max_batch)


def _describe(describe: Callable[[], Json], max_batch: int) -> Json:
    document = add_examples(describe())
    _add_request_id(document)
    form = document["paths"][_BATCH]["post"]["requestBody"]["content"]["multipart/form-data"]
    form["schema"]["properties"]["files"]["maxItems"] = max_batch
    return document


def _add_request_id(document: Json) -> None:
    document["components"]["headers"] = {_ID: _ID_HEADER}
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                reference = {"$ref": f"#/components/headers/{_ID}"}
                response["headers"] = {_ID: reference, **response.get("headers", {})}
