"""The service against its own OpenAPI document: requests that are made up from it."""

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.main import create_app
from app.settings import Settings
from tests.app.calls import BATCH
from tests.app.dicoms import dicom
from tests.fakes import gray_png

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
FEW = hypothesis.settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

schemathesis.serializer.alias("application/dicom", "application/octet-stream")
schemathesis.serializer.alias("multipart/related", "application/octet-stream")  # no boundary
schemathesis.openapi.format(
    "binary",
    st.one_of(
        st.sampled_from([gray_png(), gray_png()[:-40], dicom(), dicom()[:-40]]),
        st.binary(max_size=100),
    ),
)


APP = create_app(Settings())  # for its document; requests go to one that has a release
DOCUMENT = APP.openapi()
schema = schemathesis.openapi.from_dict(DOCUMENT)
schema.app = APP


@pytest.fixture
def app(app_of: Callable[..., FastAPI]) -> FastAPI:
    return app_of()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Walk through what can be asked for: path, method, and what is told of it."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_answer_has_the_id_of_its_request() -> None:
    header = DOCUMENT["components"]["headers"]["X-Request-ID"]
    assert header["required"]
    for _, _, operation in operations():
        for response in operation["responses"].values():
            reference = response["headers"]["X-Request-ID"]["$ref"]
            assert reference == "#/components/headers/X-Request-ID"


@pytest.mark.parametrize(
    ("status", "name"),
    [("401", "WWW-Authenticate"), ("415", "Accept-Encoding"), ("503", "Retry-After")],
)
def test_headers_that_tell_what_to_do_are_told_of_every_problem_that_has_them(
    status: str, name: str
) -> None:
    found = [
        operation["responses"][status]["headers"]
        for _, _, operation in operations()
        if status in operation["responses"]
    ]
    assert found
    assert all(name in headers for headers in found)


def test_a_batch_tells_how_many_files_it_may_have() -> None:
    document = create_app(Settings(max_batch=5)).openapi()
    body = document["paths"][BATCH]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert body["schema"]["properties"]["files"]["maxItems"] == 5


def test_head_is_not_told_beside_get() -> None:
    assert {method for _, method, _ in operations()} == {"get", "post"}


def described(path: str, method: str) -> Callable[..., None]:
    """Make the test of one operation."""

    @schema.include(path=path, method=method.upper()).parametrize()
    @FEW
    def test(case: schemathesis.Case[Any], app: FastAPI) -> None:
        case.call_and_validate(app=app, checks=CHECKS)

    made: Callable[..., None] = test
    return made


# Not one test with a parameter: with pytest 9.2 schemathesis gives all of its cases one name, of
# which xdist runs the first.
for _path, _method, _operation in operations():
    _name = f"test_every_answer_of_{_operation['operationId']}_is_one_that_openapi_describes"
    globals()[_name] = described(_path, _method)
