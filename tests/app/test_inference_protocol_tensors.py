"""Tensors of the Open Inference Protocol: what is read of a body, and what is refused."""

import base64
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import MalformedRequest
from app.inference_protocol.tensors import (
    Answered,
    Inference,
    json_length,
    parsing_bytes,
    read_inference,
    write_answer,
)

PIXELS = 224 * 224
SHAPE = [1, 224, 224, 1]
ANSWERED = Answered("model", 4, {"decision_threshold": 0.5})
TENSORS = {
    "probabilities": np.array([[0.25, 0.75]], np.float32),
    "heatmap": np.zeros((1, 7, 7), np.float32),
    "acceptance": np.ones(1, np.float32),
}


def image(**other: object) -> dict[str, Any]:
    return {"name": "image", "shape": SHAPE, "datatype": "UINT8"} | other


def file(**other: object) -> dict[str, Any]:
    return {"name": "file", "shape": [1], "datatype": "BYTES"} | other


def sized(count: object) -> dict[str, Any]:
    return {"binary_data_size": count}


def read(tensor: dict[str, Any], binary: bytes = b"", **request: object) -> Inference:
    text = json.dumps({"inputs": [tensor]} | request).encode()
    return read_inference(text + binary, len(text), most=4)


def elements(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def pixels(inference: Inference) -> list[bytes]:
    rows = []
    for row in inference.rows:
        assert not callable(row)
        assert row.shape == (224, 224, 1)
        assert row.dtype == np.uint8
        rows.append(row.tobytes())
    return rows


def files(inference: Inference) -> list[bytes]:
    return [row() for row in inference.rows if callable(row)]


@pytest.mark.parametrize(
    "nested",
    [lambda x: x.ravel().tolist(), lambda x: x.tolist(), lambda x: x.reshape(2, -1).tolist()],
)
def test_pixels_are_the_same_in_binary_and_in_json_however_nested(nested: Any) -> None:
    values = np.arange(2 * PIXELS, dtype=np.uint8).reshape(2, 224, 224, 1)
    expected = [row.tobytes() for row in values]
    shape = [2, 224, 224, 1]
    binary = read(image(shape=shape, parameters=sized(2 * PIXELS)), values.tobytes())
    assert pixels(binary) == pixels(read(image(shape=shape, data=nested(values)))) == expected


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_files_are_the_same_in_binary_and_in_base64(shape: list[int]) -> None:
    contents = [b"\x00\xffPNG", b""]
    texts = [base64.b64encode(content) for content in contents]
    binary = elements(*contents)
    plain = read(file(shape=shape, parameters=sized(len(binary))), binary)
    binary = elements(*texts)
    parameters = sized(len(binary)) | {"content_type": "base64"}
    encoded = read(file(shape=shape, parameters=parameters), binary)
    data = np.array([text.decode() for text in texts]).reshape(shape).tolist()
    assert files(plain) == files(encoded) == files(read(file(shape=shape, data=data))) == contents


@pytest.mark.parametrize(
    ("tensor", "binary"),
    [
        (image(name="pixels", data=[0] * PIXELS), b""),
        (image(datatype="FP32", data=[0.5] * PIXELS), b""),
        (image(shape=[1, 1, 224, 224], data=[0] * PIXELS), b""),
        (image(shape=[], data=[]), b""),
        (image(shape=[0, 224, 224, 1], data=[]), b""),
        (image(shape=[-1, 224, 224, 1], parameters=sized(0)), b""),
        (image(shape=[5, 224, 224, 1], parameters=sized(5 * PIXELS)), bytes(5 * PIXELS)),
        (image(shape=[10**9, 224, 224, 1], parameters=sized(3)), b"abc"),
        (image(shape=[10**400, 224, 224, 1], parameters=sized(3)), b"abc"),
        (image(), b""),
        (image(data=[0] * (PIXELS - 1)), b""),
        (image(data=[0] * PIXELS, parameters=sized(0)), b""),
        (image(data=[256] + [0] * (PIXELS - 1)), b""),
        (image(data=[-1] + [0] * (PIXELS - 1)), b""),
        (image(data=[True] * PIXELS), b""),
        (image(data=[0.0] * PIXELS), b""),
        (image(data=[float("nan")] * PIXELS), b""),
        (image(data=[[0], [0, 0]]), b""),
        (image(data="0"), b""),
        (image(parameters=sized(PIXELS)), bytes(PIXELS - 1)),
        (image(parameters=sized(PIXELS)), bytes(PIXELS + 1)),
        (image(parameters=sized(5)), bytes(PIXELS)),
        (image(parameters=sized(-1)), b""),
        (image(parameters=sized("1")), b"a"),
        (image(parameters=sized(10**30)), b"a"),
        (image(parameters={"shared_memory_region": "region"}), b""),
        (file(data=[1]), b""),
        (file(data=["a", "b"]), b""),
        (file(data=[], shape=[0]), b""),
        (file(data=["aaaa"], parameters={"content_type": "np"}), b""),
        (file(parameters=sized(3)), b"\x01\x00\x00"),
        (file(parameters=sized(6)), struct.pack("<I", 3) + b"ab"),
        (file(parameters=sized(6)), struct.pack("<I", 2**32 - 1) + b"ab"),
        (file(parameters=sized(6)), struct.pack("<I", 1) + b"ab"),
        (file(parameters=sized(5), shape=[2]), struct.pack("<I", 1) + b"a"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(
    tensor: dict[str, Any], binary: bytes
) -> None:
    with pytest.raises(MalformedRequest):
        read(tensor, binary)


def test_base64_is_looked_at_when_the_file_is_read() -> None:
    inference = read(file(data=["no base64"]))
    with pytest.raises(MalformedRequest, match="base64"):
        files(inference)


@pytest.mark.parametrize(
    "request_",
    [
        {"inputs": []},
        {"inputs": [file(data=[""]), file(data=[""])]},
        {"outputs": [{"name": "logits"}]},
        {"outputs": [{"name": "heatmap"}, {"name": "heatmap"}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 1}}]},
        {"outputs": [{"name": "heatmap", "parameters": {"shared_memory_region": "region"}}]},
        {"parameters": {"timeout": -1}},
        {"parameters": {"timeout": 10**400}},
        {"id": 7},
    ],
)
def test_a_request_for_what_there_is_not_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        read(file(data=[""]), **request_)


def test_only_what_is_wanted_is_given_in_the_form_that_is_wanted() -> None:
    outputs = [{"name": "heatmap", "parameters": {"binary_data": False}}, {"name": "acceptance"}]
    parameters = {"binary_data_output": True, "priority": 1, "own": None}
    inference = read(file(data=[""]), outputs=outputs, parameters=parameters, id="7")
    body, length = write_answer(inference, ANSWERED, TENSORS)
    assert length is not None
    assert json.loads(body[:length]) == {
        "model_name": "model",
        "model_version": "4",
        "id": "7",
        "parameters": {"decision_threshold": 0.5},
        "outputs": [
            {"name": "heatmap", "datatype": "FP32", "shape": [1, 7, 7], "data": [0.0] * 49},
            {"name": "acceptance", "datatype": "FP32", "shape": [1], "parameters": sized(4)},
        ],
    }
    assert body[length:] == struct.pack("<f", 1)


def test_all_is_given_in_json_where_nothing_is_asked_for() -> None:
    inference = read(file(data=[""], parameters=None), id=None, parameters=None, outputs=None)
    body, length = write_answer(inference, ANSWERED, TENSORS)
    answer = json.loads(body)
    assert length is None
    assert "id" not in answer
    assert [output["name"] for output in answer["outputs"]] == list(TENSORS)
    assert answer["outputs"][0]["data"] == [0.25, 0.75]


def test_a_timeout_is_in_microseconds_and_0_is_none() -> None:
    for timeout, seconds in ((2_500_000, 2.5), (0, None), (None, None)):
        inference = read(file(data=[""]), parameters={"timeout": timeout})
        assert inference.timeout_s == seconds


def test_the_length_of_the_json_is_a_number_of_bytes_that_are_there() -> None:
    assert json_length(None, 9) == json_length("9", 9) == 9
    for header in ("0", "10", "-1", "+9", "9.0", "", " 9", "٩", "9" * 5000):
        with pytest.raises(MalformedRequest):
            json_length(header, 9)


@pytest.mark.parametrize("value", ["[]", "{}", '{"a":1}', "1.5", "[1]", '"ab"', "[[1]]"])
def test_what_parsing_takes_is_not_more_than_what_is_counted(value: str) -> None:
    text = json.dumps({"inputs": [image(data=json.loads(f"[{', '.join([value] * 4_000)}]"))]})
    body = text.encode()
    tracemalloc.start()
    try:
        with pytest.raises(MalformedRequest):
            read_inference(body, len(body), most=4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= parsing_bytes(body, len(body))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
ANYTHING = JSON | st.lists(st.integers(-1, 4), max_size=5)
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "file"]) | ANYTHING,
        "shape": st.sampled_from([[1], [2, 1], SHAPE]) | ANYTHING,
        "datatype": st.sampled_from(["UINT8", "BYTES"]) | ANYTHING,
    },
    optional={
        "data": st.lists(st.text("aA1=+/", max_size=8), max_size=2) | ANYTHING,
        "parameters": st.builds(sized, st.integers(-1, 20) | ANYTHING) | ANYTHING,
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, min_size=1, max_size=1) | ANYTHING},
    optional={"id": ANYTHING, "outputs": ANYTHING, "parameters": ANYTHING},
)
BINARY = st.binary(max_size=20) | st.lists(st.binary(max_size=4)).map(lambda x: elements(*x))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(REQUEST, BINARY, st.integers(-2, 2))
def test_whatever_is_sent_is_read_or_refused(
    request: dict[str, Any], binary: bytes, shift: int
) -> None:
    text = json.dumps(request).encode()
    body = text + binary
    try:
        length = json_length(str(len(text) + shift), len(body))
        inference = read_inference(body, length, most=2)
        files(inference)
    except MalformedRequest:
        return
    assert 1 <= len(inference.rows) <= 2
    body, _ = write_answer(inference, ANSWERED, TENSORS)
    assert body


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_files_come_out_as_they_went_in(contents: list[bytes]) -> None:
    binary = elements(*contents)
    tensor = file(shape=[len(contents)], parameters=sized(len(binary)))
    assert files(read(tensor, binary)) == contents


@pytest.mark.parametrize("wide", ["\U0001f600", "\\ud83d\\ude00"])
def test_a_text_with_one_wide_character_takes_four_bytes_for_each(wide: str) -> None:
    body = f'"{wide}{"a" * 10_000}"'.encode()
    assert parsing_bytes(body, len(body)) >= 4 * len(json.loads(body))
