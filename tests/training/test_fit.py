import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from training import fit
from training.config import Config, Stage
from training.fit import Examples
from training.model import build

WORKER = Path(__file__).parent / "fit_worker.py"


def examples(count: int, seed: int) -> Examples:
    """Noise; that of the first label is brighter."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 120, (count, 224, 224, 1), np.uint8)
    pixels[labels == 0] += 90
    return Examples(pixels, np.eye(2, dtype=np.float32)[labels])


TRAIN, VALIDATION = examples(24, 1), examples(8, 2)


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


def test_a_run_killed_at_any_moment_ends_in_the_same_metrics(
    tmp_path: Path, config: Config, stage: Callable[..., Stage]
) -> None:
    recipe = config.model_copy(
        update={
            "stages": (
                stage(epochs=3),
                stage(name="tune", train_from="conv5_block3_3_conv", learning_rate=1e-4),
            )
        }
    )
    (tmp_path / "config.json").write_text(recipe.model_dump_json())
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_worker(tmp_path, whole).wait()
    # Killed in the head's epochs, where they are short, and then in the fine-tuning.
    for sign in ("1-head/epoch-*.weights.h5", "2-tune/epoch-*.weights.h5"):
        worker = run_worker(tmp_path, broken)
        until(partial(appeared, broken, sign), worker)
        worker.send_signal(signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL
    assert not (broken / "2-tune" / "final.weights.h5").exists()
    assert run_worker(tmp_path, broken).wait() == 0
    assert histories(broken) == histories(whole)
    assert list((whole / "tensorboard").rglob("events.out.tfevents.*"))


def appeared(folder: Path, sign: str) -> bool:
    return any(folder.glob(sign))


def histories(folder: Path) -> list[object]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/history.json"))]


def run_worker(folder: Path, work: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(WORKER), str(folder / "config.json"), str(work)]
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)


def until(happens: Callable[[], bool], worker: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 200
    while not happens():
        assert worker.poll() is None, "the worker ended before it could be killed"
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
    command = [sys.executable, str(WORKER), str(tmp_path / "config.json"), str(tmp_path / "two")]
    done = subprocess.run([*command, "2"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "replicas: 2" in done.stdout
    one = fit.fit(tmp_path / "one", config, TRAIN, VALIDATION)
    two = build(2, "none")
    two.load_weights(tmp_path / "two" / "1-head" / "final.weights.h5")
    for a, b in zip(weights(one), weights(two), strict=True):
        assert np.abs(a - b).max() <= 1e-4
