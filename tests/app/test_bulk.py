"""Bulk scoring but for Ray: what is known, scored, shared out and refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pyarrow as pa
import pytest

import app.bulk.paths
from app.bulk import Asked, score_files
from app.bulk.cluster import Pool, open_cluster, share_cores
from app.bulk.paths import PathSet
from app.bulk.rows import Row, schema_of
from app.bulk.scoring import Job, Scorer, choose_release
from app.errors import (
    BulkUnavailable,
    ReleaseInvalid,
)
from app.settings import Settings
from tests import fakes
from tests.app.dicoms import dicom
from tests.fakes import FakeEngine, gray_png
from tests.integration.server import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    fakes.write_fake_release(tmp_path / "store")
    return Settings(model_store=tmp_path / "store", max_upload_bytes=2_000_000)


def test_a_set_of_paths_knows_each_of_many() -> None:
    seen = PathSet()
    many = [f"/xrays/{index}.png" for index in range(30_000)]
    assert all(seen.add_new(many))
    assert seen.add_new(["/xrays/7.png", "new", "new"]) == [False, True, False]
    assert all(seen.has([*many, "new"]))
    assert seen.has(["/xrays/7.png", "other"]) == [True, False]
    assert len(seen) == 30_001


def test_a_path_behind_all_others_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.bulk.paths, "_SMALL", 0)
    seen = PathSet()
    assert seen.add_new(["/xrays/one.png"]) == [True]
    assert not any(seen.has(f"/xrays/{index}.png" for index in range(1000)))


class TestScoring:
    @pytest.fixture
    def score(
        self, settings: Settings, engine: FakeEngine, tmp_path: Path
    ) -> Callable[[bytes], Row]:
        release = choose_release(settings, fakes.factory(engine))
        job = Job(settings, 1, release.digest, 1, fakes.factory(engine))
        scorer = Scorer(job)

        def score(data: bytes) -> Row:
            file = tmp_path / "file"
            file.write_bytes(data)
            row = scorer.score(str(file), "shown")
            back: list[Row] = pa.RecordBatch.from_pylist([row], scorer.schema).to_pylist()
            return back[0]

        return score

    @pytest.mark.parametrize("data", [gray_png(204), gray_png(51, 300, 200), dicom()])
    @pytest.mark.anyio
    async def test_a_row_says_what_the_service_says(
        self, score: Callable[[bytes], Row], client: httpx.AsyncClient, data: bytes
    ) -> None:
        row = score(data)
        told = (await client.post("/v1/predictions", files={"file": data})).json()
        assert told.pop("label") == row["label"]
        for name in ("format", "width", "height", "sha256"):
            assert row[name] == told["image"][name]
        for label, probability in told["probabilities"].items():
            assert row[f"probability_{label}"] == probability
        for confidence, labels in told["prediction_set"].items():
            assert row[f"prediction_set_{confidence}"] == labels
        uids = told["image"].get("dicom") or {}
        assert row["sop_instance_uid"] == uids.get("sop_instance_uid")
        assert (row["study_instance_uid"] is None) == (not uids)
        assert row["warnings"] == told["warnings"]
        assert (row["acceptance_score"], row["accepted"]) == (1, True)
        assert row["release_digest"] == told["model"]["digest"]
        assert (row["path"], row["error"], row["error_code"]) == ("shown", None, None)

    @pytest.mark.anyio
    async def test_a_bad_file_is_a_row_with_the_services_problem(
        self, score: Callable[[bytes], Row], client: httpx.AsyncClient
    ) -> None:
        row = score(b"text")
        told = (await client.post("/v1/predictions", files={"file": b"text"})).json()
        assert (row["error_code"], row["error"]) == (told["code"], told["detail"])
        assert row["label"] is None
        assert row["sha256"].startswith("982d9e3e")

    def test_what_is_no_chest_xray_has_a_score_and_no_probabilities(
        self, score: Callable[[bytes], Row], engine: FakeEngine
    ) -> None:
        engine.acceptance = 0.25
        row = score(gray_png())
        assert (row["acceptance_score"], row["accepted"]) == (0.25, False)
        assert (row["error_code"], row["label"]) == ("not-a-chest-radiograph", None)
        assert row["probability_COVID-19"] is None

    @pytest.mark.parametrize("fault", ["failing", "crashing"])
    def test_a_fault_of_the_engine_is_a_row_without_its_secrets(
        self, score: Callable[[bytes], Row], engine: FakeEngine, fault: str
    ) -> None:
        setattr(engine, fault, True)
        row = score(gray_png())
        assert row["error_code"] in {"inference-failed", "internal-error"}
        assert (row["format"], row["label"]) == ("PNG", None)
        assert fault == "failing" or "secret" not in row["error"]

    def test_a_machine_with_another_release_does_not_begin(self, settings: Settings) -> None:
        job = Job(settings, 1, "0" * 64, 1, fakes.new_fake_engine)
        with pytest.raises(ReleaseInvalid, match="on each machine"):
            Scorer(job)


@pytest.mark.parametrize(
    ("cores", "workers", "pool"),
    [
        ([8], None, Pool(1, 8)),
        ([8], 3, Pool(3, 2)),
        ([8, 4], None, Pool(3, 4)),
        ([3, 3], 2, Pool(2, 3)),
        ([3, 3], 3, Pool(3, 1)),
        ([1], 1, Pool(1, 1)),
    ],
)
def test_engines_share_the_cores(cores: list[int], workers: int | None, pool: Pool) -> None:
    assert share_cores(cores, workers) == pool


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    expected = r"a Ray cluster at 127\.0\.0\.1:\d+; received ConnectionRefusedError"
    with (
        pytest.raises(BulkUnavailable, match=expected),
        open_cluster(f"127.0.0.1:{free_port()}", 1),
    ):
        pass


@pytest.mark.parametrize("address", ["", " "])
def test_an_empty_address_is_not_this_machine(
    settings: Settings, tmp_path: Path, address: str
) -> None:
    with pytest.raises(BulkUnavailable, match="the address of a Ray cluster; received an empty"):
        score_files(Asked(str(tmp_path), tmp_path / "out", address), settings)
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_lets_nobody_in_may_have_another_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("ray.init")

    ray = SimpleNamespace(init=init)
    monkeypatch.setattr("app.bulk.cluster._import_ray", lambda **_: ray)
    with (
        pytest.raises(BulkUnavailable, match="a Ray cluster at auto with the same token; received"),
        open_cluster("auto", 1),
    ):
        pass


def test_more_engines_than_cores_are_refused() -> None:
    with pytest.raises(BulkUnavailable, match="a core for each of 3 workers; received 2"):
        share_cores([2], 3)


def test_without_the_extra_a_sentence_tells_what_to_install(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.bulk._NEEDED", ("fsspec", "no_such_package"))
    with pytest.raises(BulkUnavailable, match=r"--editable '\.\[scale\]'.*no no_such_package"):
        score_files(Asked(str(tmp_path), tmp_path / "out"), settings)


def test_every_column_is_told_in_the_documentation(settings: Settings) -> None:
    text = (ROOT / "docs" / "bulk.md").read_text(encoding="utf-8")
    for field in schema_of(choose_release(settings, fakes.new_fake_engine).manifest):
        assert f"`{field.name}`" in text
        assert field.metadata[b"description"]
