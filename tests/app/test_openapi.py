"""The service against its own OpenAPI document: requests that are made up from it."""

from collections.abc import Callable
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
schema = schemathesis.openapi.from_dict(APP.openapi())
schema.app = APP


@pytest.fixture
def app(app_of: Callable[..., FastAPI]) -> FastAPI:
    return app_of()


@schema.parametrize()
@FEW
def test_every_answer_is_one_that_openapi_describes(
    case: schemathesis.Case[Any], app: FastAPI
) -> None:
    case.call_and_validate(app=app, checks=CHECKS)
