import errno
import os
from pathlib import Path

import pytest

from app.errors import ReleaseNotFound
from app.versions import PIN, find_versions, read_pin, sign


def test_versions_are_folders_with_a_number_for_a_name(tmp_path: Path) -> None:
    for name in ("1", "10", "0", "02", "³", "3.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").touch()
    assert sorted(find_versions(tmp_path)) == [1, 10]


def test_a_folder_that_cannot_be_looked_through_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").mkdir()
    is_dir = Path.is_dir

    def may_look(path: Path) -> bool:
        if path.name == "1":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", may_look)
    with pytest.raises(ReleaseNotFound, match=r"a folder of versions .*Permission denied"):
        find_versions(tmp_path)


@pytest.mark.parametrize(("text", "version"), [("3", 3), ("3\n", 3), ("003", 3)])
def test_a_pin_is_a_number(tmp_path: Path, text: str, version: int) -> None:
    (tmp_path / PIN).write_text(text)
    assert read_pin(tmp_path) == version


def test_a_pin_of_very_many_digits_is_none(tmp_path: Path) -> None:
    (tmp_path / PIN).write_text("9" * 5000)
    with pytest.raises(ReleaseNotFound, match="5000 characters"):
        read_pin(tmp_path)


def test_without_a_pin_there_is_none(tmp_path: Path) -> None:
    assert read_pin(tmp_path) is None
    assert read_pin(tmp_path / "nowhere") is None


def test_a_signature_changes_with_a_files_bytes_and_with_who_may_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    before = sign(tmp_path)
    assert sign(tmp_path) == before
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert sign(tmp_path) != before
    file.write_bytes(b"12")
    assert sign(tmp_path) != before
