import os
from pathlib import Path

import pytest

from training import listing
from training.config import Data
from training.errors import DatasetInvalid

RULES = Data(other_labels=("Pneumonia",), aliases={"healthy": "Normal"})


def listed(data: Path) -> dict[str, tuple[str, str]]:
    return {found.file: (found.label, found.cohort) for found in listing.candidates(data)}


def write(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("covid-19", "COVID-19"),
        ("COVID", "COVID-19"),
        ("COVID19", "COVID-19"),
        (" NORMAL ", "Normal"),
        ("Healthy", "Normal"),
        ("pneumonia", "Pneumonia"),
        ("", None),
        ("Martian", None),
    ],
)
def test_labels_are_known_by_the_recipes_names_and_those_of_public_collections(
    label: str, name: str | None
) -> None:
    assert listing.canonical(label, RULES) == name


def test_a_recipes_own_names_come_before_those_of_public_collections() -> None:
    assert listing.canonical("COVID", Data(other_labels=("COVID",))) == "COVID"
    assert listing.canonical("COVID", Data(labels=("Sick", "Well"))) is None


def test_files_without_a_label_are_used_where_the_rules_name_them() -> None:
    assert listing.canonical("", Data(other_labels=("unlabelled",))) == "unlabelled"


def test_folders_are_labels_and_those_in_them_cohorts(tmp_path: Path) -> None:
    write(tmp_path / "a.png", tmp_path / "Normal" / "b.png", tmp_path / "Normal" / "x" / "y" / "c")
    assert listed(tmp_path) == {
        "a.png": ("", ""),
        "Normal/b.png": ("Normal", ""),
        "Normal/x/y/c": ("Normal", "x/y"),
    }


def test_links_are_followed_but_to_a_folder_that_they_are_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    write(archive / "a.png", data / "COVID-19" / "b.png")
    (data / "Normal").symlink_to(archive)
    (archive / "up").symlink_to(data)
    (data / "COVID-19" / "again").symlink_to(data / "COVID-19")
    (data / "COVID-19" / "gone.png").symlink_to(tmp_path / "nowhere")
    assert list(listed(data)) == ["COVID-19/b.png", "COVID-19/gone.png", "Normal/a.png"]
    assert caplog.text.count("leads back") == 2


def test_an_index_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("path,class\nx,y\n")
    with pytest.raises(DatasetInvalid, match="path,class"):
        listed(tmp_path)


def test_an_index_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("file,label\nJürgen.png,Normal\n", encoding="cp1252")
    with pytest.raises(DatasetInvalid, match=r"index\.csv in UTF-8; received .* byte 0xfc"):
        listed(tmp_path)


def test_an_index_with_a_field_of_more_than_131072_characters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(f"file,label\na.png,{'x' * 131_073}\n")
    with pytest.raises(DatasetInvalid, match=r"index\.csv; received .* field limit"):
        listed(tmp_path)


def test_a_reason_names_no_more_than_the_beginning_of_a_long_label(tmp_path: Path) -> None:
    found = listing.Candidate(tmp_path / "a.png", "a.png", "x" * 131_072, "")
    assert len(listing.refusal(found, RULES)) < 200


def test_a_path_of_bytes_that_are_no_utf_8_can_be_written_as_utf_8() -> None:
    assert listing.written(Path("a") / os.fsdecode(b"\xff.png")) == "a/\\udcff.png"
