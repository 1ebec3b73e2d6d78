"""Bulk scoring but for Ray: what is listed, read, scored, written and gone on with."""

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bulk import Asked, score_files
from app.bulk.cluster import Pool, open_cluster, share_cores
from app.bulk.listing import open_source, read_file, show
from app.bulk.output import open_output
from app.bulk.paths import PathSet
from app.bulk.rows import Row, schema_of
from app.bulk.scoring import Job, Scorer, choose_release
from app.errors import (
    BulkInputInvalid,
    BulkOutputTaken,
    BulkUnavailable,
    FileNotRead,
    PayloadTooLarge,
    ReleaseInvalid,
)
from app.settings import Settings
from tests import fakes
from tests.app.dicoms import dicom
from tests.fakes import FakeEngine, gray_png
from tests.integration.server import free_port

ROOT = Path(__file__).parents[2]
ABOUT = {"input": "/x", "release": {"digest": "1"}, "created": "today"}
SCHEMA = pa.schema([("path", pa.string()), ("error_code", pa.string())])


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    """A folder with files of all sorts."""
    folder = tmp_path / "xrays"
    (folder / "below").mkdir(parents=True)
    (folder / "a.png").write_bytes(gray_png())
    (folder / "below" / "b.JPG").write_bytes(b"any")
    (folder / "below" / "1.2.840.99").write_bytes(dicom())
    (folder / "below" / "notes.txt").write_bytes(b"any")
    (folder / "README").write_bytes(b"no DICOM")
    (folder / "DICOMDIR").write_bytes(dicom())
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    fakes.write_fake_release(tmp_path / "store")
    return Settings(model_store=tmp_path / "store", max_upload_bytes=2_000_000)


def names(text: object) -> list[str]:
    return sorted(path.rsplit("/", 1)[1] for path in open_source(str(text)).paths())


def rows_of(*paths: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"path": path} for path in paths], schema=SCHEMA)


def paths_in(folder: Path) -> list[str]:
    found: list[str] = pq.read_table(folder).column("path").to_pylist()
    return found


class TestListing:
    def test_a_folder_gives_the_xrays_in_it_and_below(self, xrays: Path) -> None:
        assert names(xrays) == ["1.2.840.99", "a.png", "b.JPG"]
        assert names(f"file://{xrays}") == ["1.2.840.99", "a.png", "b.JPG"]

    def test_paths_are_absolute_wherever_it_is_asked_from(
        self, xrays: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(xrays.parent)
        assert str(xrays / "a.png") in set(open_source("xrays").paths())

    def test_a_pattern_gives_what_it_matches_and_a_file_itself(self, xrays: Path) -> None:
        assert names(f"{xrays}/**/*") == [
            "1.2.840.99",
            "DICOMDIR",
            "README",
            "a.png",
            "b.JPG",
            "notes.txt",
        ]
        assert names(xrays / "README") == ["README"]

    def test_one_that_cannot_be_looked_at_is_listed_to_be_told_beside_the_others(
        self, xrays: Path
    ) -> None:
        (xrays / "bad.png").symlink_to("x" * 300)
        assert names(xrays) == ["1.2.840.99", "a.png", "b.JPG", "bad.png"]
        assert names(f"{xrays}/*.png") == ["a.png", "bad.png"]
        with pytest.raises(FileNotRead, match="file name too long"):
            read_file(str(xrays / "bad.png"), 10)

    def test_a_list_gives_its_paths_relative_ones_from_its_own_folder(self, tmp_path: Path) -> None:
        paths = ["a.png", "/b.png", "s3://bucket/c.png", "file:///d.png"]
        pq.write_table(pa.table({"path": paths}), tmp_path / "list.parquet")
        assert list(open_source(str(tmp_path / "list.parquet")).paths()) == [
            f"{tmp_path}/a.png",
            "/b.png",
            "s3://bucket/c.png",
            "/d.png",
        ]

    def test_an_address_of_fsspec_gives_addresses_that_are_read(self) -> None:
        system = fsspec.filesystem("memory")
        system.pipe({"/bulk/a.png": b"a", "/bulk/below/IM1": b"b", "/bulk/notes.txt": b"c"})
        assert names("memory://bulk") == ["IM1", "a.png"]
        assert names("memory://bulk/*.txt") == ["notes.txt"]
        (path,) = open_source("memory://bulk/a.png").paths()
        assert read_file(path, 10) == b"a"
        system.rm("/bulk", recursive=True)

    @pytest.mark.parametrize("text", ["{}/none", "{}/none/*.png", "{}/empty", "nothing://here"])
    def test_nothing_to_score_is_told_in_a_sentence(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(BulkInputInvalid, match=r"Expected .*; received"):
            open_source(text.format(tmp_path))

    def test_a_list_without_a_column_of_paths_is_told(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"file": ["a.png"]}), tmp_path / "list.parquet")
        with pytest.raises(BulkInputInvalid, match="a column path of strings"):
            open_source(str(tmp_path / "list.parquet"))
        (tmp_path / "no.parquet").write_bytes(b"text")
        with pytest.raises(BulkInputInvalid, match="Parquet"):
            open_source(str(tmp_path / "no.parquet"))

    def test_a_name_that_is_no_text_is_shown_as_one_and_still_read(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"x")
        (path,) = open_source(str(tmp_path)).paths()
        assert show(path) == f"{tmp_path}/\\xff.png"
        assert read_file(path, 1) == b"x"


