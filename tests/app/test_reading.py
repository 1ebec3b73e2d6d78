import asyncio
import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.errors import KeysInvalid
from app.reading import Content, Reading, Unread, find_files, open_server, read_all
from app.terminal import print_table, progress
from tests.client.conftest import PREDICTION, PROBLEM

# --- finding


def write(folder: Path, *names: str, content: bytes = b"") -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return paths


def find(*arguments: object) -> list[Path]:
    return find_files(map(str, arguments))


def test_a_folder_means_all_images_in_it_and_below(tmp_path: Path) -> None:
    wanted = write(tmp_path, "a.png", "b/c.JPG", "b/d.dcm", "b/e.jpeg", "b/f.dicom")
    wanted += write(tmp_path, "g", content=bytes(128) + b"DICM...")
    write(tmp_path, "notes.txt", "LICENSE", "b/empty")
    write(tmp_path, "DICOMDIR", content=bytes(128) + b"DICM...")
    assert find(tmp_path) == sorted(wanted)


def test_a_pattern_means_what_it_matches(tmp_path: Path) -> None:
    first, second, below = write(tmp_path, "1.dcm", "2.dcm", "below/3.dcm")
    write(tmp_path, "4.png")
    assert find(tmp_path / "*.dcm") == [first, second]
    assert find(tmp_path / "**" / "*.dcm") == [first, second, below]


def test_a_file_is_meant_whatever_its_name_and_each_once(tmp_path: Path) -> None:
    text, odd = write(tmp_path, "notes.txt", "x[1].png")
    assert find(text, odd, text, odd) == [text, odd]


def test_what_is_not_there_stays_to_be_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    missing = [tmp_path / "none.png", tmp_path / "*.dcm", tmp_path / "empty"]
    assert find(*missing) == missing


def test_what_cannot_be_looked_at_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    wanted = write(tmp_path, "a.png", "b/c.png")
    for name in ("bad.png", "b/IM1", "notes.txt"):
        (tmp_path / name).symlink_to("x" * 300)
    bad = [tmp_path / "bad.png", tmp_path / "b/IM1"]
    assert find(tmp_path) == sorted([*wanted, *bad])
    assert {each.remark for each in asyncio.run(collect(bad))} == {"File name too long."}
    assert find("x" * 300) == [Path("x" * 300)]


def test_a_link_to_nothing_is_told_as_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    link = tmp_path / "lost.png"
    link.symlink_to("gone")
    assert find(tmp_path) == [link]
    (reading,) = asyncio.run(collect([link]))
    assert reading.remark == "No such file or directory."


@pytest.mark.parametrize("text", ["", "cxr_two words", "cxr_\0"])
def test_a_file_that_holds_no_api_key_is_told(tmp_path: Path, text: str) -> None:
    async def ask() -> None:
        async with open_server("http://test", tmp_path / "key"):
            pass

    (tmp_path / "key").write_text(text)
    with pytest.raises(KeysInvalid, match="one API key and nothing else"):
        asyncio.run(ask())


def test_a_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = write(tmp_path, "a.png")
    write(tmp_path, "closed/b.png")
    scan = os.scandir

    def refuse(path: str | Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(path)

    monkeypatch.setattr("app.reading.os.scandir", refuse)
    assert find(tmp_path) == [*wanted, tmp_path / "closed"]
    (told,) = asyncio.run(collect([tmp_path / "closed"]))
    assert told.remark == "A folder that cannot be listed: Permission denied."


# --- reading


async def collect(
    files: Sequence[Path], at_once: int = 2, pauses: Sequence[float] = ()
) -> list[Reading]:
    """Read files; what they hold is the label, or `bad` for none."""
    waits = iter(pauses)

    async def read(data: bytes) -> Content:
        await asyncio.sleep(next(waits, 0))
        if data == b"bad":
            raise Unread(PROBLEM)
        return PREDICTION | {"label": data.decode()}

    return [reading async for reading in read_all(files, read, at_once)]


def test_what_came_of_files_is_in_their_order_however_long_each_takes(tmp_path: Path) -> None:
    files = write(tmp_path, *"abc")
    for file in files:
        file.write_text(file.name)
    readings = asyncio.run(collect(files, pauses=[0.05, 0, 0.02]))
    assert [each.prediction["label"] for each in readings if each.prediction] == ["a", "b", "c"]
    assert [each.file for each in readings] == files


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    files = write(tmp_path, "bad", "good")
    for file in files:
        file.write_text(file.name)
    files = [tmp_path / "none", files[0], tmp_path, files[1]]
    readings = asyncio.run(collect(files, at_once=1))
    assert [each.remark for each in readings] == [
        "No such file or directory.",
        PROBLEM["detail"],
        "A folder without any PNG, JPEG or DICOM file.",
        "bit-depth-inferred no-answer-at-95%",
    ]
    assert [each.prediction is None for each in readings] == [True, True, True, False]


def test_no_more_files_are_read_at_once_than_may_be(tmp_path: Path) -> None:
    now, most = 0, 0

    async def read(_: bytes) -> Content:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return PREDICTION

    async def count() -> int:
        files = write(tmp_path, *map(str, range(10)))
        return len([each async for each in read_all(files, read, 3)])

    assert asyncio.run(count()) == 10
    assert most == 3


# --- showing


def test_a_reading_is_a_line_of_json_or_of_text_that_says_what_its_number_is() -> None:
    good, bad = Reading(Path("a.png"), PREDICTION), Reading(Path("b.png"), problem=PROBLEM)
    assert json.loads(good.as_json()) == {"file": "a.png"} | PREDICTION
    assert json.loads(bad.as_json()) == {"file": "b.png", "problem": PROBLEM}
    remark = "bit-depth-inferred no-answer-at-95%"
    assert good.as_row() == f"Normal     p(COVID-19)=20.0%   a.png  {remark}"
    assert bad.as_row() == f"-          -                   b.png  {PROBLEM['detail']}"


def test_a_line_has_a_remark_where_the_model_itself_gives_no_answer_and_else_none() -> None:
    sure = PREDICTION | {"prediction_set": {"95%": ["Normal"]}, "warnings": []}
    unsure = sure | {"prediction_set": {"90%": [], "95%": []}}
    assert Reading(Path("a.png"), sure).as_row().endswith("  a.png")
    assert Reading(Path("a.png"), unsure).remark == "no-answer-at-90% no-answer-at-95%"


def test_a_table_tells_of_every_file_and_that_it_is_no_medical_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    print_table([Reading(Path("a[red].png"), PREDICTION), Reading(Path("b.png"), problem=PROBLEM)])
    out = capsys.readouterr().out
    assert re.search(r"a\[red\]\.png +│ Normal +│ +20\.0% │ 90%: Normal +│ +0\.90 │ bit-depth", out)
    assert "95%: no answer" in out
    assert re.search(rf"b\.png +│ - .*{re.escape(PROBLEM['detail'])}", out)
    assert "COVID-19" in out
    assert "1 of 2 answered. Research software, no medical device." in out


def test_progress_is_shown_on_a_terminals_standard_error_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(total: int, *, wanted: bool = True) -> str:
        with progress(total, wanted=wanted) as advance:
            for _ in range(total):
                advance()
        out, err = capsys.readouterr()
        assert out == ""
        return err

    assert show(3) == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert show(3, wanted=False) == show(1) == ""
    assert "3/3" in show(3)
