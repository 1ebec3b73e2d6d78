import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from app.errors import InferenceFailed, NotReady
from app.registry import Registry, State
from app.release import Release
from tests import fakes
from tests.fakes import FakeEngine


class Engines:
    """Makes an engine for each release, and remembers it."""

    def __init__(self) -> None:
        self.made: list[FakeEngine] = []
        self.failing: set[int] = set()

    def __call__(self, release: Release) -> FakeEngine:
        engine = FakeEngine()
        engine.failing = release.manifest.version in self.failing
        self.made.append(engine)
        return engine


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
def registry(tmp_path: Path, engines: Engines) -> Iterator[Registry]:
    """Version 1 answers."""
    fakes.write_fake_release(tmp_path, 1)
    registry = Registry(tmp_path, fakes.NAME, engines)
    registry.load()
    yield registry
    registry.close()


def version(registry: Registry) -> int:
    return registry.serving.release.manifest.version


def states(registry: Registry) -> dict[int, State]:
    return {entry.version: entry.state for entry in registry.entries}


def test_a_new_version_takes_the_place_of_the_old_whose_engine_is_closed(
    tmp_path: Path, registry: Registry, engines: Engines
) -> None:
    fakes.write_fake_release(tmp_path, 2)
    registry.refresh()
    assert version(registry) == 2
    assert states(registry) == {1: State.AVAILABLE, 2: State.SERVING}
    assert [engine.closed for engine in engines.made] == [True, False]


def test_nothing_is_loaded_twice(registry: Registry, engines: Engines) -> None:
    registry.refresh()
    registry.refresh()
    assert len(engines.made) == 1


def test_who_uses_a_release_keeps_its_engine_open_while_it_is_replaced(
    tmp_path: Path, registry: Registry, engines: Engines
) -> None:
    with registry.lease() as held:
        fakes.write_fake_release(tmp_path, 2)
        registry.refresh()
        assert held.release.manifest.version == 1
        assert not engines.made[0].closed
        with registry.lease() as new:
            assert new.release.manifest.version == 2
    assert engines.made[0].closed
    assert not engines.made[1].closed


def test_closing_waits_for_nobody_but_leaves_the_engine_to_who_uses_it(
    registry: Registry, engines: Engines
) -> None:
    with registry.lease():
        registry.close()
        assert not engines.made[0].closed
        with pytest.raises(NotReady), registry.lease():
            pass
    assert engines.made[0].closed
    with pytest.raises(NotReady):
        registry.refresh()


@pytest.mark.parametrize("fault", ["hash", "golden", "engine", "manifest"])
def test_a_bad_version_is_refused_with_a_reason_and_the_old_one_goes_on(
    tmp_path: Path, registry: Registry, engines: Engines, fault: str
) -> None:
    folder = fakes.write_fake_release(tmp_path, 2)
    if fault == "hash":
        (folder / "saved_model.pb").write_bytes(b"changed")
    elif fault == "golden":
        right = fakes.manifest_content(folder)["golden"]
        fakes.write_manifest(folder, golden=right | {"acceptance": 0.5})
    elif fault == "engine":
        engines.failing.add(2)
    else:
        (folder / "manifest.json").write_text("{}")
    registry.refresh()
    assert version(registry) == 1
    assert states(registry) == {1: State.SERVING, 2: State.REFUSED}
    assert registry.entry(2).reason
    assert not engines.made[0].closed
    assert all(engine.closed for engine in engines.made[1:])


def test_a_refused_version_is_tried_again_only_when_its_files_change(
    tmp_path: Path, registry: Registry, engines: Engines
) -> None:
    engines.failing.add(2)
    folder = fakes.write_fake_release(tmp_path, 2)
    registry.refresh()
    registry.refresh()
    assert len(engines.made) == 2
    engines.failing.clear()
    (folder / "notes.txt").write_text("mended")
    fakes.write_manifest(folder)
    registry.refresh()
    assert version(registry) == 2


def test_a_version_that_is_still_being_copied_is_served_when_it_is_whole(
    tmp_path: Path, registry: Registry
) -> None:
    whole = fakes.write_fake_release(tmp_path / "elsewhere", 2)
    part = tmp_path / fakes.NAME / "2"
    part.mkdir()
    shutil.copy(whole / "manifest.json", part)
    registry.refresh()
    assert states(registry)[2] is State.REFUSED
    shutil.copy(whole / "saved_model.pb", part)
    registry.refresh()
    assert version(registry) == 2


def test_a_pin_rolls_back_and_its_removal_forward(tmp_path: Path, registry: Registry) -> None:
    fakes.write_fake_release(tmp_path, 2)
    registry.refresh()
    pin = tmp_path / fakes.NAME / "pin"
    pin.write_text("1")
    registry.refresh()
    assert version(registry) == 1
    pin.unlink()
    registry.refresh()
    assert version(registry) == 2


