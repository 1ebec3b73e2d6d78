"""The folder of a bulk run: gone on with, and refused where it is another's or spoiled."""

import errno
import json
import os
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bulk.output import RUN, open_output
from app.errors import BulkOutputTaken

ABOUT = {"input": "/x", "release": {"digest": "1"}, "created": "today"}
SCHEMA = pa.schema([("path", pa.string()), ("error_code", pa.string())])


def rows_of(*paths: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"path": path} for path in paths], schema=SCHEMA)


def paths_in(folder: Path) -> list[str]:
    found: list[str] = pq.read_table(folder).column("path").to_pylist()
    return found


def test_each_file_is_in_one_part_and_the_folder_reads_as_one_table(tmp_path: Path) -> None:
    with open_output(tmp_path / "out", ABOUT, SCHEMA, part_rows=2) as output:
        output.add(rows_of("a", "b"))
        output.add(rows_of("b", "c"))
    assert sorted(paths_in(tmp_path / "out")) == ["a", "b", "c"]
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 2
    assert output.counts.files == 3


def test_a_run_goes_on_from_its_finished_parts(tmp_path: Path) -> None:
    with open_output(tmp_path, ABOUT, SCHEMA) as output:
        output.add(rows_of("a"))
    (tmp_path / ".part-000002.parquet").write_bytes(b"what a kill left")
    with open_output(tmp_path, ABOUT | {"created": "later"}, SCHEMA) as output:
        assert output.read_done().has(["a"]) == [True]
        output.add(rows_of("a", "b"))
    assert sorted(paths_in(tmp_path)) == ["a", "b"]


def test_rows_are_kept_where_a_run_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with open_output(tmp_path, ABOUT, SCHEMA) as output:
            output.add(rows_of("a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert paths_in(tmp_path) == ["a"]


@pytest.mark.parametrize("other", [{"input": "/y"}, {"release": {"digest": "2"}}])
def test_another_runs_folder_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    with open_output(tmp_path, ABOUT, SCHEMA):
        pass
    with (
        pytest.raises(BulkOutputTaken, match=f"a run with {next(iter(other))}"),
        open_output(tmp_path, ABOUT | other, SCHEMA),
    ):
        pass


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with (
        open_output(tmp_path, ABOUT, SCHEMA),
        pytest.raises(BulkOutputTaken, match="no other run"),
        open_output(tmp_path, ABOUT, SCHEMA),
    ):
        pass


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with (
            pytest.raises(BulkOutputTaken, match=r"Expected (an empty|a) folder"),
            open_output(folder, ABOUT, SCHEMA),
        ):
            pass


def test_a_part_that_is_spoiled_is_named(tmp_path: Path) -> None:
    with open_output(tmp_path, ABOUT, SCHEMA):
        pass
    (tmp_path / "part-000001.parquet").write_bytes(b"text")
    with (
        pytest.raises(BulkOutputTaken, match="part-000001"),
        open_output(tmp_path, ABOUT, SCHEMA) as output,
    ):
        output.read_done()


@pytest.mark.parametrize("content", [b"", b'{"input": "/x"', b"\xff", b"[]", None], ids=repr)
def test_what_a_run_is_about_that_cannot_be_read_is_told(
    tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / RUN).mkdir() if content is None else (tmp_path / RUN).write_bytes(content)
    with (
        pytest.raises(BulkOutputTaken, match=f"what a run is about in .*{RUN}"),
        open_output(tmp_path, ABOUT, SCHEMA),
    ):
        pass


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"file": ["a"]}),
        pa.table({"path": ["a"]}),
        pa.table({"path": ["a", None], "error_code": ["", ""]}),
        pa.table({"path": [1], "error_code": [""]}),
        None,
    ],
    ids=["other columns", "one column", "a null", "numbers", "folder"],
)
def test_a_part_of_another_program_is_told(tmp_path: Path, table: pa.Table | None) -> None:
    part = tmp_path / "part-000001.parquet"
    with open_output(tmp_path, ABOUT, SCHEMA):
        part.mkdir() if table is None else pq.write_table(table, part)
    with (
        pytest.raises(BulkOutputTaken, match=r"rows of this program in .*part-000001"),
        open_output(tmp_path, ABOUT, SCHEMA) as output,
    ):
        output.read_done()


def test_a_full_disk_is_told_and_the_run_goes_on_where_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def run() -> None:
        with open_output(tmp_path, ABOUT, SCHEMA, part_rows=1) as output:
            output.read_done()
            output.add(rows_of("a"))

    def run_on_a_full_disk(call: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(f"app.bulk.output.{call}", fail)
            with pytest.raises(BulkOutputTaken, match=r"a folder to write to at .*No space left"):
                run()

    run_on_a_full_disk("_sync")
    with open_output(tmp_path, ABOUT, SCHEMA):
        pass
    run_on_a_full_disk("_sync")
    run_on_a_full_disk("_sync_folder")
    run()
    assert paths_in(tmp_path) == ["a"]
    assert json.loads((tmp_path / RUN).read_text()) == ABOUT
