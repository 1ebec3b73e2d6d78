from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings
from tests import fakes
from tests.app.calls import Open, asking
from tests.fakes import FakeEngine


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.may_answer.set()


@pytest.fixture
def app_of(tmp_path: Path, engine: FakeEngine) -> Callable[..., FastAPI]:
    def app_of(**settings: object) -> FastAPI:
        if not (tmp_path / fakes.NAME).exists():
            fakes.write_fake_release(tmp_path)
        chosen = {"model_store": tmp_path, "threads": 1, "max_upload_bytes": 2_000_000, **settings}
        return create_app(Settings.model_validate(chosen), fakes.loader(engine))

    return app_of


@pytest.fixture
def opened(app_of: Callable[..., FastAPI]) -> Open:
    @asynccontextmanager
    async def opened(**settings: object) -> AsyncIterator[httpx.AsyncClient]:
        app = app_of(**settings)
        async with asking(app, raises=False) as client:
            yield client

    return opened


@pytest.fixture
async def client(opened: Open) -> AsyncIterator[httpx.AsyncClient]:
    async with opened() as client:
        yield client
