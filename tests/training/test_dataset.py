import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.imaging import decode, to_model_input
from tests.training.conftest import draw
from training import dataset
from training.config import Data
from training.dataset import Record, Rejected
from training.errors import DatasetInvalid

RULES = Data(folds=4)


def reasons(scan: dataset.Scan) -> dict[str, str]:
    return {file.file: file.reason for file in scan.rejected}


def test_training_pixels_are_the_services_pixels(data: Path) -> None:
    scan = dataset.scan(data, RULES)
    for record, pixels in zip(scan.records, scan.pixels, strict=True):
        served = to_model_input(decode((data / record.file).read_bytes()).pixels)
        assert np.array_equal(pixels, served)


def test_files_that_cannot_be_used_are_reported_by_name_and_stop_nothing(data: Path) -> None:
    (data / "Normal" / "empty.png").write_bytes(b"")
    (data / "Normal" / "notes.txt").write_text("not an image")
    whole = (data / "Normal" / "00.png").read_bytes()
    (data / "Normal" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (data / "Martian").mkdir()
    (data / "Martian" / "x.png").write_bytes(whole)
    (data / "loose.png").write_bytes(whole)
    scan = dataset.scan(data, RULES)
    assert len(scan.records) == 32
    found = reasons(scan)
    assert set(found) == {
        "Normal/empty.png",
        "Normal/notes.txt",
        "Normal/cut.png",
        "Martian/x.png",
        "loose.png",
    }
    assert "empty" in found["Normal/empty.png"]
    assert "Martian" in found["Martian/x.png"]


def test_a_file_larger_than_any_xray_is_reported_and_not_read(data: Path) -> None:
    (data / "Normal" / "archive.zip").touch()
    os.truncate(data / "Normal" / "archive.zip", dataset.LARGEST_FILE + 1)
    found = reasons(dataset.scan(data, RULES))
    assert found == {"Normal/archive.zip": "larger than 256 MiB, as no X-ray is"}


def test_what_an_index_names_and_is_no_file_is_reported(data: Path) -> None:
    os.mkfifo(data / "pipe.png")
    rows = ["COVID-19/00.png", "Normal/00.png", "pipe.png", "Normal", "Normal/\0.png"]
    (data / "index.csv").write_text("file,label\n" + "".join(f"{row},Normal\n" for row in rows))
    scan = dataset.scan(data, RULES)
    assert len(scan.records) == 2
    assert reasons(scan) == {
        "pipe.png": "not a file",
        "Normal": "not a file",
        "Normal/\0.png": "no file's name holds a NUL",
    }


def test_an_index_names_labels_cohorts_and_missing_files(data: Path) -> None:
    (data / "index.csv").write_text(
        "file,label,cohort\nCOVID-19/00.png,covid,a\nNormal/00.png,Normal,b\nNormal/gone.png,Normal,b\n"
    )
    scan = dataset.scan(data, Data(aliases={"COVID": "COVID-19"}))
    assert [(r.file, r.label, r.cohort) for r in scan.records] == [
        ("COVID-19/00.png", "COVID-19", "a"),
        ("Normal/00.png", "Normal", "b"),
    ]
    assert reasons(scan) == {"Normal/gone.png": "No such file or directory"}


def test_a_folder_in_a_labels_folder_is_a_cohort(data: Path) -> None:
    (data / "Normal" / "north").mkdir()
    shutil.move(data / "Normal" / "00.png", data / "Normal" / "north" / "00.png")
    cohorts = {r.file: r.cohort for r in dataset.scan(data, RULES).records}
    assert cohorts["Normal/north/00.png"] == "north"
    assert cohorts["Normal/01.png"] == ""


def test_of_the_same_pixels_the_first_is_used(data: Path) -> None:
    picture = Image.open(data / "Normal" / "03.png")
    picture.save(data / "Normal" / "copy.png", compress_level=0)
    assert reasons(dataset.scan(data, RULES)) == {"Normal/copy.png": "a copy of Normal/03.png"}


def test_of_the_same_pixels_under_two_labels_none_is_used(data: Path) -> None:
    shutil.copy(data / "Normal" / "03.png", data / "COVID-19" / "other.png")
    scan = dataset.scan(data, RULES)
    assert set(reasons(scan)) == {"Normal/03.png", "COVID-19/other.png"}
    assert len(scan.records) == 31


def test_a_public_databases_own_names_are_known_and_its_masks_are_no_xrays(data: Path) -> None:
    (data / "COVID-19").rename(data / "images")
    (data / "COVID" / "masks").mkdir(parents=True)
    (data / "images").rename(data / "COVID" / "images")
    shutil.copy(data / "Normal" / "03.png", data / "COVID" / "masks" / "a.png")
    scan = dataset.scan(data, RULES)
    assert sum(r.label == "COVID-19" for r in scan.records) == 16
    assert reasons(scan) == {"COVID/masks/a.png": "in a folder of masks, which are no X-rays"}


def test_a_folder_without_labels_is_refused_with_the_layout_and_the_commonest_reasons(
    tmp_path: Path,
) -> None:
    draw(tmp_path / "flat", 3, brightness=90)
    draw(tmp_path / "flat" / "north", 1, brightness=0)
    with pytest.raises(DatasetInvalid) as refused:
        dataset.scan(tmp_path / "flat", RULES)
    assert "in folders with these names or named by its index.csv" in str(refused.value)
    assert "3 x it has no label; 1 x label 'north' is not one of the" in str(refused.value)


def test_a_name_that_is_no_utf_8_is_written_all_the_same(data: Path, tmp_path: Path) -> None:
    name = os.fsdecode("Jürgen.png".encode("latin-1"))
    (data / "Normal" / "03.png").rename(data / "Normal" / name)
    (data / "Normal" / os.fsdecode(b"\xff.txt")).write_text("no image")
    scan = dataset.scan(data, RULES)
    assert len(scan.records) == 32
    dataset.write_csv(tmp_path / "x.csv", scan.records, Record)
    dataset.write_csv(tmp_path / "y.csv", scan.rejected, Rejected)
    assert "Normal/J\\udcfcrgen.png" in (tmp_path / "x.csv").read_text()


def test_a_patients_images_and_their_near_duplicates_are_one_group(data: Path) -> None:
    rows = [f"COVID-19/{i:02}.png,COVID-19,{'ABA'[i % 3]}" for i in range(6)]
    rows += ["Normal/00.png,Normal,A", "Normal/01.png,Normal,", "Normal/02.png,Normal, "]
    (data / "index.csv").write_text("\n".join(["file,label,patient", *rows]))
    records = dataset.group(dataset.scan(data, RULES).records, bits=0)
    first = {r.file for r in records if r.group == records[0].group}
    assert first == {f"COVID-19/{i:02}.png" for i in (0, 2, 3, 5)} | {"Normal/00.png"}
    assert len({r.group for r in records}) == 4


def test_a_copy_brings_its_patient_to_the_image_that_is_kept(data: Path) -> None:
    shutil.copy(data / "Normal" / "00.png", data / "Normal" / "copy.png")
    (data / "index.csv").write_text(
        "file,label,patient\nNormal/00.png,Normal,\nNormal/copy.png,Normal,A\nNormal/01.png,Normal,A\n"
    )
    records = dataset.group(dataset.scan(data, RULES).records, bits=0)
    assert [r.group for r in records] == [0, 0]


def test_who_the_patients_are_is_not_written(tmp_path: Path) -> None:
    known = Record("a.png", "Normal", "", "0", "0", 1, "train", frozenset({"Jane Doe"}))
    dataset.write_csv(tmp_path / "x.csv", [known], Record)
    assert "Jane" not in (tmp_path / "x.csv").read_text() + repr(known)
    assert dataset.read_records(tmp_path / "x.csv") == [replace(known, patients=frozenset())]


def test_a_folder_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="none that is usable"):
        dataset.scan(tmp_path, RULES)
    with pytest.raises(DatasetInvalid, match="no such folder"):
        dataset.scan(tmp_path / "gone", RULES)


