import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from app.errors import InferenceFailed, NotReady, ReleaseInvalid, ReleaseNotFound
from app.registry import Registry, State, open_servable
from app.release import Precision
from tests import fakes
from tests.fakes import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def registry(tmp_path: Path, engine: FakeEngine) -> Registry:
    return Registry(tmp_path, fakes.NAME, lambda _: engine)


def test_the_newest_version_is_served_by_number_not_by_name(
    tmp_path: Path, registry: Registry
) -> None:
    for version in (9, 10):
        fakes.write_fake_release(tmp_path, version)
    assert registry.load().release.manifest.version == 10
    assert [(entry.version, entry.state) for entry in registry.entries] == [
        (10, State.SERVING),
        (9, State.AVAILABLE),
    ]


def test_a_pinned_version_is_served(tmp_path: Path, engine: FakeEngine) -> None:
    for version in (1, 2):
        fakes.write_fake_release(tmp_path, version)
    registry = Registry(tmp_path, fakes.NAME, lambda _: engine, version=1)
    assert registry.load().release.manifest.version == 1
    assert registry.entry(2).state is State.AVAILABLE


def test_what_is_no_version_is_passed_over(tmp_path: Path, registry: Registry) -> None:
    fakes.write_fake_release(tmp_path, 1)
    for name in ("0", "02", "latest", "3.tmp", ".4"):
        (tmp_path / fakes.NAME / name).mkdir()
    (tmp_path / fakes.NAME / "5").touch()
    registry.load()
    assert [entry.version for entry in registry.entries] == [1]


def test_an_empty_store_is_not_found(registry: Registry) -> None:
    with pytest.raises(ReleaseNotFound, match="a release in"):
        registry.load()


def test_a_pinned_version_that_is_missing_is_not_found(tmp_path: Path, engine: FakeEngine) -> None:
    fakes.write_fake_release(tmp_path, 1)
    with pytest.raises(ReleaseNotFound):
        Registry(tmp_path, fakes.NAME, lambda _: engine, version=2).load()


def test_a_version_can_be_pinned_by_a_file_beside_the_versions(
    tmp_path: Path, registry: Registry
) -> None:
    for version in (1, 2):
        fakes.write_fake_release(tmp_path, version)
    (tmp_path / fakes.NAME / "pin").write_text("1\n")
    assert registry.load().release.manifest.version == 1


@pytest.mark.parametrize("text", ["", "latest", "-1", "0", "7", "9" * 5000])
def test_with_a_pin_that_names_no_version_nothing_is_served(
    tmp_path: Path, registry: Registry, text: str
) -> None:
    fakes.write_fake_release(tmp_path, 1)
    (tmp_path / fakes.NAME / "pin").write_text(text)
    with pytest.raises(ReleaseNotFound):
        registry.load()


def test_with_a_pin_that_cannot_be_read_nothing_is_served(
    tmp_path: Path, registry: Registry
) -> None:
    fakes.write_fake_release(tmp_path, 1)
    (tmp_path / fakes.NAME / "pin").mkdir()
    with pytest.raises(ReleaseNotFound, match="Is a directory"):
        registry.load()


