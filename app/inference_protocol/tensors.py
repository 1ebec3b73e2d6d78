"""Tensors from and to the bytes of HTTP, after the Open Inference Protocol, version 2.

A body is a JSON object and, behind it, the data of the tensors that are sent in binary (Triton's
binary tensor extension): little-endian, row by row, each element of BYTES behind its length in
4 bytes. Nothing here costs more than a small multiple of the body: a shape is believed only where
the data is there.
"""

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.errors import MalformedRequest
from app.imaging import SIZE, Pixels
from app.inference_protocol.messages import (
    InferenceRequest,
    InputParameters,
    InputTensor,
    OutputParameters,
    RequestedOutput,
    RequestParameters,
)

EncodedImage = Callable[[], bytes]
"""Gives a file's bytes; called on the thread that decodes the file."""

Row = Pixels | EncodedImage
"""One image: uint8 `[224, 224, 1]`, or a file."""

IMAGE = "image"
FILE = "file"
OUTPUTS: dict[str, tuple[int, ...]] = {"probabilities": (2,), "heatmap": (7, 7), "acceptance": ()}
"""Name → shape of a row. All are FP32."""

_IMAGE_SHAPE = (SIZE, SIZE, 1)
_BASE64 = "base64"
_LENGTH = struct.Struct("<I")
_MAX_DIGITS = 18
_VALUE_BYTES = 100
"""Of memory that a value in JSON may take, as a list of one number or an object with one name, and
its place in the lists that are made from it."""
_WIDE_BYTES = 4
"""Of memory for each character of a text that has one beyond the Basic Multilingual Plane."""
_MICROSECOND = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """What is asked for.

    Attributes:
        id: The client's name for it, to be given back.
        timeout_s: Seconds that its client waits; none where it does not say.
        rows: The images, at least one.
        outputs: Name of each output that is wanted → whether it is wanted in binary.
    """

    id: str | None
    timeout_s: float | None
    rows: Sequence[Row]
    outputs: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Answered:
    """What answered an inference.

    Attributes:
        name: Of the model.
        version: Of the model.
        parameters: What the reader of the tensors needs beside them.
    """

    name: str
    version: int
    parameters: Mapping[str, float]


def json_length(header: str | None, size: int) -> int:
    """Read how many bytes of a body are JSON.

    Args:
        header: `Inference-Header-Content-Length`; without it all of the body is.
        size: Of the body, in bytes.

    Raises:
        MalformedRequest: It is no number, or of more bytes than there are.
    """
    if header is None:
        return size
    digits = header.isascii() and header.isdecimal() and len(header) <= _MAX_DIGITS
    if not digits or not 0 < int(header) <= size:
        raise MalformedRequest(
            f"the bytes of JSON in Inference-Header-Content-Length, of a body of {size}",
            "another number or text",
        )
    return int(header)


def parsing_bytes(body: bytes, length: int) -> int:
    """Tell how much memory a body's JSON may take when it is parsed, in bytes.

    A value is announced by a comma, a bracket, a brace or a colon, and base64 has none of them.

    Args:
        body: JSON, and what is behind it.
        length: Of the JSON.
    """
    values = sum(body.count(mark, 0, length) for mark in (b",", b"[", b"{", b":"))
    narrow = body[:length].isascii() and body.find(b"\\u", 0, length) < 0
    return _VALUE_BYTES * values + (1 if narrow else _WIDE_BYTES) * length


def read_inference(body: bytes, length: int, most: int) -> Inference:
    """Read a request.

    Args:
        body: JSON, and what is behind it.
        length: Of the JSON, in bytes.
        most: Rows that it may have.

    Raises:
        MalformedRequest: It is no request for this model.
    """
    request = _parse(body[:length])
    parameters = request.parameters or RequestParameters()
    outputs = _wanted(request.outputs or [], binary=bool(parameters.binary_data_output))
    return Inference(
        id=request.id,
        timeout_s=parameters.timeout * _MICROSECOND if parameters.timeout else None,
        rows=_read_rows(request.inputs, memoryview(body)[length:], most),
        outputs=outputs,
    )


def write_answer(
    inference: Inference, answered: Answered, tensors: Mapping[str, NDArray[np.float32]]
) -> tuple[bytes, int | None]:
    """Write an answer: its body, and how many bytes of it are JSON where not all are.

    Args:
        inference: What was asked for.
        answered: What answered.
        tensors: By name, of all that can be asked for: float32 `[N, …]`.
    """
    outputs: list[dict[str, Any]] = []
    binaries = []
    for name, binary in inference.outputs.items():
        tensor = tensors[name]
        output = {"name": name, "datatype": "FP32", "shape": list(tensor.shape)}
        if binary:
            binaries.append(tensor.astype("<f4").tobytes())
            outputs.append(output | {"parameters": {"binary_data_size": len(binaries[-1])}})
        else:
            outputs.append(output | {"data": tensor.ravel().tolist()})
    answer: dict[str, Any] = {
        "model_name": answered.name,
        "model_version": str(answered.version),
        **({} if inference.id is None else {"id": inference.id}),
        "parameters": dict(answered.parameters),
        "outputs": outputs,
    }
    text = json.dumps(answer).encode()
    return b"".join([text, *binaries]), len(text) if binaries else None


