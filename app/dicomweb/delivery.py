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

    @property
    def dicomweb_url(self) -> str | None: ...  # noqa: D102 -- see above
    @property
    def dicomweb_user(self) -> str | None: ...  # noqa: D102 -- see above
    @property
    def dicomweb_secret_file(self) -> Path | None: ...  # noqa: D102 -- see above
    @property
    def dicomweb_timeout_s(self) -> float: ...  # noqa: D102 -- see above
    @property
    def outbox_items(self) -> int: ...  # noqa: D102 -- see above
    @property
    def outbox_bytes(self) -> int: ...  # noqa: D102 -- see above
    @property
    def outbox_age_s(self) -> float: ...  # noqa: D102 -- see above
    @property
    def outbox_close_s(self) -> float: ...  # noqa: D102 -- see above


@asynccontextmanager
async def open_outbox(chosen: Delivery) -> AsyncIterator[Outbox | None]:
    """Send results as long as the block runs; none where they go nowhere.

    Raises:
        CredentialsInvalid: What is secret cannot be read.
        DicomWebUnavailable: The URL is not one.
    """
    outbox = _make(chosen)
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
    from app.dicomweb.server import DicomWebServer  # noqa: PLC0415 -- takes a second to import

    credentials = None
    if chosen.dicomweb_secret_file:
        credentials = Credentials(chosen.dicomweb_secret_file, chosen.dicomweb_user)
        credentials.authorization()  # a mistake ends the start, and not the first delivery
    server = DicomWebServer(chosen.dicomweb_url, credentials, chosen.dicomweb_timeout_s)
    limits = OutboxLimits(
        items=chosen.outbox_items,
        bytes=chosen.outbox_bytes,
        age_s=chosen.outbox_age_s,
        close_s=chosen.outbox_close_s,
    )
    return Outbox(server, limits)
