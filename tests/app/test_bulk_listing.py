"""What bulk scoring finds, and reads."""

import os
from pathlib import Path
from zipfile import ZipFile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bulk.listing import open_source, read_file, show
from app.errors import BulkInputInvalid, FileNotRead, PayloadTooLarge
from tests.app.dicoms import dicom
from tests.fakes import gray_png


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


def names(text: object) -> list[str]:
    return sorted(path.rsplit("/", 1)[1] for path in open_source(str(text)).paths())


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

    @pytest.mark.parametrize("target", ["gone", "lost.png", "lost"])
    def test_a_link_to_nothing_is_listed_as_by_a_pattern_since_its_file_is_missed(
        self, xrays: Path, target: str
    ) -> None:
        for name in ("lost.png", "lost"):  # one that would be looked into, too
            (xrays / name).symlink_to(target)
        (xrays / "linked").symlink_to(xrays / "below")
        (xrays / "lost.txt").symlink_to("gone")
        assert names(xrays) == ["1.2.840.99", "a.png", "b.JPG", "lost", "lost.png"]
        assert names(f"{xrays}/lost*") == ["lost", "lost.png", "lost.txt"]
        with pytest.raises(FileNotRead, match=r"no such file|too many levels"):
            read_file(str(xrays / "lost.png"), 10)

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

    @pytest.mark.parametrize(
        "address",
        ["zip://xrays::{}/xrays.zip", "zip://xrays/*.png::{}/xrays.zip", "local://{}/xrays"],
    )
    def test_a_store_whose_files_have_no_address_of_their_own_is_refused(
        self, xrays: Path, address: str
    ) -> None:
        with ZipFile(xrays.parent / "xrays.zip", "w") as archive:
            archive.write(xrays / "a.png", "xrays/a.png")
        with pytest.raises(BulkInputInvalid, match="a store whose files can be read by their add"):
            open_source(address.format(xrays.parent))

    def test_one_file_of_an_archive_is_read(self, xrays: Path) -> None:
        with ZipFile(xrays.parent / "xrays.zip", "w") as archive:
            archive.write(xrays / "a.png", "xrays/a.png")
        (path,) = open_source(f"zip://xrays/a.png::{xrays.parent}/xrays.zip").paths()
        assert read_file(path, 2_000_000) == gray_png()

    @pytest.mark.parametrize("text", ["", " ", "file://"])
    def test_an_empty_text_is_not_the_folder_that_one_is_in(
        self, xrays: Path, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.chdir(xrays)
        with pytest.raises(BulkInputInvalid, match="an input; received an empty text"):
            open_source(text)

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

    def test_no_two_names_are_shown_alike(self) -> None:
        shown = {
            b"a.png": "a.png",
            "\u00e4.png".encode(): "\u00e4.png",
            rb"a\b.png": r"a\b.png",
            b"\xff.png": r"\xff.png",
            rb"\xff.png": r"\\xff.png",
            b"\\\xff.png": r"\\\xff.png",
            rb"\\xff.png": r"\\\\xff.png",
            rb"\\\xff.png": r"\\\\\\xff.png",
        }
        assert {name: show(os.fsdecode(name)) for name in shown} == shown
        assert len(set(shown.values())) == len(shown)


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
