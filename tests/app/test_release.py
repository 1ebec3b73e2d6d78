import json
from pathlib import Path

import pytest

from app.errors import ReleaseInvalid, ReleaseNotFound
from app.release import MANIFEST, hash_files, open_release
from tests import fakes


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return fakes.write_fake_release(tmp_path)


def _change_manifest(release: Path, **changes: object) -> None:
    file = release / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_intact_release_opens_with_its_manifest_and_digest(release: Path) -> None:
    opened = open_release(release)
    assert opened.manifest.name == fakes.NAME
    assert opened.path == release
    assert len(opened.digest) == 64


def test_a_folder_without_manifest_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(ReleaseNotFound):
        open_release(tmp_path)


def test_a_changed_file_is_found(release: Path) -> None:
    (release / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(ReleaseInvalid, match=r"saved_model\.pb with SHA-256"):
        open_release(release)


@pytest.mark.parametrize("name", [MANIFEST, "saved_model.pb"])
def test_a_file_that_cannot_be_read_is_named(release: Path, name: str) -> None:
    with (
        fakes.unreadable(release / name),
        pytest.raises(ReleaseInvalid, match=f"files that can be read.*{name}: Permission denied"),
    ):
        open_release(release)


def test_a_missing_file_is_found(release: Path) -> None:
    (release / "saved_model.pb").unlink()
    with pytest.raises(ReleaseInvalid, match=r"no saved_model\.pb"):
        open_release(release)


def test_a_file_that_is_not_listed_is_found(release: Path) -> None:
    (release / "assets").mkdir()
    (release / "assets" / "extra").touch()
    with pytest.raises(ReleaseInvalid, match="also assets/extra"):
        open_release(release)


def test_a_folder_with_another_number_than_the_manifest_is_found(release: Path) -> None:
    other = release.rename(release.parent / "2")
    with pytest.raises(ReleaseInvalid, match="version 2 in the manifest"):
        open_release(other)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"labels": ["one"]}, "labels"),
        ({"temperature": 0}, "temperature"),
        ({"decision": {"threshold": 1.5, "rule": ""}}, "decision.threshold"),
        ({"unknown": 1}, "unknown"),
        ({"files": {}}, "saved_model.pb"),
        ({"files": {"../secret": "0" * 64, "saved_model.pb": "0" * 64}}, "inside the release"),
        ({"files": {"/etc/passwd": "0" * 64, "saved_model.pb": "0" * 64}}, "inside the release"),
    ],
)
def test_a_malformed_manifest_is_told_by_its_field(
    release: Path, changes: dict[str, object], where: str
) -> None:
    _change_manifest(release, **changes)
    with pytest.raises(ReleaseInvalid, match=where):
        open_release(release)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_a_manifest_that_is_no_object_is_malformed(release: Path, text: bytes) -> None:
    (release / MANIFEST).write_bytes(text)
    with pytest.raises(ReleaseInvalid, match="schema version 1"):
        open_release(release)


def test_hashes_are_by_path_inside_the_release_and_leave_the_manifest_out(release: Path) -> None:
    (release / "evaluation").mkdir()
    (release / "evaluation" / "roc.png").write_bytes(b"")
    hashes = hash_files(release)
    assert list(hashes) == ["evaluation/roc.png", "saved_model.pb"]
    assert hashes["evaluation/roc.png"].startswith("e3b0c442")
