"""The release in `model_store/`, as it is served."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from app import cli
from app.engines import INT8, create_engine
from app.imaging import decode, to_model_input
from app.processor import native_precisions
from app.registry import check_golden, open_servable
from app.release import EngineName, Release
from app.routes import DESCRIPTION
from tests import fakes

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
MODELS = Path(__file__).parents[1] / "model_store" / fakes.NAME
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def release() -> Release:
    versions = [int(path.name) for path in MODELS.glob("[1-9]*") if path.is_dir()]
    if not versions:
        pytest.skip("there is no release in model_store")
    return open_servable(MODELS / str(max(versions)))


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_its_golden_answer_is_given_by_every_engine_in_every_precision(
    release: Release, name: EngineName
) -> None:
    pytest.importorskip(name)
    for precision in set(release.manifest.precisions[name]) & set(native_precisions()):
        check_golden(release, create_engine(release.path, name, precision))


def test_both_engines_answer_the_same_for_real_xrays(release: Release, shared: Path) -> None:
    pytest.importorskip("tensorflow")
    files = sorted((shared / "samples").glob("*.png"))
    assert files
    images = np.stack([to_model_input(decode(file.read_bytes()).pixels) for file in files])
    one, other = (
        create_engine(release.path, name).predict(images) for name in ("openvino", "tensorflow")
    )
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-3)
    np.testing.assert_allclose(one.acceptance, other.acceptance, atol=1e-3)
    np.testing.assert_allclose(one.heatmap, other.heatmap, atol=1e-2)
    np.testing.assert_allclose(one.probabilities.sum(axis=1), 1, atol=1e-5)


def test_verify_finds_it_good(release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    cli.verify(release.path)
    assert f"{fakes.NAME} version {release.manifest.version}" in capsys.readouterr().out


def test_the_documentation_says_what_it_calls_other_pneumonia(release: Release) -> None:
    found = [c for c in release.manifest.metrics if c.name == "nih-adult / Pneumonia"]
    share = f"{found[0].metrics['called_positive'].value:.0%} of"
    assert share in DESCRIPTION
    assert share in README


def test_the_readme_shows_an_answer_of_this_release(release: Release) -> None:
    shown = json.loads(re.findall(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[0])
    manifest = release.manifest
    assert shown["model"]["version"] == manifest.version
    assert shown["model"]["digest"] == release.digest
    assert shown["decision_threshold"] == manifest.decision.threshold
    assert shown["acceptance"]["threshold"] == manifest.acceptance.threshold
    assert f"model_store/{manifest.name}/{manifest.version}/MODEL_CARD.md" in README


def test_it_names_covid_first(release: Release) -> None:
    assert release.manifest.labels == fakes.LABELS


def test_it_is_small_enough_for_git(release: Release) -> None:
    sizes = {file: file.stat().st_size for file in release.path.rglob("*") if file.is_file()}
    quantised = sum(size for file, size in sizes.items() if file.stem == Path(INT8).stem)
    assert sum(sizes.values()) - quantised <= 70 * MEGABYTE
    assert sum(sizes.values()) <= 95 * MEGABYTE


def test_it_has_a_model_card(release: Release) -> None:
    assert "MODEL_CARD.md" in release.manifest.files
