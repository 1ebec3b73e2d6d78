"""Both clients, before what stands for the service."""

import io
from pathlib import Path
from typing import Any

import httpx
import pytest

from covid_xray import (
    AsyncClient,
    Client,
    Prediction,
    Problem,
    ProblemReceived,
    Retries,
    Unreachable,
    UnusableAnswer,
)
from tests.client.conftest import PREDICTION, PROBLEM, Asked, Service, Sleeps, prediction, problem

pytestmark = pytest.mark.anyio

DATA = b"an X-ray"


# --- answers


@pytest.mark.parametrize("kind", ["bytes", "path", "text", "file"])
async def test_an_xray_may_be_bytes_a_path_or_an_open_file(
    ask: Asked, service: Service, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "Doe^Jane.png"
    path.write_bytes(DATA)
    image = {"bytes": DATA, "path": path, "text": str(path), "file": io.BytesIO(DATA)}[kind]
    service.will(prediction())
    answer = await ask("predict", image)
    assert answer.model_dump(mode="json", exclude_none=True) == PREDICTION
    (request,) = service.requests
    assert (request.method, request.url.path) == ("POST", "/v1/predictions")
    assert DATA in request.content
    assert b'name="file"' in request.content
    assert b"Doe" not in request.content  # a file's name may be a patient's


async def test_a_batch_is_answered_with_predictions_and_problems_in_its_order(
    ask: Asked, service: Service
) -> None:
    service.will(httpx.Response(200, json=[PREDICTION, PROBLEM, PREDICTION]))
    answers = await ask("predict_batch", [b"one", b"two", b"three"])
    assert [type(answer) for answer in answers] == [Prediction, Problem, Prediction]
    content = service.requests[0].content
    assert content.index(b"one") < content.index(b"two") < content.index(b"three")
    assert content.count(b'name="files"') == 3


async def test_a_batch_of_nothing_is_answered_without_asking(ask: Asked, service: Service) -> None:
    assert await ask("predict_batch", []) == []
    assert service.requests == []


async def test_a_heatmap_is_what_was_sent(ask: Asked, service: Service) -> None:
    service.will(httpx.Response(200, content=b"a PNG"), httpx.Response(200, content=b"a PNG"))
    assert await ask("heatmap", DATA) == b"a PNG"
    assert await ask("heatmap", DATA, call={"opacity": 0.5, "legend": False}) == b"a PNG"
    queries = [dict(request.url.params) for request in service.requests]
    assert queries == [{}, {"opacity": "0.5", "legend": "false"}]


async def test_models_are_listed(ask: Asked, service: Service) -> None:
    listed = {"name": "covid19-resnet50", "version": 3, "state": "serving"}
    service.will(httpx.Response(200, json={"models": [listed]}))
    (model,) = await ask("models")
    assert (model.version, model.state, model.engine) == (3, "serving", None)


async def test_what_a_newer_service_says_beyond_is_passed_over(
    ask: Asked, service: Service
) -> None:
    service.will(httpx.Response(200, json=PREDICTION | {"new": {"field": 1}}))
    assert (await ask("predict", DATA)).label == "Normal"


async def test_the_key_and_the_timeout_are_sent(ask: Asked, service: Service) -> None:
    service.will(prediction())
    await ask("predict", DATA, api_key="cxr_secret", timeout_s=2.5)
    headers = service.requests[0].headers
    assert (headers["x-api-key"], headers["x-request-timeout"]) == ("cxr_secret", "2.500")
    assert service.requests[0].extensions["timeout"]["read"] == 7.5


def test_the_address_may_have_a_path(service: Service) -> None:
    service.will(prediction())
    transport = httpx.MockTransport(service.handle)
    with Client("http://test/xray/", transport=transport) as client:
        client.predict(DATA)
    assert service.requests[0].url.path == "/xray/v1/predictions"


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000", "ftp://test", "http://"])
def test_an_address_that_is_none_is_told_at_once(address: str) -> None:
    with pytest.raises(Unreachable, match="Expected an address"):
        Client(address)


@pytest.mark.parametrize("timeout_s", [0, -1, 1e6, float("nan")])
def test_a_timeout_that_is_none_is_told_at_once(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="seconds; received"):
        Client("http://test", timeout_s=timeout_s)


@pytest.mark.parametrize("api_key", ["", "cl\u00e9", "cxr secret", "cxr_secret\n", "cxr\0"])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_key_that_is_none_is_told_at_once_and_not_repeated(
    client: type[Client | AsyncClient], api_key: str
) -> None:
    with pytest.raises(ValueError, match="Expected an API key") as caught:
        client("http://test", api_key=api_key)
    assert not api_key or api_key not in str(caught.value)


# --- what goes wrong


async def test_a_problem_is_raised_with_what_was_expected_and_received(
    ask: Asked, service: Service
) -> None:
    service.will(problem(422, **{"x-request-id": "pacs-7"}))
    with pytest.raises(ProblemReceived, match=r"Expected a place; received none\.") as caught:
        await ask("predict", DATA)
    error = caught.value
    assert (error.status, error.code, error.type) == (422, "overloaded", PROBLEM["type"])
    assert (error.expected, error.received) == ("a place", "none")
    assert error.request_id == "pacs-7"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(502, html="<h1>Bad gateway</h1>"), "status 502 with text/html"),
        (httpx.Response(500), "status 500 with no content type"),
        (httpx.Response(302, headers={"location": "http://other/"}), "status 302"),
        (httpx.Response(200, text="hello"), "its text"),
        (httpx.Response(200, json=PREDICTION | {"label": None}), "label"),
        (
            httpx.Response(
                400, content=b"{}", headers={"content-type": "application/problem+json"}
            ),
            "status 400",
        ),
    ],
    ids=["proxy", "empty", "redirection", "no JSON", "another form", "no problem"],
)
async def test_what_is_no_answer_of_the_service_is_told_as_such(
    ask: Asked, service: Service, answer: httpx.Response, reason: str
) -> None:
    service.will(answer)
    with pytest.raises(UnusableAnswer, match=reason):
        await ask("predict", DATA, retries=Retries(times=0))