class TestReading:
    def test_what_cannot_be_read_is_told_without_waiting(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        for path, said in (("none.png", "no such file"), ("pipe.png", "something else")):
            with pytest.raises(FileNotRead, match=said):
                read_file(str(tmp_path / path), 10)
        with pytest.raises(FileNotRead, match="FileNotFoundError"):
            read_file("memory://none.png", 10)

    def test_a_file_that_is_too_large_is_not_read_to_its_end(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"12345")
        assert read_file(str(tmp_path / "a.png"), 5) == b"12345"
        with pytest.raises(PayloadTooLarge, match="at most 4 bytes"):
            read_file(str(tmp_path / "a.png"), 4)


def test_a_set_of_paths_knows_each_of_many() -> None:
    seen = PathSet()
    many = [f"/xrays/{index}.png" for index in range(30_000)]
    assert all(seen.add_new(many))
    assert seen.add_new(["/xrays/7.png", "new", "new"]) == [False, True, False]
    assert all(seen.has([*many, "new"]))
    assert seen.has(["/xrays/7.png", "other"]) == [True, False]
    assert len(seen) == 30_001


class TestOutput:
    def test_each_file_is_in_one_part_and_the_folder_reads_as_one_table(
        self, tmp_path: Path
    ) -> None:
        with open_output(tmp_path / "out", ABOUT, SCHEMA, part_rows=2) as output:
            output.add(rows_of("a", "b"))
            output.add(rows_of("b", "c"))
        assert sorted(paths_in(tmp_path / "out")) == ["a", "b", "c"]
        assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 2
        assert output.counts.files == 3

    def test_a_run_goes_on_from_its_finished_parts(self, tmp_path: Path) -> None:
        with open_output(tmp_path, ABOUT, SCHEMA) as output:
            output.add(rows_of("a"))
        (tmp_path / ".part-000002.parquet").write_bytes(b"what a kill left")
        with open_output(tmp_path, ABOUT | {"created": "later"}, SCHEMA) as output:
            assert output.read_done().has(["a"]) == [True]
            output.add(rows_of("a", "b"))
        assert sorted(paths_in(tmp_path)) == ["a", "b"]

    def test_rows_are_kept_where_a_run_fails(self, tmp_path: Path) -> None:
        def fail() -> None:
            with open_output(tmp_path, ABOUT, SCHEMA) as output:
                output.add(rows_of("a"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert paths_in(tmp_path) == ["a"]

    @pytest.mark.parametrize("other", [{"input": "/y"}, {"release": {"digest": "2"}}])
    def test_another_runs_folder_is_refused(self, tmp_path: Path, other: dict[str, object]) -> None:
        with open_output(tmp_path, ABOUT, SCHEMA):
            pass
        with (
            pytest.raises(BulkOutputTaken, match=f"a run with {next(iter(other))}"),
            open_output(tmp_path, ABOUT | other, SCHEMA),
        ):
            pass

    def test_two_runs_do_not_write_into_one_folder(self, tmp_path: Path) -> None:
        with (
            open_output(tmp_path, ABOUT, SCHEMA),
            pytest.raises(BulkOutputTaken, match="no other run"),
            open_output(tmp_path, ABOUT, SCHEMA),
        ):
            pass

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        for folder in (tmp_path, tmp_path / "thesis.tex"):
            with (
                pytest.raises(BulkOutputTaken, match=r"Expected (an empty|a) folder"),
                open_output(folder, ABOUT, SCHEMA),
            ):
                pass

    def test_a_part_that_is_spoiled_is_named(self, tmp_path: Path) -> None:
        with open_output(tmp_path, ABOUT, SCHEMA):
            pass
        (tmp_path / "part-000001.parquet").write_bytes(b"text")
        with (
            pytest.raises(BulkOutputTaken, match="part-000001"),
            open_output(tmp_path, ABOUT, SCHEMA) as output,
        ):
            output.read_done()


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


def test_more_engines_than_cores_are_refused() -> None:
    with pytest.raises(BulkUnavailable, match="a core for each of 3 workers; received 2"):
        share_cores([2], 3)


def test_without_the_extra_a_sentence_tells_what_to_install(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.bulk._NEEDED", ("fsspec", "no_such_package"))
    with pytest.raises(BulkUnavailable, match=r"covid-xray\[scale\].*no no_such_package"):
        score_files(Asked(str(tmp_path), tmp_path / "out"), settings)


def test_every_column_is_told_in_the_documentation(settings: Settings) -> None:
    text = (ROOT / "docs" / "bulk.md").read_text(encoding="utf-8")
    for field in schema_of(choose_release(settings, fakes.new_fake_engine).manifest):
        assert f"`{field.name}`" in text
        assert field.metadata[b"description"]
