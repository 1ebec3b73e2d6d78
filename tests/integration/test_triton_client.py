"""Triton's own client, and the examples of docs/inference-protocol.md, against a real server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.fakes import NAME, gray_png
from tests.integration.server import Server

DOCUMENT = Path(__file__).parents[2] / "docs" / "inference-protocol.md"
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


def test_the_examples_of_the_document_run(server: Server, tmp_path: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:8000", server.client.base_url.netloc.decode())
    (tmp_path / "xray.png").write_bytes(gray_png(204))

    def blocks(kind: str) -> list[str]:
        return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    inferred, refused = (json.loads(run("bash", "-c", block)) for block in blocks("sh"))
    example, problem = map(json.loads, blocks("json"))
    assert refused == problem
    assert inferred.keys() == example.keys()
    for output, shown in zip(inferred["outputs"], example["outputs"], strict=True):
        assert (output["name"], output["shape"]) == (shown["name"], shown["shape"])
    (program,) = blocks("python")
    told = re.match(r"\[\[([0-9.]+) +[0-9.]+\]\] \[1\.\]\n", run(sys.executable, "-c", program))
    assert told is not None
    assert float(told[1]) == pytest.approx(0.8, abs=1e-5)