# --- retries


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_service_is_asked_again_when_it_wants_to_be(
    ask: Asked, service: Service, sleeps: Sleeps, status: int
) -> None:
    service.will(problem(status, **{"retry-after": "7"}), prediction())
    assert (await ask("predict", DATA)).label == "Normal"
    assert sleeps == [7]
    first, second = service.requests
    assert DATA in first.content
    assert DATA in second.content


async def test_without_a_time_the_pauses_grow(ask: Asked, service: Service, sleeps: Sleeps) -> None:
    service.will(*[problem()] * 3, prediction())
    await ask("predict", DATA)
    for pause, most in zip(sleeps, (0.5, 1, 2), strict=True):
        assert most / 2 <= pause <= most


@pytest.mark.parametrize(
    "outcome",
    [
        httpx.Response(502, html="<h1>Bad gateway</h1>"),
        httpx.Response(504, html="<h1>Gateway time-out</h1>"),
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("late"),
        httpx.PoolTimeout("full"),
        httpx.ReadError("broken"),
        httpx.WriteError("broken"),
        httpx.RemoteProtocolError("closed"),
    ],
    ids=lambda each: str(getattr(each, "status_code", type(each).__name__)),
)
async def test_what_a_proxy_or_the_network_lost_is_sent_again_whole(
    ask: Asked, service: Service, sleeps: Sleeps, outcome: httpx.Response | httpx.HTTPError
) -> None:
    service.will(outcome, outcome, prediction())
    assert (await ask("predict", io.BytesIO(DATA))).label == "Normal"
    assert len(sleeps) == 2
    assert [DATA in request.content for request in service.requests] == [True] * 3


async def test_what_breaks_off_again_and_again_is_told_at_the_end(
    ask: Asked, service: Service, sleeps: Sleeps
) -> None:
    service.will(*[httpx.ReadError("broken")] * 5)
    with pytest.raises(Unreachable, match="http://test; received none: broken"):
        await ask("predict", DATA)
    assert len(sleeps) == 4


@pytest.mark.parametrize("error", [httpx.ReadTimeout("late"), httpx.WriteTimeout("late")])
async def test_what_came_too_late_is_not_sent_again(
    ask: Asked, service: Service, error: httpx.HTTPError
) -> None:
    service.will(error, prediction())
    with pytest.raises(Unreachable, match="http://test"):
        await ask("predict", DATA)
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 408, 413, 415, 422, 500, 504])
async def test_what_another_try_would_not_mend_is_not_tried(
    ask: Asked, service: Service, status: int
) -> None:
    service.will(problem(status, **{"retry-after": "1"}), prediction())
    with pytest.raises(ProblemReceived):
        await ask("predict", DATA)
    assert len(service.requests) == 1


async def test_the_tries_have_an_end(ask: Asked, service: Service) -> None:
    service.will(*[problem(503, **{"retry-after": "0"})] * 9)
    with pytest.raises(ProblemReceived) as caught:
        await ask("predict", DATA, retries=Retries(times=2))
    assert len(service.requests) == 3
    assert caught.value.retry_after_s == 0


@pytest.mark.parametrize("wanted", ["61", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_pause_that_is_too_long_is_not_made(
    ask: Asked, service: Service, sleeps: Sleeps, wanted: str
) -> None:
    service.will(problem(503, **{"retry-after": wanted}), prediction())
    with pytest.raises(ProblemReceived):
        await ask("predict", DATA)
    assert sleeps == []


@pytest.mark.parametrize("zone", ["GMT", "-0000"])  # the latter is read as a time without a zone
async def test_a_date_in_the_past_means_now(
    ask: Asked, service: Service, sleeps: Sleeps, zone: str
) -> None:
    date = f"Wed, 21 Oct 2015 07:28:00 {zone}"
    service.will(problem(503, **{"retry-after": date}), prediction())
    await ask("predict", DATA)
    assert sleeps == [0]


async def test_a_time_that_cannot_be_read_is_none(
    ask: Asked, service: Service, sleeps: Sleeps
) -> None:
    service.will(problem(503, **{"retry-after": "soon"}), prediction())
    await ask("predict", DATA)
    assert 0.25 <= sleeps[0] <= 0.5


async def test_no_retries_are_none(ask: Asked, service: Service, sleeps: Sleeps) -> None:
    service.will(problem(), prediction())
    options: dict[str, Any] = {"retries": Retries(times=0)}
    with pytest.raises(ProblemReceived):
        await ask("predict", DATA, **options)
    assert sleeps == []