@pytest.mark.parametrize("fault", ["hash", "golden", "empty"])
def test_where_the_newest_versions_are_bad_the_newest_good_one_is_served_and_that_is_told(
    tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    for version in (1, 2, 3, 4):
        folder = fakes.write_fake_release(tmp_path, version)
    (tmp_path / fakes.NAME / "3" / "saved_model.pb").write_bytes(b"changed")
    if fault == "hash":
        (folder / "saved_model.pb").write_bytes(b"changed")
    elif fault == "golden":
        right = fakes.manifest_content(folder)["golden"]
        fakes.write_manifest(folder, golden=right | {"acceptance": 0.5})
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    assert registry.load().release.manifest.version == 2
    assert [(entry.version, entry.state) for entry in registry.entries] == [
        (4, State.REFUSED),
        (3, State.REFUSED),
        (2, State.SERVING),
        (1, State.AVAILABLE),
    ]
    assert registry.entry(4).reason
    assert registry.passed_over == 2
    assert caplog.text.count("Version 4 is refused. Expected") == 1
    assert "Version 2 answers instead of 4" in caplog.text


def test_where_all_versions_are_bad_it_is_told_what_the_newest_lacks(
    tmp_path: Path, registry: Registry
) -> None:
    for version in (1, 2):
        folder = fakes.write_fake_release(tmp_path, version)
        (folder / "saved_model.pb").write_bytes(b"changed")
    with pytest.raises(ReleaseInvalid, match=r"2/saved_model\.pb with SHA-256"):
        registry.load()


@pytest.mark.parametrize("by", ["file", "setting"])
def test_a_broken_version_that_is_pinned_is_not_passed_over(
    tmp_path: Path, engine: FakeEngine, by: str
) -> None:
    fakes.write_fake_release(tmp_path, 1)
    pinned = fakes.write_fake_release(tmp_path, 2)
    (pinned / "saved_model.pb").write_bytes(b"changed")
    if by == "file":
        (tmp_path / fakes.NAME / "pin").write_text("2")
    registry = Registry(tmp_path, fakes.NAME, lambda _: engine, 2 if by == "setting" else None)
    with pytest.raises(ReleaseInvalid, match=r"2/saved_model\.pb with SHA-256"):
        registry.load()


def test_a_version_whose_plot_cannot_be_read_is_refused_and_another_served(
    tmp_path: Path, registry: Registry
) -> None:
    fakes.write_fake_release(tmp_path, 2)
    plot = fakes.write_fake_release(tmp_path, 1) / "roc.png"
    plot.touch()
    with fakes.unreadable(plot):
        registry.load()
    assert registry.entry(1).reason == (
        "release-invalid: Expected files that can be read at 1; "
        "received 1/roc.png: Permission denied."
    )
    assert registry.passed_over == 0


def test_a_broken_version_that_is_not_served_is_refused_with_a_reason_without_paths(
    tmp_path: Path, registry: Registry
) -> None:
    broken = fakes.write_fake_release(tmp_path, 1)
    (broken / "saved_model.pb").write_bytes(b"changed")
    fakes.write_fake_release(tmp_path, 2)
    registry.load()
    entry = registry.entry(1)
    assert entry.state is State.REFUSED
    assert entry.reason is not None
    assert entry.reason.startswith("release-invalid: Expected 1/saved_model.pb with SHA-256")
    assert str(tmp_path) not in entry.reason


def test_another_resize_rule_is_refused(tmp_path: Path, registry: Registry) -> None:
    fakes.write_fake_release(tmp_path, input={"resize": "crop-224-v1"})
    with pytest.raises(ReleaseInvalid, match="resize rule"):
        registry.load()


def test_another_models_release_is_refused(tmp_path: Path) -> None:
    folder = fakes.write_fake_release(tmp_path)
    other = shutil.copytree(folder, tmp_path / "other" / "1")
    with pytest.raises(ReleaseInvalid, match="model other in the manifest"):
        open_servable(other)


@pytest.mark.parametrize(
    ("golden", "what"),
    [
        ({"probabilities": (0.9, 0.1)}, "probability 0.9000"),
        ({"acceptance": 0.5}, "acceptance 0.5000"),
        ({"heatmap_mean": 0.1}, "heatmap mean 0.1000"),
    ],
)
def test_another_golden_answer_is_refused_and_its_engine_closed(
    tmp_path: Path, registry: Registry, engine: FakeEngine, golden: dict[str, object], what: str
) -> None:
    folder = fakes.write_fake_release(tmp_path)
    right = fakes.manifest_content(folder)["golden"]
    fakes.write_manifest(folder, golden=right | golden)
    with pytest.raises(ReleaseInvalid, match=what):
        registry.load()
    assert engine.closed


@pytest.mark.parametrize(("precision", "served"), [("int8", True), ("bf16", False)])
def test_a_quantised_network_has_a_golden_answer_of_its_own(
    tmp_path: Path, registry: Registry, engine: FakeEngine, precision: Precision, served: bool
) -> None:
    folder = fakes.write_fake_release(tmp_path)
    right = fakes.manifest_content(folder)["golden"]
    own = {key: right[key] for key in ("probabilities", "acceptance", "heatmap_mean")}
    fakes.write_manifest(folder, golden=right | {"acceptance": 0.5, "int8": own})
    engine.precision = precision
    with nullcontext() if served else pytest.raises(ReleaseInvalid, match=r"acceptance 0\.5"):
        registry.load()


@pytest.mark.parametrize(("precision", "served"), [("f32", False), ("bf16", True)])
def test_an_engine_in_f32_keeps_to_the_tighter_tolerance(
    tmp_path: Path, registry: Registry, engine: FakeEngine, precision: Precision, served: bool
) -> None:
    folder = fakes.write_fake_release(tmp_path)
    right = fakes.manifest_content(folder)["golden"]
    wrong = {"acceptance": right["acceptance"] - 0.01, "reduced_tolerance": 0.02}
    fakes.write_manifest(folder, golden=right | {"tolerance": 0.001} | wrong)
    engine.precision = precision
    with nullcontext() if served else pytest.raises(ReleaseInvalid, match="acceptance"):
        registry.load()


def test_an_engine_that_fails_on_the_phantom_is_not_served(
    tmp_path: Path, registry: Registry, engine: FakeEngine
) -> None:
    fakes.write_fake_release(tmp_path)
    engine.failing = True
    with pytest.raises(InferenceFailed):
        registry.load()
    with pytest.raises(NotReady):
        _ = registry.serving


def test_a_loaded_release_is_warm(tmp_path: Path, registry: Registry, engine: FakeEngine) -> None:
    fakes.write_fake_release(tmp_path)
    assert registry.load().inference_s >= 0
    assert engine.calls == 3


def test_after_closing_nothing_is_served(
    tmp_path: Path, registry: Registry, engine: FakeEngine
) -> None:
    fakes.write_fake_release(tmp_path)
    registry.load()
    registry.close()
    registry.close()
    assert engine.closed
    with pytest.raises(NotReady):
        _ = registry.serving


def test_a_version_that_is_not_there_is_not_found(tmp_path: Path, registry: Registry) -> None:
    fakes.write_fake_release(tmp_path)
    registry.load()
    with pytest.raises(ReleaseNotFound):
        registry.entry(2)
