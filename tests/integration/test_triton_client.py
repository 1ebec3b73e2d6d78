"""Triton's own client against a real server."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.fakes import NAME, gray_png
from tests.integration.server import Server

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 1), np.uint8)
VALUES = IMAGES.reshape(3, -1).mean(axis=1) / 255


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(server.client.base_url.netloc.decode()) as client:
        yield client


def images(values: Any = IMAGES, *, binary: bool = True) -> Any:
    tensor = triton.InferInput("image", values.shape, "UINT8")
    return tensor.set_data_from_numpy(values, binary_data=binary)


def files(*contents: bytes) -> Any:
    tensor = triton.InferInput("file", [len(contents)], "BYTES")
    return tensor.set_data_from_numpy(np.array(contents, dtype=np.object_))


def check(result: Any, expected: Any) -> None:
    probabilities = result.as_numpy("probabilities")
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, np.stack([expected, 1 - expected], 1), atol=1e-5)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert not client.is_model_ready(NAME, "2")
    assert not client.is_model_ready("another")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(NAME, "1")
    assert metadata["inputs"][0] == {
        "name": "image",
        "datatype": "UINT8",
        "shape": [-1, 224, 224, 1],
    }


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_tensors_go_and_come_in_binary_and_in_json(
    client: Any, *, sent: bool, wanted: bool
) -> None:
    outputs = [
        triton.InferRequestedOutput(name, binary_data=wanted)
        for name in ("heatmap", "probabilities")
    ]
    result = client.infer(NAME, [images(binary=sent)], outputs=outputs, request_id="7")
    check(result, VALUES)
    assert result.as_numpy("heatmap").shape == (3, 7, 7)
    assert result.as_numpy("acceptance") is None
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_files_get_the_same_answer_as_by_v1(
    client: Any, server: Server, compression: str | None
) -> None:
    contents = [gray_png(51), gray_png(204)]
    result = client.infer(
        NAME,
        [files(*contents)],
        model_version="1",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    expected = [
        list(server.predict(content).json()["probabilities"].values()) for content in contents
    ]
    assert result.as_numpy("probabilities").tolist() == expected
    assert result.as_numpy("acceptance").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("status", "message", "call"),
    [
        ("400", "UINT8 \\[N, 224, 224, 1\\]", {"inputs": [images(IMAGES[:, :7])]}),
        ("400", "at most 16 rows", {"inputs": [images(np.zeros((17, 224, 224, 1), np.uint8))]}),
        ("400", "one input", {"inputs": [images(), files(b"")]}),
        ("400", "one input", {"inputs": [triton.InferInput("x", [1], "BYTES")]}),
        (
            "400",
            "classification",
            {"outputs": [triton.InferRequestedOutput("heatmap", class_count=1)]},
        ),
        ("404", "the model", {"model_name": "another"}),
        ("404", "a version", {"model_version": "2"}),
        (
            "415",
            "a PDF \\(row 1\\)",
            {"inputs": [files(gray_png(), b"%PDF-1.7")]},
        ),
        ("504", "deadline", {"timeout": 1}),
    ],
)
def test_an_error_says_what_was_expected(
    client: Any, status: str, message: str, call: dict[str, Any]
) -> None:
    with pytest.raises(InferenceServerException, match=message) as error:
        client.infer(**({"model_name": NAME, "inputs": [images()]} | call))
    assert error.value.status() == status


@pytest.mark.anyio
async def test_the_asynchronous_client_is_answered_too(server: Server) -> None:
    address = server.client.base_url.netloc.decode()
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_model_ready(NAME)
        check(await client.infer(NAME, [images()]), VALUES)
        with pytest.raises(InferenceServerException, match="the model"):
            await client.infer("another", [images()])


def test_requests_at_once_are_all_answered(server: Server) -> None:
    address = server.client.base_url.netloc.decode()
    with triton.InferenceServerClient(address, concurrency=8) as client:
        asked = [client.async_infer(NAME, [images()]) for _ in range(16)]
        for request in asked:
            check(request.get_result(), VALUES)
