from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.config import Config, Stage

pytest.importorskip("keras", reason="training needs the extra `train`")

import keras

from tests.training.small_network import put_in_place


@pytest.fixture(autouse=True)
def _fresh_keras() -> Iterator[None]:
    """Leave no precision and no layer names to the next test."""
    yield
    keras.mixed_precision.set_global_policy("float32")
    keras.backend.clear_session()


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit a small network in place of ResNet50."""
    put_in_place(monkeypatch.setattr)


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


def write_backbone(folder: Path) -> Path:
    """Write a Keras weights file of ResNet50 without its top, of seeded random weights."""
    keras.utils.set_random_seed(7)
    network = keras.applications.ResNet50(include_top=False, weights=None)
    path = folder / "resnet50.weights.h5"
    network.save_weights(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of 16 drawings for each label; those called COVID-19 are brighter."""
    folder = tmp_path / "data"
    draw(folder / "COVID-19", 16, brightness=90)
    draw(folder / "Normal", 16, brightness=0)
    return folder


def draw(folder: Path, count: int, brightness: int, seed: int = 3) -> None:
    """Write PNG files of smooth noise, no two alike."""
    rng = np.random.default_rng(seed + brightness)
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 120, (14, 14), np.uint8)
        smooth = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
        pixels = np.clip(np.asarray(smooth).astype(int) + brightness, 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")


@pytest.fixture
def stage() -> Callable[..., Stage]:
    """Make a small stage."""
    defaults = {
        "name": "head",
        "train_from": "head",
        "epochs": 2,
        "size": 32,
        "batch_size": 8,
        "learning_rate": 1e-3,
    }
    return lambda **changes: Stage(**{**defaults, **changes})


@pytest.fixture
def config(stage: Callable[..., Stage], backbone_file: Path) -> Config:
    """A recipe of one head stage on a backbone file."""
    return Config(seed=3, backbone=str(backbone_file), stages=(stage(),))
