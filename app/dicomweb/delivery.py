"""The outbox as the operator chose it, opened and closed with the service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from app.dicomweb.destination import Credentials
from app.dicomweb.outbox import Outbox, OutboxLimits


class Delivery(Protocol):
    """What the operator chose; `app.settings` tells what each means."""

    dicomweb_url: str | None
    dicomweb_user: str | None
    dicomweb_secret_file: Path | None
    dicomweb_timeout_s: float
    outbox_items: int
    outbox_bytes: int
    outbox_age_s: float
    outbox_close_s: float


@asynccontextmanager
async def open_outbox(chosen: Delivery) -> AsyncIterator[Outbox | None]:
    """Send results as long as the block runs; none where they go nowhere.

    Raises:
        CredentialsInvalid: What is secret cannot be read.
        DicomWebUnavailable: The URL is not one.
    """
    outbox = await asyncio.to_thread(_make, chosen)
    if outbox is None:
        yield None
        return
    outbox.start()
    try:
        yield outbox
    finally:
        await asyncio.to_thread(outbox.close)


def _make(chosen: Delivery) -> Outbox | None:
    if chosen.dicomweb_url is None:
        return None
    credentials = None
    if chosen.dicomweb_secret_file:
        credentials = Credentials(chosen.dicomweb_secret_file, chosen.dicomweb_user)
        credentials.authorization()  # a mistake ends the start, and not the first delivery
    # They take seconds to import, and the first image is not to wait for what writes its reports.
    from app.dicomweb.server import DicomWebServer  # noqa: PLC0415
    from app.reports import secondary_capture, sr  # noqa: F401, PLC0415

    server = DicomWebServer(chosen.dicomweb_url, credentials, chosen.dicomweb_timeout_s)
    limits = OutboxLimits(
        items=chosen.outbox_items,
        bytes=chosen.outbox_bytes,
        age_s=chosen.outbox_age_s,
        close_s=chosen.outbox_close_s,
    )
    return Outbox(server, limits)