def record(
    number: int, label: str = "Normal", dhash: int | None = None, cohort: str = ""
) -> Record:
    # Places far apart in the hash: numbers differ in more bits than a group allows.
    bits = dhash if dhash is not None else ((1 << 12) - 1) << (12 * (number % 20)) | number << 245
    return Record(f"{number}.png", label, cohort, f"{number:064x}", f"{bits:064x}")


def test_near_duplicates_are_one_group_by_chains() -> None:
    near = [record(i, dhash=(1 << bits) - 1) for i, bits in enumerate((0, 10, 20, 31))]
    groups = [r.group for r in dataset.group(near, bits=10)]
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_no_group_crosses_a_split_and_each_split_has_the_labels_shares() -> None:
    records = [record(i, label) for i, label in enumerate(["COVID-19", "Normal"] * 100)]
    # Every fifth image is a near-duplicate of the one before it but one (the same label).
    for i in range(2, 200, 5):
        records[i] = record(i, records[i].label, dhash=int(records[i - 2].dhash, 16) ^ 1)
    split = dataset.split(dataset.group(records, 10), Data(folds=5), seed=1)
    homes: dict[int, set[str]] = {}
    for r in split:
        homes.setdefault(r.group, set()).add(r.split)
    assert all(len(names) == 1 for names in homes.values())
    counts = dataset.counts(split)
    for name, share in (("test", 20), ("validation", 20), ("train", 60)):
        assert all(abs(counts[name][label] - share) <= 3 for label in ("COVID-19", "Normal"))


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    records = dataset.group(
        [record(i, lab) for i, lab in enumerate(["COVID-19", "Normal"] * 30)], 10
    )
    first = dataset.split(records, RULES, seed=1)
    assert first == dataset.split(records, RULES, seed=1)
    assert first != dataset.split(records, RULES, seed=2)


