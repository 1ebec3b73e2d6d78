"""`covid-xray serve`, `predict`, `bulk`, `analyse`, `verify` and `key`."""

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from app.api_keys import key_line, new_key
from app.bulk import Asked, score_files
from app.engines import create_engine, installed_engines
from app.errors import CovidXrayError, EngineUnavailable
from app.imaging import is_uid
from app.logs import configure_logging
from app.opening import load_registry
from app.openvino_runtime import import_openvino
from app.registry import check_golden, open_servable
from app.release import EngineName, Precision, Release
from app.settings import SettingsInvalid, load_settings

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


def _check_uid(value: str | None) -> str | None:
    """Refuse what is no UID, before a server is asked for it."""
    if value is not None and not is_uid(value):
        raise typer.BadParameter("Expected a UID such as 1.2.840.113619.2; received another text.")
    return value


@cli.command()
def serve() -> None:
    """Serve the REST API."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` has it ignored
        signal.signal(signal.SIGHUP, _hang_up)
    with ThreadPoolExecutor(1, "loading") as beside:
        registry = beside.submit(load_registry, settings)
        # Both imports here, so that a release is loading meanwhile. OpenVINO's comes first: while
        # files are hashed nobody holds it up, and what waits for it then runs beside the other.
        if settings.engine != "tensorflow":
            with suppress(EngineUnavailable):  # whoever needs it will say so
                import_openvino()
        from app import server  # noqa: PLC0415

        server.run(settings, lambda _settings: registry.result())


@cli.command()
def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            help="PNG, JPEG or DICOM files, folders with all below them, or patterns ('*.dcm')."
        ),
    ],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON per file instead of a table.")
    ] = False,
    server: Annotated[
        str | None, typer.Option(help="Ask the service at this address, instead of reading here.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File that holds the API key for the server.")
    ] = None,
) -> None:
    """Read X-rays, here or by a server; exit with 1 where one of them has no answer."""
    configure_logging("warning", "console")
    if api_key_file and not server:
        raise typer.BadParameter(
            "Expected --server with it; received none.", param_hint="--api-key-file"
        )
    from app import commands  # noqa: PLC0415 -- `serve` would wait for it

    if not asyncio.run(commands.predict(files, server, api_key_file, as_json=as_json)):
        raise typer.Exit(1)


@cli.command()
def analyse(
    *,
    study: Annotated[str, typer.Option(help="Study instance UID.", callback=_check_uid)],
    series: Annotated[
        str | None, typer.Option(help="Only this series instance UID.", callback=_check_uid)
    ] = None,
    dicomweb: Annotated[
        str | None,
        typer.Option(
            help="Address of the DICOMweb server that has the study, such as "
            "http://127.0.0.1:8042/dicom-web; COVID_XRAY_DICOMWEB_URL where not given."
        ),
    ] = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", "--dry-run", help="Store no results.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each image.")] = False,
) -> None:
    """Analyse a study's chest X-rays, and store a report and an overlay of each beside them.

    The server's credentials come from COVID_XRAY_DICOMWEB_USER and _SECRET_FILE; to another server
    than COVID_XRAY_DICOMWEB_URL they are not sent. What is no frontal chest X-ray is passed over.
    Exits with 1 where an X-ray has no answer, and with 3 where results are not stored.
    """
    configure_logging("warning", "console")
    from app import commands  # noqa: PLC0415 -- `serve` would wait for it

    uids = study, series
    work = commands.analyse(load_settings(), dicomweb, uids, store=not no_store, as_json=as_json)
    raise typer.Exit(asyncio.run(work))


@cli.command()
def bulk(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A file, a folder with all below it, a pattern ('**/*.dcm'), or a Parquet list "
            "with a column path; also at an address such as s3://bucket/folder.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the rows; a run in it goes on.")],
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, instead of this machine alone.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Engines in all; one a machine where not given.")
    ] = None,
) -> None:
    """Score many X-rays into Parquet, one row a file; exit with 1 where one has no answer."""
    configure_logging("info", "console")
    found = score_files(Asked(source, out, address, workers), load_settings())
    typer.echo(f"{found.files} files in {out}, {found.failed} of them without an answer.")
    if found.missed:
        typer.echo(f"{found.missed} came while it ran: give the same command again.", err=True)
    if found.failed or found.missed:
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
            try:
                found = _try(release, name, precision)
            except EngineUnavailable as error:
                found = f"not tried. {error}"
            typer.echo(f"{name:<11} {precision:<4} {found}")


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


def _end(*_: object) -> None:
    """End the process while nothing is served yet.

    At once: an exception gets lost where the signal comes in a destructor, or in one of the many
    callbacks of an import, and then the service would go on.
    """
    os._exit(0)


def _hang_up(*_: object) -> None:
    """End as SIGTERM does: by itself a terminal that closes would cut off what runs."""
    signal.raise_signal(signal.SIGTERM)


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
