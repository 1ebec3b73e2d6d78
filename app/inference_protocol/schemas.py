"""What goes over the wire: the protocol's answers, and how its requests are documented."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.imaging import SIZE
from app.inference_protocol.tensors import FILE, IMAGE, OUTPUTS

Json = dict[str, Any]

PLATFORM = "tensorflow_savedmodel"
"""What a release is made of, whichever engine runs it."""

EXTENSIONS = ("binary_tensor_data",)


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class ServerMetadataSchema(_Schema):
    """What answers."""

    name: str = Field(examples=["covid-xray"])
    version: str = Field(examples=["0.1.0"])
    extensions: list[str] = Field(default=list(EXTENSIONS), examples=[list(EXTENSIONS)])


class ServerLiveSchema(_Schema):
    """The process answers."""

    live: Literal[True] = True


class ServerReadySchema(_Schema):
    """A release is loaded and warm."""

    ready: Literal[True] = True


class ModelReadySchema(ServerReadySchema):
    """A version answers."""

    name: str = Field(examples=["covid19-resnet50"])


class TensorSchema(_Schema):
    """A tensor's form."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 stands for the rows of a request.")


class ModelMetadataSchema(_Schema):
    """A model's form. A request has one of its inputs, not both."""

    name: str = Field(examples=["covid19-resnet50"])
    versions: list[str] = Field(description="Those that answer.", examples=[["4"]])
    platform: str = PLATFORM
    inputs: list[TensorSchema]
    outputs: list[TensorSchema]

    @classmethod
    def of(cls, name: str, version: int) -> Self:
        """Tell of a model: its form is that of every release."""
        image = TensorSchema(name=IMAGE, datatype="UINT8", shape=[-1, SIZE, SIZE, 1])
        return cls(
            name=name,
            versions=[str(version)],
            inputs=[image, TensorSchema(name=FILE, datatype="BYTES", shape=[-1])],
            outputs=[
                TensorSchema(name=each, datatype="FP32", shape=[-1, *shape])
                for each, shape in OUTPUTS.items()
            ],
        )


class OutputSchema(TensorSchema):
    """A tensor of an answer."""

    parameters: dict[str, int] | None = Field(
        default=None, description="`binary_data_size`: its bytes behind the JSON."
    )
    data: list[float] | None = Field(default=None, description="Its values, row by row.")


class InferenceSchema(_Schema):
    """An answer; the tensors that are wanted in binary are behind it."""

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="The request's own.")
    parameters: dict[str, float] = Field(
        description="`decision_threshold` of the first probability, `acceptance_threshold`."
    )
    outputs: list[OutputSchema]


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


_COUNT: Json = {"type": "integer", "minimum": 0}
_FLAG: Json = {"type": "boolean"}
_INPUT = _object(
    ["name", "shape", "datatype"],
    name={"type": "string", "enum": [FILE, IMAGE]},
    shape={"type": "array", "items": _COUNT, "minItems": 1, "maxItems": 4},
    datatype={"type": "string", "enum": ["BYTES", "UINT8"]},
    parameters=_object(
        [], binary_data_size=_COUNT, content_type={"type": "string", "enum": ["base64"]}
    ),
    data={"type": "array", "items": {}},
)
_OUTPUT = _object(
    ["name"],
    name={"type": "string", "enum": list(OUTPUTS)},
    parameters=_object([], binary_data=_FLAG),
)
REQUEST = _object(
    ["inputs"],
    id={"type": "string"},
    parameters=_object([], binary_data_output=_FLAG, timeout=_COUNT),
    inputs={"type": "array", "minItems": 1, "maxItems": 1, "items": _INPUT},
    outputs={"type": "array", "items": _OUTPUT},
)
"""Of a request's JSON, for the documentation."""
