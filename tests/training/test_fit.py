import json
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.integration.server import free_port
from tests.training.fit_worker import TRAIN, VALIDATION, start
from tests.training.small_network import TUNED
from training import fit
from training.config import Augment, Config, Stage


def weights(network: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in network.variables]


@pytest.mark.usefixtures("small_network")
def test_cached_features_and_the_plain_loop_end_in_the_same_weights(
    tmp_path: Path, config: Config
) -> None:
    plain = fit.fit(
        tmp_path / "plain", config.model_copy(update={"cache_features": False}), TRAIN, VALIDATION
    )
    cached = fit.fit(tmp_path / "cached", config, TRAIN, VALIDATION)
    assert (tmp_path / "cached" / "1-head" / "features.npz").exists()
    assert not (tmp_path / "plain" / "1-head" / "features.npz").exists()
    for a, b in zip(weights(plain), weights(cached), strict=True):
        assert np.abs(a - b).max() <= 1e-5


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a recipe, `config.json`, and what one process made of it, `whole`."""
    head = Stage(
        name="head", train_from="head", epochs=3, size=32, batch_size=8, learning_rate=1e-3
    )
    change = {
        "name": "tune",
        "train_from": TUNED,
        "augment": Augment(flip=True, frame=0.5, noise=0.1),
    }
    folder = tmp_path_factory.mktemp("undisturbed")
    pretrained = folder / "backbone"  # there, but empty: the small network has its seed's weights
    pretrained.touch()
    stages = (head, head.model_copy(update=change))
    recipe = Config(seed=3, backbone=str(pretrained), stages=stages)
    (folder / "config.json").write_text(recipe.model_dump_json())
    assert ended(start(folder, folder / "whole")) == [0]
    return folder


def test_a_run_killed_at_any_moment_ends_in_the_same_weights(
    undisturbed: Path, tmp_path: Path
) -> None:
    whole, broken = undisturbed / "whole", tmp_path / "broken"
    # In the head's epochs, where features are cached, and in the fine-tuning, at each kind of file.
    for file in ("1-head/epoch-0002.weights.h5", "2-tune/history.json", f"2-tune/{fit.FINAL}"):
        assert ended(start(undisturbed, broken, killed_at=file)) == [-signal.SIGKILL]
        assert not (broken / file).exists()
    assert ended(start(undisturbed, broken)) == [0]
    assert histories(broken) == histories(whole)
    assert difference(broken, whole) == 0
    assert list((whole / "tensorboard").rglob("events.out.tfevents.*"))


def test_two_machines_end_in_the_weights_of_one_also_where_one_is_killed(
    undisturbed: Path, tmp_path: Path
) -> None:
    pair, broken = tmp_path / "pair", tmp_path / "broken"
    machines = cluster()
    assert ended(*together(undisturbed, pair, machines)) == [0, 0]
    assert difference(pair, undisturbed / "whole") <= 1e-5  # sums come in another order
    for one, two in zip(histories(undisturbed / "whole"), histories(pair), strict=True):
        for epoch, again in zip(one, two, strict=True):
            assert again == pytest.approx(epoch, abs=1e-4)

    killed = together(undisturbed, broken, machines, killed_at="2-tune/epoch-0002.weights.h5")
    assert ended(*killed) == [1, -signal.SIGKILL]
    assert "Expected every worker until the end" in (undisturbed / "worker.log").read_text()
    assert (broken / "2-tune" / "epoch-0002.weights.h5").exists()
    assert not (broken / "2-tune" / fit.FINAL).exists()
    assert ended(*together(undisturbed, broken, machines)) == [0, 0]
    assert histories(broken) == histories(pair)
    assert difference(broken, pair) == 0


def test_several_devices_train_through_the_same_path(undisturbed: Path, tmp_path: Path) -> None:
    """Two virtual processors stand for two GPUs; each gets half of a batch."""
    assert ended(start(undisturbed, tmp_path / "two", devices=2)) == [0]
    assert "replicas: 2" in (undisturbed / "worker.log").read_text()
    assert difference(tmp_path / "two", undisturbed / "whole") <= 1e-5


def cluster() -> dict[str, list[str]]:
    return {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}


def together(
    folder: Path, work: Path, machines: dict[str, list[str]], killed_at: str = ""
) -> list[BaseProcess]:
    """Start two workers, the chief first; the other may be killed."""
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    return [
        start(folder, work, cluster={"cluster": machines, "task": task}, killed_at=end)
        for task, end in zip(tasks, ("", killed_at), strict=True)
    ]


def ended(*processes: BaseProcess) -> list[int | None]:
    """Wait for them, and give their exit codes; None is one that hangs."""
    end = time.monotonic() + 100  # cores may be busy
    for process in processes:
        process.join(max(0, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def histories(folder: Path) -> list[list[dict[str, float]]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/history.json"))]


def difference(folder: Path, other: Path) -> float:
    """Find the largest between two fits' weights and optimizers, at the end of every stage."""
    files = sorted(path.relative_to(other) for path in other.glob("*/*.weights.h5"))
    assert len(files) == 4
    assert files == sorted(path.relative_to(folder) for path in folder.glob("*/*.weights.h5"))
    pairs = [(arrays(folder / file), arrays(other / file)) for file in files]
    assert all(one.keys() == two.keys() and len(one) > 4 for one, two in pairs)
    return max(
        float(np.abs(one[name].astype(float) - two[name].astype(float)).max())
        for one, two in pairs
        for name in one
    )


def arrays(file: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(file) as opened:
        opened.visititems(
            lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {})
        )
    return found


@pytest.mark.usefixtures("small_network")
def test_a_finished_run_is_not_trained_again(tmp_path: Path, config: Config) -> None:
    first = fit.fit(tmp_path, config, TRAIN, VALIDATION)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    second = fit.fit(tmp_path, config, TRAIN, VALIDATION)
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    for a, b in zip(weights(first), weights(second), strict=True):
        assert np.array_equal(a, b)


def test_the_learning_rate_warms_up_and_falls(stage: Callable[..., Stage]) -> None:
    rules = stage(schedule="cosine", warmup_epochs=1, epochs=4, learning_rate=1e-2)
    schedule: Any = fit._learning_rate(rules, steps=10)  # noqa: SLF001 -- it is what is tested
    rates = [float(schedule(step)) for step in range(41)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[10] == pytest.approx(1e-2)
    assert rates[40] == pytest.approx(0, abs=1e-8)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.fixture
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _kind: [])


@pytest.mark.usefixtures("_without_gpu")
@pytest.mark.parametrize(
    "case",
    [("mixed_bfloat16", "f32", True), ("mixed_bfloat16", "bf16", False), ("float32", "f32", False)],
    ids=str,
)
def test_who_trains_in_what_the_processor_only_emulates_is_told(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    case: tuple[str, str, bool],
) -> None:
    precision, native, warns = case
    monkeypatch.setattr(fit, "native_precisions", lambda: (native,))
    fit.warn_of_emulation(config.model_copy(update={"precision": precision}))
    assert ("bfloat16" in caplog.text) is warns
