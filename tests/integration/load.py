"""Clients that do not give up: what becomes of their requests while servers come and go."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Self

import httpx

from tests.fakes import gray_png

CLIENTS = 8
PATIENCE_S = 60.0


class Load:
    """Clients that send one X-ray after another, and each again as long as it gets a 503.

    Args:
        url: Whom they ask.
        clients: How many at once.
        image: What they send; a small one where None.

    Attributes:
        met: How often each status or way to fail was met.
        versions: How often each version of the model answered.
        lost: Requests without an answer in the end.
    """

    def __init__(self, url: httpx.URL, clients: int = CLIENTS, image: bytes | None = None) -> None:
        self._url = url
        self._image = image or gray_png()
        self._clients = clients
        self._done = Event()
        self.met: Counter[object] = Counter()
        self.versions: Counter[int] = Counter()
        self.lost = 0

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._clients)
        self._running = [self._pool.submit(self._run) for _ in range(self._clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._pool.shutdown()
        for each in self._running:
            each.result()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while not self._done.is_set():
                self._ask(client)

    def _ask(self, client: httpx.Client) -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                response = client.post("/v1/predictions", files={"file": self._image})
            except httpx.TransportError as error:
                self.met[type(error).__name__] += 1
                break
            self.met[response.status_code] += 1
            if response.status_code == 200:
                self.versions[response.json()["model"]["version"]] += 1
                return
            if response.status_code != 503:
                break
            assert int(response.headers["retry-after"]) >= 1
            assert response.headers["content-type"] == "application/problem+json"
            time.sleep(0.1)
        self.lost += 1


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)
