"""What is read of an inference request's JSON; whatever else it holds is passed over."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[Int64, Field(ge=0)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class InputParameters(_Message):
    """How an input is sent.

    Attributes:
        binary_data_size: Bytes of its data behind the JSON; none where the JSON holds its data.
        content_type: Of the elements, as MLServer names it.
        shared_memory_region: Where Triton would look for the data.
    """

    binary_data_size: Count | None = None
    content_type: str | None = None
    shared_memory_region: Any = None


class OutputParameters(_Message):
    """How an output is wanted.

    Attributes:
        binary_data: Behind the JSON, or in it; as the request says where none.
        classification: For how many classes Triton would give texts instead of the tensor.
        shared_memory_region: Where Triton would put the data.
    """

    binary_data: bool | None = None
    classification: Any = None
    shared_memory_region: Any = None


class RequestParameters(_Message):
    """What a request asks for.

    Attributes:
        binary_data_output: Outputs are wanted behind the JSON where they do not say otherwise.
        timeout: Microseconds to the answer; none or 0 for what the service gives.
    """

    binary_data_output: bool | None = None
    timeout: Count | None = None


class InputTensor(_Message):
    """A tensor that is sent."""

    name: str
    shape: list[Int64]
    datatype: str
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class RequestedOutput(_Message):
    """A tensor that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class InferenceRequest(_Message):
    """The JSON of a request."""

    id: str | None = None
    parameters: RequestParameters | None = None
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = None
