"""In which form a prediction is answered: what the client accepts, and what it wants with it."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

import mimeparse
from fastapi import Query, Request, Response

from app.errors import MalformedRequest, NotAcceptable
from app.overlay import encode_png
from app.reports import write_observation, write_secondary_capture, write_sr
from app.reports.example import ISSUED, example_finding
from app.reports.fhir import make_observation
from app.schemas import HeatmapSchema, PredictionSchema
from app.service import Finding

JSON = "application/json"
FHIR = "application/fhir+json"
DICOM = "application/dicom"
RELATED = f'multipart/related; type="{DICOM}"'

OFFERS = (JSON, FHIR, DICOM, RELATED)
"""What a prediction is answered in; of those that a client likes as much, the first."""

_MAX_ACCEPT = 2000
"""Characters; browsers send about 150. The parser's time grows with their square: 60,000 of them
could take four seconds, in which nobody else would be answered."""

Extra = Literal["heatmap", "secondary-capture"]

_GOES_WITH: dict[Extra, tuple[str, ...]] = {
    "heatmap": (JSON,),
    "secondary-capture": (DICOM, RELATED),
}


@dataclass(frozen=True, slots=True)
class Form:
    """What a client wants to get.

    Attributes:
        media_type: One of `OFFERS`.
        include: What is added to the prediction.
        legend: Whether the heatmap that is added has one.
    """

    media_type: str
    include: frozenset[Extra]
    legend: bool

    def write(self, finding: Finding) -> PredictionSchema | Response:
        """Make the answer.

        Raises:
            InputError: It cannot be made in this form of this image.
        """
        if self.media_type == JSON:
            return self._to_schema(finding)
        if self.media_type == FHIR:
            return Response(write_observation(finding, datetime.now(UTC)), media_type=FHIR)
        parts = [write_sr(finding)]
        if "secondary-capture" in self.include:
            parts.append(write_secondary_capture(finding))
        if self.media_type == DICOM and len(parts) == 1:
            return Response(parts[0], media_type=DICOM)
        return _related(parts)

    def _to_schema(self, finding: Finding) -> PredictionSchema:
        schema = PredictionSchema.model_validate(finding.prediction)
        if "heatmap" not in self.include:
            return schema
        png = encode_png(finding.draw(legend=self.legend))
        heatmap = HeatmapSchema(data=base64.b64encode(png).decode())
        return schema.model_copy(update={"heatmap": heatmap})


async def read_form(
    request: Request,
    include: Annotated[
        list[Extra],
        Query(
            description="What is added: `heatmap` to JSON, `secondary-capture` to DICOM. "
            "Once for each."
        ),
    ] = [],  # noqa: B006 -- FastAPI takes a copy
    *,
    legend: Annotated[
        bool, Query(description="Whether the heatmap in JSON has a legend below the X-ray.")
    ] = True,
) -> Form:
    """Read what a client wants to get.

    Raises:
        NotAcceptable: It accepts none of `OFFERS`.
        MalformedRequest: Its `Accept` is malformed, or wants what does not go with it.
    """
    media_type = choose(",".join(request.headers.getlist("accept")))
    for extra in include:
        fitting = _GOES_WITH[extra]
        if media_type not in fitting:
            raise MalformedRequest(
                f"include={extra} with Accept: {fitting[0]}", f"an answer in {media_type}"
            )
    return Form(media_type, frozenset(include), legend)


def choose(accept: str, offers: Sequence[str] = OFFERS) -> str:
    """Choose from what is offered what a client likes best (RFC 9110, 12.5.1).

    Args:
        accept: The value of its header; empty for none, which accepts all.
        offers: Media types; of those that it likes as much, the first is chosen.

    Raises:
        NotAcceptable: It likes none of them.
        MalformedRequest: The header is malformed, or of more than `_MAX_ACCEPT` characters.
    """
    if len(accept) > _MAX_ACCEPT:
        raise MalformedRequest(
            f"an Accept of at most {_MAX_ACCEPT} characters", f"one of {len(accept)}"
        )
    try:
        ranges = [
            mimeparse.parse_media_range(part) for part in accept.lower().split(",") if part.strip()
        ]
    except mimeparse.MimeTypeParseException as error:
        raise MalformedRequest(
            "media types in Accept, such as application/json", "another value"
        ) from error
    fitting = [each for each in ranges if _is_related_dicom(each)] if ranges else [_ANY]
    ranked = {offer: mimeparse.quality_and_fitness_parsed(offer, fitting)[0] for offer in offers}
    best = max(offers, key=lambda offer: ranked[offer])
    if not ranked[best]:
        raise NotAcceptable(f"an Accept of one of {', '.join(offers)}", "none of them")
    return best


_Range = tuple[str, str, dict[str, str]]
_ANY: _Range = ("*", "*", {"q": "1"})


def _is_related_dicom(media_range: _Range) -> bool:
    """Tell a range from one that wants parts of another type than DICOM."""
    kind, _, parameters = media_range
    return kind != "multipart" or parameters.get("type", DICOM) == DICOM


def _related(parts: Iterable[bytes]) -> Response:
    """Put DICOM instances into one body, as DICOMweb does (PS3.18, 8.6.1.2.1)."""
    boundary = uuid4().hex
    body = b"".join(
        b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (boundary.encode(), DICOM.encode(), part)
        for part in parts
    )
    end = b"--%b--\r\n" % boundary.encode()
    return Response(body + end, media_type=f"{RELATED}; boundary={boundary}")


def describe_forms() -> dict[str, Any]:
    """Describe the answer in OpenAPI, with an example of each form that can be read."""
    finding = example_finding()
    binary = {"type": "string", "format": "binary"}
    return {
        "description": "The prediction, in the first of the forms that the client accepts.",
        "content": {
            JSON: {},
            FHIR: {
                "schema": {
                    "type": "object",
                    "description": "An Observation of FHIR R4, preliminary.",
                },
                "examples": {
                    "two-left": {
                        "summary": "Of a DICOM file",
                        "value": make_observation(finding, ISSUED),
                    }
                },
            },
            DICOM: {
                "schema": {
                    **binary,
                    "description": "A Comprehensive SR after TID 1500, of a DICOM image only.",
                }
            },
            RELATED: {
                "schema": {
                    **binary,
                    "description": "The SR, and with `include=secondary-capture` the heatmap as a "
                    "Secondary Capture; each a part of the type application/dicom.",
                }
            },
        },
    }
