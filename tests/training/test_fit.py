import json
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.integration.server import free_port
from tests.training.fit_worker import TRAIN, VALIDATION, start
from training import fit
from training.config import Augment, Config, Stage
from training.model import build


def weights(network: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in network.variables]


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
def undisturbed(tmp_path_factory: pytest.TempPathFactory, backbone_file: Path) -> Path:
    """A folder of a recipe, `config.json`, and what one process made of it, `whole`."""
    head = Stage(
        name="head", train_from="head", epochs=3, size=32, batch_size=8, learning_rate=1e-3
    )
    change = {
        "name": "tune",
        "train_from": "conv5_block3_3_conv",
        "learning_rate": 1e-4,
        "epochs": 2,
        "augment": Augment(flip=True, frame=0.5, noise=0.1),
    }
    recipe = Config(
        seed=3, backbone=str(backbone_file), stages=(head, head.model_copy(update=change))
    )
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "config.json").write_text(recipe.model_dump_json())
    assert finished(start(folder, folder / "whole")) == 0
    return folder


@pytest.mark.timeout(900)  # as the next
def test_a_run_killed_at_any_moment_ends_in_the_same_metrics(
    undisturbed: Path, tmp_path: Path
) -> None:
    whole, broken = undisturbed / "whole", tmp_path / "broken"
    # Killed in the head's epochs, where they are short, and then in the fine-tuning.
    for sign in ("1-head/epoch-*.weights.h5", "2-tune/epoch-*.weights.h5"):
        worker = start(undisturbed, broken)
        until(partial(appeared, broken, sign), worker)
        worker.kill()
        assert finished(worker) == -signal.SIGKILL
    assert not (broken / "2-tune" / "final.weights.h5").exists()
    assert finished(start(undisturbed, broken)) == 0
    assert histories(broken) == histories(whole)
    assert list((whole / "tensorboard").rglob("events.out.tfevents.*"))


@pytest.mark.timeout(900)  # four processes of TensorFlow, on cores that may be busy
def test_two_machines_of_which_one_is_killed_end_in_the_weights_of_one(
    undisturbed: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    chief, other = run_together(undisturbed, shared)
    until(partial(appeared, shared, "1-head/epoch-*.weights.h5"), chief)
    other.kill()
    assert [finished(other), finished(chief)] == [-signal.SIGKILL, 1]
    assert "expected every worker until the end" in (undisturbed / "worker.log").read_text().lower()
    assert not (shared / "2-tune" / "final.weights.h5").exists()

    assert [finished(worker) for worker in run_together(undisturbed, shared)] == [0, 0]
    network = build(2, "none")
    for name in ("1-head/final.weights.h5", "2-tune/final.weights.h5"):
        network.load_weights(undisturbed / "whole" / name)
        one = weights(network)
        network.load_weights(shared / name)
        for a, b in zip(one, weights(network), strict=True):
            assert np.abs(a - b).max() <= 1e-4
    wanted, got = (histories(folder) for folder in (undisturbed / "whole", shared))
    for stage, again in zip(wanted, got, strict=True):
        for epoch, measured in zip(stage, again, strict=True):
            assert measured == pytest.approx(epoch, abs=1e-3)


def run_together(folder: Path, work: Path) -> list[BaseProcess]:
    """Start two workers, the chief first."""
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    return [start(folder, work, cluster={"cluster": cluster, "task": task}) for task in tasks]


def appeared(folder: Path, sign: str) -> bool:
    return any(folder.glob(sign))


def histories(folder: Path) -> list[list[dict[str, float]]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/history.json"))]


def finished(worker: BaseProcess) -> int | None:
    worker.join()  # the test has its own limit
    return worker.exitcode


def until(happens: Callable[[], bool], worker: BaseProcess) -> None:
    end = time.monotonic() + 600
    while not happens():
        assert worker.is_alive(), "the worker ended before it could be killed"
        assert time.monotonic() < end, "the worker did not come so far"
        time.sleep(0.002)


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


def test_several_devices_train_through_the_same_path(tmp_path: Path, config: Config) -> None:
    """Two virtual processors stand for two GPUs; each gets half of a batch."""
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert finished(start(tmp_path, tmp_path / "two", devices=2)) == 0
    assert "replicas: 2" in (tmp_path / "worker.log").read_text()
    one = fit.fit(tmp_path / "one", config, TRAIN, VALIDATION)
    two = build(2, "none")
    two.load_weights(tmp_path / "two" / "1-head" / "final.weights.h5")
    for a, b in zip(weights(one), weights(two), strict=True):
        assert np.abs(a - b).max() <= 1e-4
