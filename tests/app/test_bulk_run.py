"""A whole bulk run but for Ray: what it does with what workers say, and where they die."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bulk import Asked, Outcome, cluster, rows, score_files
from app.bulk.listing import Files, Source
from app.bulk.output import RUN
from app.bulk.paths import PathSet
from app.bulk.rows import schema_of
from app.bulk.scoring import choose_release
from app.errors import BulkUnavailable
from app.settings import Settings
from tests import fakes
from tests.fakes import FakeEngine, gray_png


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    """A folder of three files."""
    folder = tmp_path / "xrays"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(gray_png())
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    fakes.write_fake_release(tmp_path / "store")
    return Settings(model_store=tmp_path / "store")


def test_where_nothing_is_left_to_do_no_cluster_is_started(
    settings: Settings, xrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(source: Source, *_: object) -> Iterator[pa.RecordBatch]:
        yield answers(settings, source.paths(), error_code="unreadable-image")

    monkeypatch.setattr("app.bulk.cluster.open_cluster", fake_cluster := FakeCluster())
    monkeypatch.setattr("app.bulk.cluster.stream", stream)
    asked = Asked(str(xrays), tmp_path / "out")
    for _ in range(2):
        assert score_files(asked, settings, fakes.new_fake_engine) == Outcome(3, 3, 0)
    assert fake_cluster.started == 1
    about = json.loads((tmp_path / "out" / RUN).read_text())
    assert about["release"]["version"] == 1
    assert about["settings"]["acceptance"] == "enforce"


def answers(settings: Settings, paths: Iterable[str], **columns: object) -> pa.RecordBatch:
    """Stand for what workers say."""
    release = choose_release(settings, fakes.new_fake_engine)
    found = [rows.of_file(path, release, FakeEngine()) | columns for path in paths]
    return rows.to_batch(found, schema_of(release.manifest))


def iter_nothing() -> Iterator[pa.RecordBatch]:
    yield from ()


class TestFilesWhoseWorkersDie:
    """Their chunk has no rows; then they are scored alone."""

    @pytest.fixture
    def asked(self, xrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
        monkeypatch.setattr("app.bulk.cluster.open_cluster", FakeCluster())
        return Asked(str(xrays), tmp_path / "out")

    def test_one_that_ends_them_also_alone_has_a_row_that_says_so(
        self, settings: Settings, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = []

        def stream(
            source: Source, done: PathSet, *_: object, singly: bool = False
        ) -> Iterator[pa.RecordBatch]:
            tried.append([path for path in source.paths() if not all(done.has([path]))])
            if singly:
                yield answers(settings, [each for each in tried[-1] if not each.endswith("b.png")])
            else:
                yield answers(settings, [each for each in tried[-1] if each.endswith("a.png")])

        monkeypatch.setattr("app.bulk.cluster.stream", stream)
        outcome = score_files(asked, settings, fakes.new_fake_engine)
        assert outcome == Outcome(3, 1, 0)
        assert list(map(len, tried)) == [3, 2]
        table = pq.read_table(asked.out).to_pylist()
        (lost,) = [row for row in table if row["error_code"]]
        assert lost["path"].endswith("b.png")
        assert (lost["error_code"], lost["engine"]) == ("file-ends-worker", None)

    def test_where_they_are_too_many_it_is_not_the_files(
        self, settings: Settings, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.bulk.cluster.LOST_CHUNKS", 2)
        monkeypatch.setattr("app.bulk.cluster.MANY", 1)
        monkeypatch.setattr("app.bulk.cluster.stream", lambda *_: iter_nothing())
        with pytest.raises(BulkUnavailable, match="workers that score; received 3 files without"):
            score_files(asked, settings, fakes.new_fake_engine)

    def test_files_that_came_meanwhile_are_none_of_them_and_counted(
        self, settings: Settings, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stream(source: Source, *_: object) -> Iterator[pa.RecordBatch]:
            yield answers(settings, source.paths())
            time.sleep(0.2)  # until all have been counted
            (Path(asked.source) / "late.png").write_bytes(gray_png())

        monkeypatch.setattr("app.bulk.cluster.stream", stream)
        assert score_files(asked, settings, fakes.new_fake_engine) == Outcome(3, 0, 1)

    def test_those_that_came_while_others_were_scored_alone_are_counted_too(
        self, settings: Settings, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stream(source: Source, *_: object, singly: bool = False) -> Iterator[pa.RecordBatch]:
            if singly:
                (Path(asked.source) / "late.png").write_bytes(gray_png())
            yield answers(settings, list(source.paths())[:2])

        monkeypatch.setattr("app.bulk.cluster.stream", stream)
        assert score_files(asked, settings, fakes.new_fake_engine) == Outcome(3, 0, 1)

    def test_a_file_that_has_gone_is_none_that_came(
        self, settings: Settings, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stream(source: Source, *_: object) -> Iterator[pa.RecordBatch]:
            time.sleep(0.2)  # until all have been counted
            (Path(asked.source) / "a.png").unlink()
            yield answers(settings, source.paths())

        monkeypatch.setattr("app.bulk.cluster.stream", stream)
        assert score_files(asked, settings, fakes.new_fake_engine) == Outcome(2, 0, 0)


class FakeCluster:
    """Stands for Ray, and counts how often it is started."""

    def __init__(self) -> None:
        self.started = 0

    def __call__(self, address: str | None, cores: int) -> "FakeCluster":
        del address, cores
        self.started += 1
        return self

    def __enter__(self) -> list[int]:
        return [1]

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("threads", "largest"), [(2, 45), (16, 8)])
def test_chunks_grow_with_what_is_listed_and_leave_each_thread_its_share(
    threads: int, largest: int
) -> None:
    files = Files(tuple(f"/xrays/{number}.png" for number in range(3000)))
    begin = pa.table({"begin": [0]})
    tables = cluster.list_chunks(begin, files, PathSet(), 128, threads)
    chunks = [table.column("paths")[0].as_py() for table in tables]
    sizes = [len(chunk) for chunk in chunks]
    assert sizes[0] == 8
    assert max(sizes) == largest
    assert [path.decode() for chunk in chunks for path in chunk] == list(files.listed)
