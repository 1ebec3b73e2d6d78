"""Bulk scoring on a real Ray: killed -9 in the middle, then past a file that ends its workers."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests import fakes
from tests.app.dicoms import dicom
from tests.benchmarks.bulk.process import Run, count_rows, fake_command
from tests.fakes import gray_png

FILES = 2000
DEADLY = "deadly.png"
"""Ends each worker that scores it."""
PATIENCE_S = 130.0


@dataclass(frozen=True)
class Story:
    """What became of one folder of files.

    Attributes:
        expected: Paths.
        rows_before: In finished parts when everything was killed.
        left: Processes that outlived it, and that were not told to end.
        code: Of the second run.
        table: All rows.
        listening: Addresses that processes of the run listened on.
    """

    expected: list[str]
    rows_before: int
    left: list[str]
    code: int
    table: pa.Table
    listening: set[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("bulk")
    fakes.write_fake_release(folder / "store")
    expected = write_xrays(folder / "xrays")
    first = begin(folder)
    wait_for_rows(first, 1)
    listening = addresses(first)
    first.kill()
    rows_before = count_rows(first.out)
    second = begin(folder)
    wait_for_rows(second, rows_before + 1)
    second.tree()  # remembers what it has begun
    code = second.process.wait(PATIENCE_S)
    left = [each.name() for each in psutil.wait_procs(second.tree(), timeout=10)[1]]
    table = pq.read_table(second.out)
    return Story(expected, rows_before, left, code, table, listening)


def write_xrays(folder: Path) -> list[str]:
    """Write four files, linked again and again: a PNG, a DICOM file, a broken and a foreign one."""
    contents = (gray_png(), dicom(), gray_png()[:60], b"text")
    folder.mkdir()
    for index, content in enumerate(contents):
        (folder / f"{index}.png").write_bytes(content)
    for index in range(4, FILES):
        (folder / f"{index}.png").hardlink_to(folder / f"{index % 4}.png")
    (folder / DEADLY).write_bytes(gray_png(0))
    return [str(folder / f"{index}.png") for index in range(FILES)]


def begin(folder: Path) -> Run:
    out = folder / "out"
    return Run(fake_command(folder / "xrays", out, part_s=0.3), out, folder / "store")


def wait_for_rows(run: Run, rows: int) -> None:
    ends = time.monotonic() + PATIENCE_S
    while count_rows(run.out) < rows and run.running and time.monotonic() < ends:
        time.sleep(0.05)


def addresses(run: Run) -> set[str]:
    return {
        connection.laddr.ip
        for process in run.tree()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


def test_it_was_killed_in_the_middle_and_the_second_run_left_no_process(story: Story) -> None:
    assert 0 < story.rows_before < FILES
    assert not story.left


def test_each_file_has_one_row(story: Story) -> None:
    counted = Counter(story.table.column("path").to_pylist())
    assert max(counted.values()) == 1
    assert {path for path in counted if not path.endswith(DEADLY)} == set(story.expected)


def test_bad_files_are_rows_that_say_why(story: Story) -> None:
    codes = Counter(story.table.column("error_code").to_pylist())
    quarter = FILES // 4
    assert codes == {
        None: 2 * quarter,
        "unreadable-image": quarter,
        "unsupported-image-type": quarter,
        "file-ends-worker": 1,
    }
    assert len(story.table.column("sop_instance_uid").drop_null().unique()) == 1


def test_a_file_that_ends_its_workers_takes_no_other_with_it(story: Story) -> None:
    ended = story.table.filter(pc.field("error_code") == "file-ends-worker").to_pylist()
    assert [Path(row["path"]).name for row in ended] == [DEADLY]
    assert ended[0]["engine"] is None


def test_a_run_that_ends_with_bad_files_has_said_so(story: Story) -> None:
    assert story.code == 1


def test_nothing_of_it_could_be_reached_from_another_machine(story: Story) -> None:
    assert story.listening
    assert {each.removeprefix("::ffff:") for each in story.listening} <= {"127.0.0.1", "::1"}