def _parse(text: bytes) -> InferenceRequest:
    try:
        return InferenceRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "its JSON"
        raise MalformedRequest(
            "an inference request of the Open Inference Protocol", f"{where}: {first['msg']}"
        ) from error


def _wanted(outputs: Sequence[RequestedOutput], *, binary: bool) -> dict[str, bool]:
    wanted: dict[str, bool] = {}
    for output in outputs:
        if output.name not in OUTPUTS or output.name in wanted:
            received = "one of them twice" if output.name in wanted else "another"
            raise MalformedRequest(f"outputs of {', '.join(OUTPUTS)}", received)
        parameters = output.parameters or OutputParameters()
        if parameters.classification is not None:
            raise MalformedRequest("outputs as tensors", "the parameter classification")
        _check_no_shared_memory(parameters)
        wanted[output.name] = binary if parameters.binary_data is None else parameters.binary_data
    return wanted or dict.fromkeys(OUTPUTS, binary)


def _check_no_shared_memory(parameters: InputParameters | OutputParameters) -> None:
    if parameters.shared_memory_region is not None:
        raise MalformedRequest("tensors in the body", "the parameter shared_memory_region")


def _read_rows(inputs: Sequence[InputTensor], binary: memoryview, most: int) -> Sequence[Row]:
    if len(inputs) != 1 or inputs[0].name not in (IMAGE, FILE):
        received = "one of another name" if len(inputs) == 1 else f"{len(inputs)}"
        raise MalformedRequest(f"one input, {IMAGE} or {FILE}", received)
    (tensor,) = inputs
    parameters = tensor.parameters or InputParameters()
    _check_no_shared_memory(parameters)
    is_image = tensor.name == IMAGE
    rows = _count_rows(tensor, _IMAGE_SHAPE if is_image else (), "UINT8" if is_image else "BYTES")
    if rows > most:
        raise MalformedRequest(f"at most {most} rows in {tensor.name}", f"{rows}")
    values = _json_data(tensor) if parameters.binary_data_size is None else None
    if len(binary) != (parameters.binary_data_size or 0):
        raise MalformedRequest(
            f"{parameters.binary_data_size or 0} bytes behind the JSON, as binary_data_size says",
            f"{len(binary)}",
        )
    if values is None and tensor.data is not None:
        raise MalformedRequest(f"{tensor.name} in JSON or in binary", "both")
    if is_image:
        return _images(binary if values is None else values, rows)
    return _files(values, binary, rows, parameters.content_type)


def _count_rows(tensor: InputTensor, row: tuple[int, ...], datatype: str) -> int:
    """Check an input's type and shape; a row of a file may have an axis of its own."""
    rows, *rest = tensor.shape or [0]
    fits = rest == list(row) or (not row and rest == [1])
    if tensor.datatype != datatype or rows < 1 or not fits:
        raise MalformedRequest(
            f"{tensor.name} as {datatype} [{', '.join(map(str, ('N', *row)))}], N at least 1",
            "another datatype or shape",
        )
    return rows


def _json_data(tensor: InputTensor) -> list[Any]:
    """Give the values of a tensor in JSON, nested as its shape is or flat."""
    if tensor.data is None:
        raise MalformedRequest(f"the data of {tensor.name}, or its binary_data_size", "neither")
    flat: list[Any] = np.array(tensor.data, dtype=object).ravel().tolist()
    return flat


def _images(data: list[Any] | memoryview, rows: int) -> list[Pixels]:
    count = rows * math.prod(_IMAGE_SHAPE)
    expected = f"{count} values of {IMAGE}, each a whole number in [0, 255]"
    if len(data) != count:
        raise MalformedRequest(expected, f"{len(data)} values")
    if isinstance(data, memoryview):
        pixels = np.frombuffer(data, np.uint8)
    elif set(map(type, data)) != {int}:  # a bool is none
        raise MalformedRequest(expected, "values of another type")
    else:
        try:
            pixels = np.array(data, np.uint8)
        except OverflowError as error:
            raise MalformedRequest(expected, "others") from error
    return list(pixels.reshape(rows, *_IMAGE_SHAPE))


def _files(
    values: list[Any] | None, binary: memoryview, rows: int, content_type: str | None
) -> list[EncodedImage]:
    if content_type not in (None, _BASE64):
        raise MalformedRequest(f"no content_type of {FILE}, or {_BASE64}", "another")
    if values is None:
        elements = _split(binary, rows)
        if content_type is None:
            return [partial(bytes, element) for element in elements]
        return [partial(_decode_base64, element) for element in elements]
    if len(values) != rows or set(map(type, values)) != {str}:
        raise MalformedRequest(f"{rows} texts in {FILE}, each a file in base64", "other values")
    return [partial(_decode_base64, text) for text in values]


def _split(binary: memoryview, count: int) -> list[memoryview]:
    """Split the elements of a BYTES tensor, each behind its length."""
    elements = []
    at = 0
    for _ in range(count):
        start = at + _LENGTH.size
        at = start + (_LENGTH.unpack_from(binary, at)[0] if start <= len(binary) else 0)
        elements.append(binary[start:at])
    if at != len(binary):
        raise MalformedRequest(
            f"{count} elements in {FILE}, each behind its length in 4 bytes, little-endian",
            f"{len(binary)} bytes that are not so",
        )
    return elements


def _decode_base64(text: str | memoryview) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedRequest(f"{FILE} in base64, without line breaks", "another text") from error