def test_other_cohorts_and_other_labels_are_held_out() -> None:
    records = [record(i, lab, cohort="a") for i, lab in enumerate(["COVID-19", "Normal"] * 8)]
    records += [record(20, "Normal", cohort="b"), record(21, "Pneumonia", cohort="a")]
    rules = Data(folds=4, cohorts=("a",), other_labels=("Pneumonia",))
    split = dataset.split(dataset.group(records, 0), rules, seed=0)
    assert [r.file for r in split if r.split == "held-out"] == ["20.png", "21.png"]


def pairs(count: int) -> list[Record]:
    """Pairs of near-duplicates, of both labels by turns."""
    hashes = [int.from_bytes(np.random.default_rng(i).bytes(31)) for i in range(count)]
    twins = [
        record(2 * i + j, ("COVID-19", "Normal")[i % 2], dhash=dhash ^ j)
        for i, dhash in enumerate(hashes)
        for j in (0, 1)
    ]
    return dataset.group(twins, 10)


def test_over_all_folds_each_image_is_tested_once_and_validates_once_and_no_group_crosses() -> None:
    records = pairs(40)
    folds = [dataset.split(records, Data(folds=5), seed=1, fold=fold) for fold in range(5)]
    assert folds[0] == dataset.split(records, Data(folds=5), seed=1)
    for image in zip(*folds, strict=True):
        splits = sorted(r.split for r in image)
        assert splits == ["test", "train", "train", "train", "validation"]
    for split in folds:
        homes = {(r.group, r.split) for r in split}
        assert len(homes) == len({r.group for r in split})
        assert dataset.counts(split)["test"] == {"COVID-19": 8, "Normal": 8}


def test_a_limit_draws_whole_groups_by_the_seed_and_holds_the_others_out() -> None:
    rules, records = Data(folds=4, limit={"COVID-19": 13}), pairs(40)
    split = dataset.split(records, rules, seed=1)
    held = {r.file for r in split if r.split == "held-out"}
    groups = {kept: {r.group for r in split if (r.file in held) != kept} for kept in (True, False)}
    # 20 groups of two: an odd limit is not reached rather than a group torn.
    assert len(held) == 40 - 12
    assert {r.label for r in split if r.file in held} == {"COVID-19"}
    assert not groups[True] & groups[False]
    assert split == dataset.split(records, rules, seed=1)
    other = dataset.split(records, rules, seed=2)
    assert held != {r.file for r in other if r.split == "held-out"}
    # All folds of a cross-validation learn from the same images.
    fold = dataset.split(records, rules, seed=1, fold=3)
    assert held == {r.file for r in fold if r.split == "held-out"}


