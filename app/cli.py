"""`covid-xray serve`, `predict FILES...`, `verify PATH` and `key`."""

import asyncio
import json
import math
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app import server
from app.engines import create_engine, installed_engines
from app.errors import CovidXrayError, EngineUnavailable
from app.logs import configure_logging
from app.main import open_service
from app.registry import check_golden, open_servable
from app.release import EngineName, Precision, Release
from app.schemas import PredictionSchema, Problem
from app.security import key_line, new_key
from app.service import InferenceService, Prediction
from app.settings import Settings, SettingsInvalid, load_settings

cli = typer.Typer(
    help="COVID-19 / Normal on frontal chest X-rays. Research software, no medical device. "
    "Settings come from COVID_XRAY_* variables of the environment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the program; what its user can mend ends in one sentence."""
    try:
        cli()
    except (CovidXrayError, SettingsInvalid) as error:
        typer.echo(f"covid-xray: {error}", err=True)
        sys.exit(1)


@cli.command()
def serve() -> None:
    """Serve the REST API."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    server.run(settings)


@cli.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="X-rays, as PNG, JPEG or DICOM.")],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON per file instead of a table.")
    ] = False,
) -> None:
    """Read X-rays here, without a server; exit with 1 where one of them has no answer."""
    settings = load_settings()
    configure_logging("warning", "console")
    if not asyncio.run(_predict(settings, files, as_json=as_json)):
        raise typer.Exit(1)


@cli.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A release: <model_store>/<name>/<version>.")],
) -> None:
    """Check a release's hashes, and its answer for a synthetic image in each engine installed."""
    configure_logging("warning", "console")
    release = open_servable(path)
    manifest = release.manifest
    typer.echo(f"{manifest.name} version {manifest.version}, {release.digest[:12]}")
    typer.echo(f"files       {len(manifest.files)} with the hashes of the manifest")
    typer.echo(f"labels      {', '.join(manifest.labels)}; threshold {manifest.decision.threshold}")
    typer.echo(f"acceptance  {'trained' if manifest.acceptance.trained else 'not trained'}")
    for name in _installed():
        for precision in manifest.precisions.get(name, ()):
            typer.echo(f"{name:<11} {precision:<4} {_try(release, name, precision)}")


@cli.command()
def key(
    name: Annotated[
        str, typer.Option(help="Whose it is, so that you know which line to remove.")
    ] = "",
) -> None:
    """Make an API key: `covid-xray key --name pacs >> api_keys`.

    Its hash, a line for COVID_XRAY_API_KEYS_FILE, goes to standard output; the key itself is shown
    this once, on standard error, and kept nowhere.
    """
    made = new_key()
    typer.echo(key_line(made, " ".join(name.split())))
    typer.echo(f"The key, which is shown only now: {made}", err=True)


def _stop(*_: object) -> None:
    """End the process in order; uvicorn hands a signal on when it has finished its requests."""
    sys.exit(0)


async def _predict(settings: Settings, files: list[Path], *, as_json: bool) -> bool:
    good = True
    async with open_service(settings) as service:
        for file in files:
            answer = await _answer(service, file)
            good &= isinstance(answer, Prediction)
            typer.echo(_as_json(file, answer) if as_json else _as_row(file, answer))
    return good


async def _answer(service: InferenceService, file: Path) -> Prediction | CovidXrayError | OSError:
    try:
        return await service.predict(await asyncio.to_thread(file.read_bytes), math.inf)
    except (CovidXrayError, OSError) as error:
        return error


def _as_row(file: Path, answer: Prediction | CovidXrayError | OSError) -> str:
    if not isinstance(answer, Prediction):
        return f"{'-':<10} {'-':>6}  {file}  {_reason(answer)}"
    positive = next(iter(answer.probabilities.values()))
    warnings = " ".join(warning.code for warning in answer.warnings)
    return f"{answer.label:<10} {positive:6.1%}  {file}  {warnings}".rstrip()


def _as_json(file: Path, answer: Prediction | CovidXrayError | OSError) -> str:
    content: dict[str, Any] = {"file": str(file)}
    if isinstance(answer, Prediction):
        content |= PredictionSchema.model_validate(answer).model_dump(mode="json")
    elif isinstance(answer, CovidXrayError):
        content["problem"] = Problem.of(answer).model_dump(exclude_none=True)
    else:
        content["problem"] = {"detail": _reason(answer)}
    return json.dumps(content)


def _reason(error: CovidXrayError | OSError) -> str:
    return f"{error.strerror}." if isinstance(error, OSError) else str(error)


def _installed() -> tuple[EngineName, ...]:
    names = installed_engines()
    if not names:
        raise EngineUnavailable("OpenVINO or TensorFlow to be installed", "neither")
    return names


def _try(release: Release, name: EngineName, precision: Precision) -> str:
    engine = create_engine(release.path, name, precision)
    try:
        answer = check_golden(release, engine)
    finally:
        engine.close()
    found = ", ".join(
        f"{label} {probability:.4f}"
        for label, probability in zip(release.manifest.labels, answer.probabilities[0], strict=True)
    )
    return f"{found}, acceptance {answer.acceptance[0]:.4f}: the manifest's golden answer"
