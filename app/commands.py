"""What `covid-xray predict` and `analyse` do: files or a study in, lines out.

Apart from `cli`, since it imports much that `serve` has no need of before its release is loading.
"""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.dicomweb.destination import Credentials
from app.dicomweb.study import Analysis, analyse_all
from app.opening import open_service
from app.processor import available_cpus
from app.reading import AT_A_SERVER, Read, find_files, open_server, read_all, read_here
from app.settings import Settings, load_settings
from app.terminal import print_table, progress

if TYPE_CHECKING:  # it takes a second to import
    from app.dicomweb.server import DicomWebServer

NOT_STORED = 3
"""Exit code of `analyse` where results are lost."""


async def predict(
    words: list[str], address: str | None, key_file: Path | None, *, as_json: bool
) -> bool:
    """Read files and print what came of them; tell whether each has an answer.

    Args:
        words: Files, folders and patterns.
        address: Of the service to ask; they are read here where None.
        key_file: Holds the API key for it.
        as_json: Print a line of JSON a file.

    Raises:
        CovidXrayError: None of them can be read here, or at the address.
    """
    files = find_files(words)
    as_table = sys.stdout.isatty() and not as_json
    disturbs = sys.stdout.isatty() and as_json
    readings = []
    async with _open_reader(address, key_file) as (read, at_once):
        with progress(len(files), wanted=not disturbs) as advance:
            async for reading in read_all(files, read, at_once):
                readings.append(reading)
                advance()
                if not as_table:
                    typer.echo(reading.as_json() if as_json else reading.as_row())
    if as_table:
        print_table(readings)
    return all(reading.prediction for reading in readings)


async def analyse(
    settings: Settings,
    address: str | None,
    uids: tuple[str, str | None],
    *,
    store: bool,
    as_json: bool,
) -> int:
    """Analyse a study, print what came of each image, and give the exit code.

    Args:
        settings: What the operator chose.
        address: Of the DICOMweb server; the one of the settings where None.
        uids: Of the study, and of the one series to look at.
        store: Store the results beside the images.
        as_json: Print a line of JSON an image.

    Raises:
        CovidXrayError: There is no release, or the server does not tell what it has.
    """
    done = []
    server = _open_archive(settings, address)
    images = server.find_images(*uids)
    async with open_service(settings) as service:
        async for analysis in analyse_all(images, server, service, store=store):
            done.append(analysis)
            typer.echo(analysis.as_json() if as_json else analysis.as_row())
    return _judge(done)


def _open_archive(settings: Settings, address: str | None) -> "DicomWebServer":
    """Open the server at an address, or the one of the settings."""
    from app.dicomweb.server import DicomWebServer  # noqa: PLC0415 -- takes a second

    url = address or settings.dicomweb_url
    if not url:
        raise typer.BadParameter(
            "Expected it, or COVID_XRAY_DICOMWEB_URL; received neither.", param_hint="--dicomweb"
        )
    credentials = None
    if settings.dicomweb_secret_file and settings.dicomweb_url in {None, url}:
        credentials = Credentials(settings.dicomweb_secret_file, settings.dicomweb_user)
    return DicomWebServer(url, credentials, settings.dicomweb_timeout_s, settings.max_upload_bytes)


def _judge(done: Sequence[Analysis]) -> int:
    """Give the exit code, and say what is missing where it is not 0."""
    lost = sum(each.is_lost for each in done)
    unanswered = sum(each.prediction is None and not each.is_none_of_ours for each in done)
    if lost:
        typer.echo(
            f"covid-xray: Expected the server to store all results; received a refusal, or "
            f"nothing, for {lost} of {len(done)} images. Their results are kept nowhere: "
            "run this again.",
            err=True,
        )
        return NOT_STORED
    if unanswered or not any(each.prediction for each in done):
        typer.echo(
            "covid-xray: Expected an answer for each chest X-ray; received none for "
            f"{unanswered or 'any'} of {len(done)} images.",
            err=True,
        )
        return 1
    return 0


@asynccontextmanager
async def _open_reader(
    address: str | None, key_file: Path | None
) -> AsyncIterator[tuple[Read, int]]:
    """Open what reads files, and tell how many it reads at once."""
    if address:
        async with open_server(address, key_file) as read:
            yield read, AT_A_SERVER
    else:
        settings = load_settings()
        async with open_service(settings) as service:
            yield read_here(service), settings.threads or available_cpus()