@pytest.mark.parametrize("text", ["", "latest", "-1", "0", "1 2", "9" * 5000])
def test_a_pin_that_names_no_version_changes_nothing_and_is_told_once(
    tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    fakes.write_fake_release(tmp_path, 2)
    pin = tmp_path / fakes.NAME / "pin"
    pin.write_text(text)
    registry.refresh()
    registry.refresh()
    assert states(registry) == {1: State.SERVING, 2: State.AVAILABLE}
    assert registry.passed_over == 1
    (record,) = caplog.records
    assert record.exc_info is None
    assert record.getMessage().startswith("The pin is passed over. Expected the number")
    pin.unlink()
    registry.refresh()
    assert version(registry) == 2
    assert registry.passed_over == 0


def test_a_pinned_version_that_is_not_there_is_listed_as_refused_and_told_once(
    tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / fakes.NAME / "pin").write_text("7")
    registry.refresh()
    registry.refresh()
    assert states(registry) == {1: State.SERVING, 7: State.REFUSED}
    assert registry.entry(7).reason == (
        "release-not-found: Expected a release with a manifest.json at 7; received none."
    )
    assert registry.passed_over == 1
    assert len(caplog.records) == 1
    fakes.write_fake_release(tmp_path, 7)
    registry.refresh()
    assert version(registry) == 7
    assert registry.passed_over == 0


def test_a_version_that_cannot_be_read_keeps_no_better_one_from_being_served(
    tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with fakes.unreadable(fakes.write_fake_release(tmp_path, 2) / "saved_model.pb"):
        registry.refresh()
        assert (version(registry), registry.passed_over) == (1, 1)
        fakes.write_fake_release(tmp_path, 3)
        registry.refresh()
        assert states(registry) == {1: State.AVAILABLE, 2: State.REFUSED, 3: State.SERVING}
        assert registry.passed_over == 0
    assert caplog.text.count("Version 2 is refused.") == 1


def test_a_version_is_tried_again_when_its_files_may_be_read(
    tmp_path: Path, registry: Registry
) -> None:
    with fakes.unreadable(fakes.write_fake_release(tmp_path, 2) / "saved_model.pb"):
        registry.refresh()
    registry.refresh()
    assert version(registry) == 2


def test_a_newest_version_that_was_refused_at_the_start_is_served_when_it_is_mended(
    tmp_path: Path, engines: Engines
) -> None:
    fakes.write_fake_release(tmp_path, 1)
    folder = fakes.write_fake_release(tmp_path, 2)
    (folder / "saved_model.pb").write_bytes(b"changed")
    registry = Registry(tmp_path, fakes.NAME, engines)
    registry.load()
    registry.refresh()
    assert (version(registry), registry.passed_over) == (1, 1)
    assert len(engines.made) == 1
    fakes.write_manifest(folder)
    registry.refresh()
    assert (version(registry), registry.passed_over) == (2, 0)
    registry.close()


def test_the_version_that_answers_goes_on_where_its_new_files_are_refused(
    tmp_path: Path, registry: Registry
) -> None:
    folder = fakes.write_fake_release(tmp_path, 2)
    registry.refresh()
    right = fakes.manifest_content(folder)["golden"]
    fakes.write_manifest(folder, golden=right | {"acceptance": 0.5})
    registry.refresh()
    assert (version(registry), registry.passed_over) == (2, 1)
    assert states(registry) == {1: State.AVAILABLE, 2: State.REFUSED}


def test_when_the_version_that_answers_is_removed_the_next_one_takes_its_place(
    tmp_path: Path, registry: Registry
) -> None:
    fakes.write_fake_release(tmp_path, 2)
    registry.refresh()
    shutil.rmtree(tmp_path / fakes.NAME / "2")
    registry.refresh()
    assert version(registry) == 1
    assert states(registry) == {1: State.SERVING}


def test_a_release_whose_files_are_gone_or_spoiled_goes_on_answering(
    tmp_path: Path, registry: Registry
) -> None:
    fakes.write_fake_release(tmp_path, 2)
    registry.refresh()
    (tmp_path / fakes.NAME / "2" / "saved_model.pb").write_bytes(b"spoiled")
    registry.refresh()
    assert version(registry) == 2
    assert states(registry) == {1: State.AVAILABLE, 2: State.REFUSED}
    assert registry.passed_over == 1
    shutil.rmtree(tmp_path / fakes.NAME)
    registry.refresh()
    assert version(registry) == 2


def test_under_load_no_user_meets_a_closed_engine(tmp_path: Path, registry: Registry) -> None:
    done = Event()
    failures: list[InferenceFailed] = []

    def use() -> None:
        while not done.is_set():
            with registry.lease() as serving:
                engine = serving.engine
                assert isinstance(engine, FakeEngine)
                if engine.closed:
                    failures.append(InferenceFailed("an open engine", "a closed one"))

    threads = [Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2, 12):
        fakes.write_fake_release(tmp_path, number)
        registry.refresh()
    done.set()
    for thread in threads:
        thread.join()
    assert version(registry) == 11
    assert not failures