def test_a_limit_above_what_there_is_changes_nothing() -> None:
    records = pairs(40)
    rules = Data(folds=4, limit={"Normal": 1000})
    assert dataset.split(records, rules, seed=1) == dataset.split(records, Data(folds=4), seed=1)


def test_a_limit_that_is_just_enough_leaves_nothing_out() -> None:
    records = pairs(40)
    most = sum(record.label == "Normal" for record in records)
    rules = Data(folds=4, limit={"Normal": most})
    assert dataset.split(records, rules, seed=1) == dataset.split(records, Data(folds=4), seed=1)


def test_cohorts_too_small_for_the_folds_are_split_by_their_label(data: Path) -> None:
    for file in sorted(data.glob("*/*.png")):  # a folder for each patient
        home = file.parent / f"patient{file.stem}"
        home.mkdir()
        file.rename(home / file.name)
    records = dataset.group(dataset.scan(data, RULES).records, 0)
    counts = dataset.counts(dataset.split(records, RULES, seed=0))
    assert counts["test"] == counts["validation"] == {"COVID-19": 4, "Normal": 4}


def test_a_small_cohort_does_not_keep_the_large_ones_from_being_stratified() -> None:
    cohorts = ["a"] * 16 + ["b"] * 16 + ["c", "d"]
    records = [record(i, "COVID-19", cohort=cohort) for i, cohort in enumerate(cohorts)]
    records += [record(50 + i, "Normal", cohort="a") for i in range(8)]
    split = dataset.split(dataset.group(records, 0), RULES, seed=0)
    tested = [r.cohort for r in split if r.split == "test" and r.label == "COVID-19"]
    assert tested.count("b") == 4


def test_a_split_without_one_of_the_labels_is_refused() -> None:
    groups = [(2, 0), (0, 3), (3, 3), (2, 3)]  # images of either label
    records = [
        replace(record(10 * number + i, label), group=number)
        for number, counts in enumerate(groups)
        for label, count in zip(("COVID-19", "Normal"), counts, strict=True)
        for i in range(count)
    ]
    with pytest.raises(DatasetInvalid, match=r"COVID-19 in the test split .* both labels"):
        dataset.split(records, Data(folds=3), seed=0)


def test_too_few_images_of_a_label_are_refused_by_number() -> None:
    records = [record(i, "COVID-19" if i < 2 else "Normal") for i in range(12)]
    with pytest.raises(DatasetInvalid, match=r"at least 4 .* COVID-19 .* received 2"):
        dataset.split(dataset.group(records, 0), RULES, seed=0)


def test_records_survive_their_csv(tmp_path: Path) -> None:
    records = [Record("a,b.png", "Normal", 'the "north"', "0" * 64, "f" * 64, 3, "train")]
    dataset.write_csv(tmp_path / "x.csv", records, Record)
    assert dataset.read_records(tmp_path / "x.csv") == records
    dataset.write_csv(tmp_path / "y.csv", [Rejected("a", "b")], Rejected)
    assert (tmp_path / "y.csv").read_text().splitlines() == ["file,reason", "a,b"]


def test_the_fingerprint_changes_with_pixels_labels_and_splits_only() -> None:
    base = Record("a.png", "Normal", "c", "0" * 64, "0" * 64, 0, "train")
    moved = Record("b.png", "Normal", "c", "0" * 64, "1" * 64, 5, "train")
    tested = Record("a.png", "Normal", "c", "0" * 64, "0" * 64, 0, "test")
    assert dataset.fingerprint([base]) == dataset.fingerprint([moved])
    assert dataset.fingerprint([base]) != dataset.fingerprint([tested])
