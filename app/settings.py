"""The environment, read once into frozen settings: `COVID_XRAY_PORT=9000` sets `port`."""

import difflib
import errno
import math
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "COVID_XRAY_"

_YEAR_S = 365 * 24 * 3600
"""The longest time. Somewhat beyond it clocks overflow, and an endless one has no whole seconds."""
_MOST = 2**40
"""The largest count: of bytes, more than a machine has."""

_Seconds = Annotated[float, Field(gt=0, le=_YEAR_S)]
_SecondsOrNone = Annotated[float, Field(ge=0, le=_YEAR_S)]
_Count = Annotated[int, Field(ge=1, le=_MOST)]


class SettingsInvalid(ValueError):
    """A variable of the environment is unknown, or its value cannot be used."""


class Settings(BaseSettings):
    """What an operator can choose; each field is read from its name behind the prefix."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(
        default=8000, description="TCP port to listen on."
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="File with a line for each API key that is accepted: its hash, as "
        "`covid-xray key` prints it. It is read again when it changes; with no keys in it, or "
        "when it is gone, nobody may ask any more. Where not set, everybody may ask.",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Serve without API keys although other machines can reach `host`.",
    )
    docs: Literal["open", "key", "off"] = Field(
        default="open",
        description="Who sees /docs and /openapi.json: everybody, who has an API key (a browser "
        "asks for it as a password), or nobody.",
    )
    metrics: Literal["open", "key", "off"] = Field(
        default="open",
        description="Who sees /metrics: everybody, who has an API key, or nobody.",
    )
    page: Literal["open", "key", "off"] = Field(
        default="open",
        description="Who sees the page at / where a person tries an X-ray: everybody, who has an "
        "API key (a browser asks for it as a password), or nobody. It holds nothing itself: what "
        "it asks of /v1 needs a key, for which it asks too, wherever there are keys.",
    )
    model_store: Path = Field(
        default=Path(__file__).parents[1] / "model_store",
        description="Folder of releases: <model_store>/<model_name>/<version>/.",
    )
    model_name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")] = Field(
        default="covid19-resnet50", description="Which model of the store is served."
    )
    model_version: _Count | None = Field(
        default=None, description="The version to serve; the newest where not set."
    )
    engine: Literal["auto", "openvino", "tensorflow"] = Field(
        default="auto", description="What runs the model; auto is OpenVINO where installed."
    )
    precision: Literal["auto", "f32", "bf16", "int8"] = Field(
        default="auto",
        description="What it computes in; auto is the fastest that the release passed and that "
        "the processor has instructions for.",
    )
    cache_dir: Path | None = Field(
        default=None,
        description="Folder for compiled networks, so that the next start is faster; none where "
        "not set.",
    )
    threads: Annotated[int, Field(ge=1, le=512)] | None = Field(
        default=None,
        description="Threads for decoding and inference; where not set, as many as the CPUs that "
        "the process may use (affinity and cgroup quota).",
    )
    acceptance: Literal["enforce", "warn"] = Field(
        default="enforce",
        description="What happens to an image that is no frontal chest X-ray: enforce refuses it, "
        "warn answers with a warning.",
    )
    max_upload_bytes: Annotated[int, Field(ge=1024, le=_MOST)] = Field(
        default=64 * 2**20,
        description="Largest body of one request, in bytes, with all of its files.",
    )
    upload_memory_bytes: Annotated[int, Field(ge=1024, le=_MOST)] = Field(
        default=256 * 2**20,
        description="Bytes of uploads that are held in memory at once, over all requests; one that "
        "would need more is answered with 503.",
    )
    upload_idle_timeout_s: _Seconds = Field(
        default=10.0,
        description="Seconds in which nothing of an upload arrives; after them it gets a 408.",
    )
    max_pixels: Annotated[int, Field(ge=224 * 224, le=_MOST)] = Field(
        default=64_000_000, description="Largest image that is decoded, width times height."
    )
    max_batch: Annotated[int, Field(ge=1, le=256)] = Field(
        default=16, description="Most files in one batch request."
    )
    queue_limit: _Count = Field(
        default=64, description="Images that may wait for a thread; one more is answered with 503."
    )
    request_timeout_s: _Seconds = Field(
        default=30.0,
        description="Seconds from a request's head to its answer; after them it gets a 504.",
    )
    hang_timeout_s: _Seconds = Field(
        default=60.0,
        description="Seconds that decoding and inference of one image may take; after them the "
        "service takes its engine to hang, and ends with code 70 for its supervisor to restart.",
    )
    follow_s: _SecondsOrNone = Field(
        default=10.0,
        description="Seconds between two looks into the model store for another release to serve; "
        "0 for none but at the start.",
    )
    leaving_s: _SecondsOrNone = Field(
        default=1.0,
        description="Seconds after SIGTERM (or SIGHUP) in which readiness fails while all requests "
        "are still answered; then the service stops listening.",
    )
    shutdown_timeout_s: Annotated[int, Field(ge=0, le=_YEAR_S)] = Field(
        default_factory=lambda chosen: math.ceil(chosen["request_timeout_s"]),
        description="Seconds that running requests get to finish when the service is stopped; "
        "where not set, as long as `request_timeout_s` lets them run. With less, one that still "
        "runs is ended with a bare 500.",
    )
    dicomweb_url: str | None = Field(
        default=None,
        description="DICOMweb server, such as http://127.0.0.1:8042/dicom-web, that gets the "
        "results of what comes to /dicomweb/studies: a Structured Report and a Secondary Capture "
        "for each image. Where not set, they go nowhere.",
    )
    dicomweb_user: str | None = Field(
        default=None, description="The service's name at that server, for HTTP Basic."
    )
    dicomweb_secret_file: Path | None = Field(
        default=None,
        description="File with the password of `dicomweb_user`, or where that is not set with a "
        "bearer token. It is read for every delivery, so that a token can be renewed.",
    )
    dicomweb_timeout_s: _Seconds = Field(
        default=30.0, description="Seconds that the DICOMweb server may be silent."
    )
    outbox_items: _Count = Field(
        default=1000,
        description="Results that may wait for the DICOMweb server, in memory; while there are so "
        "many, /dicomweb/studies answers with 503, and the sender keeps its images.",
    )
    outbox_bytes: Annotated[int, Field(ge=2**20, le=_MOST)] = Field(
        default=256 * 2**20, description="Bytes of all results that may wait."
    )
    outbox_age_s: _Seconds = Field(
        default=24 * 3600.0,
        description="Seconds after which a result that could not be delivered is given up.",
    )
    outbox_close_s: _SecondsOrNone = Field(
        default=5.0,
        description="Seconds after the last request in which the service, when it is stopped, "
        "tries to deliver what waits; the rest is lost and logged.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        default="json",
        description="How the service writes its log: a JSON object a line, or text for a person.",
    )

    @model_validator(mode="after")
    def _what_needs_a_key_can_be_seen_with_one(self) -> Self:
        if "key" in (self.docs, self.metrics, self.page) and self.api_keys_file is None:
            raise ValueError("expected an api_keys_file for what needs a key; received none")
        return self

    @model_validator(mode="after")
    def _a_user_of_dicomweb_has_a_password(self) -> Self:
        if self.dicomweb_user is not None and self.dicomweb_secret_file is None:
            raise ValueError("expected a dicomweb_secret_file for dicomweb_user; received none")
        return self

    @model_validator(mode="after")
    def _a_batch_fits_the_outbox(self) -> Self:
        if self.outbox_items < self.max_batch:
            raise ValueError(
                f"expected outbox_items of at least max_batch ({self.max_batch}); "
                f"received {self.outbox_items}"
            )
        return self

    @model_validator(mode="after")
    def _an_upload_fits_the_memory(self) -> Self:
        if self.upload_memory_bytes < self.max_upload_bytes:
            raise ValueError(
                f"expected upload_memory_bytes of at least max_upload_bytes "
                f"({self.max_upload_bytes}); received {self.upload_memory_bytes}"
            )
        return self

    @model_validator(mode="after")
    def _a_batch_fits_the_queue(self) -> Self:
        if self.queue_limit < self.max_batch:
            raise ValueError(
                f"expected a queue_limit of at least max_batch ({self.max_batch}); "
                f"received {self.queue_limit}"
            )
        return self


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsInvalid: A value cannot be used, or a variable with the prefix is no setting: a
            misspelt one would otherwise be ignored without a word.
    """
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise SettingsInvalid(f"{name} is not a setting{hint}.")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{PREFIX}{part.upper()}: " for part in map(str, first["loc"][:1]))
        message = first["msg"].removeprefix("Value error, ")
        received = f"; received {first['input']!r}" if where else ""
        raise SettingsInvalid(f"{where}{message}{received}.") from error


def make_cache_dir(settings: Settings) -> None:
    """Make the folder for compiled networks, where one is set; it may be filled and read-only.

    OpenVINO would accuse the release of a folder that it cannot make, and ends the process at one
    that it may not look into.

    Raises:
        SettingsInvalid: There can be no such folder, or its files cannot be read.
    """
    folder = settings.cache_dir
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.R_OK | os.X_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise SettingsInvalid(
            f"{PREFIX}CACHE_DIR: expected a folder to read and fill; received {folder} ({reason})."
        )
