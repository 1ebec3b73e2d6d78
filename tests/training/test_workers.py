from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from training import workers
from training.errors import ConfigInvalid, RunMismatch, WorkerLost
from training.workers import Workers


class FakeStrategy:
    """Two devices; the other worker says what this one says, plus `offset`, or is gone."""

    num_replicas_in_sync = 2

    def __init__(self, offset: int = 0, *, gone: bool = False) -> None:
        self.offset, self.gone = offset, gone

    def gather(self, value: tf.Tensor, axis: int) -> tf.Tensor:
        if self.gone:
            raise tf.errors.UnavailableError(None, None, "Task 1 stopped sending heartbeats.")
        return tf.concat([value, value + self.offset], axis)


def worker(*, chief: bool = True, **strategy: Any) -> Workers:
    return Workers(FakeStrategy(**strategy), chief)


@pytest.mark.parametrize(
    "config",
    ["", "{}", '{"cluster": {"worker": ["one:1"]}, "task": {"type": "worker", "index": 0}}'],
)
def test_without_other_machines_one_trains_alone(
    monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    assert workers.join() is None


@pytest.mark.parametrize("config", ["{", "[]", '{"cluster": {"worker": ["a:1", "b:1"]}}'])
def test_a_tf_config_that_cannot_be_used_is_told(
    monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ConfigInvalid, match="Expected TF_CONFIG"):
        workers.join()


def test_a_batch_that_devices_cannot_share_equally_is_refused() -> None:
    worker().check_shares(8)
    with pytest.raises(ConfigInvalid, match=r"2 devices.*7 images"):
        worker().check_shares(7)


def test_the_chief_works_in_the_folder_and_another_in_a_copy(tmp_path: Path) -> None:
    (tmp_path / "1-head").mkdir()
    (tmp_path / "1-head" / "final.weights.h5").write_bytes(b"x")
    with worker().folder(tmp_path) as mine:
        assert mine == tmp_path
    with worker(chief=False).folder(tmp_path) as copy:
        assert (copy / "1-head" / "final.weights.h5").read_bytes() == b"x"
        (copy / "1-head" / "more").write_bytes(b"y")
    assert not copy.exists()
    assert not (tmp_path / "1-head" / "more").exists()


def test_workers_that_see_different_files_do_not_begin(tmp_path: Path) -> None:
    with pytest.raises(RunMismatch, match="share"), worker(offset=1).folder(tmp_path):
        pass


def test_a_worker_that_has_ended_is_told_in_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(WorkerLost, match=r"every worker.*heartbeats"),
        worker(gone=True).folder(tmp_path),
    ):
        pass


@pytest.mark.parametrize("chief", [True, False])
def test_the_others_wait_until_the_chief_is_done(*, chief: bool) -> None:
    happened: list[str] = []

    def gather(value: tf.Tensor, axis: int) -> tf.Tensor:
        assert axis == 0
        happened.append("met")
        return value

    strategy = SimpleNamespace(gather=gather)
    with workers.chief_first(Workers(strategy, chief)):
        happened.append("done")
    assert happened == (["done", "met"] if chief else ["met", "done"])
