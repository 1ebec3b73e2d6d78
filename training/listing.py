"""A folder of X-rays → the files that may be used, as their place or an index tells them."""

import csv
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.config import Data
from training.errors import DatasetInvalid

log = logging.getLogger(__name__)

INDEX = "index.csv"
UNLABELLED = "unlabelled"
"""The label of a file without one, for who names it among the other labels."""

WELL_KNOWN = {"covid": "COVID-19", "covid19": "COVID-19"}
"""What public collections call a label, in lower case; a recipe's own names come first."""

LONGEST_LABEL = 80
"""Characters of an unknown label that a reason names."""

MASKS = "masks"
"""The folders in which the COVID-19 Radiography Database has the lungs' outlines."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be used.

    Attributes:
        path: Where it is.
        file: Its path inside the data folder, as text that can be written as UTF-8.
        label: As it is there.
        cohort: Empty where not known.
        patient: Whose X-ray it is, in the owner's words; empty where not known.
    """

    path: Path
    file: str
    label: str
    cohort: str
    patient: str = ""


def candidates(data: Path) -> Iterator[Candidate]:
    """List the files of a data folder, or of its index.

    Raises:
        DatasetInvalid: There is no such folder, or its index is no UTF-8, lacks a column or has a
            field that is too long.
    """
    if (data / INDEX).is_file():
        yield from _indexed(data / INDEX)
    elif data.is_dir():
        yield from _by_folder(data)
    else:
        raise DatasetInvalid(f"a folder of X-rays at {data}", "no such folder")


def labels_in(data: Path) -> set[str]:
    """Name the labels that a data folder uses, known or not.

    Raises:
        DatasetInvalid: As for `candidates`.
    """
    return {found.label.strip() for found in candidates(data)} - {""}


def canonical(label: str, rules: Data) -> str | None:
    """Give the recipe's name of a label, whatever its case; nothing where it has none."""
    known = {other: name for other, name in WELL_KNOWN.items() if name in rules.labels}
    known |= {name.casefold(): name for name in (*rules.labels, *rules.other_labels)}
    known |= {other.casefold(): name for other, name in rules.aliases.items()}
    return known.get(label.strip().casefold() or UNLABELLED)


def refusal(found: Candidate, rules: Data) -> str:
    """Say why a file is not used, as far as its place tells; nothing where it may be."""
    if MASKS in found.file.casefold().split("/")[:-1]:
        return "in a folder of masks, which are no X-rays"
    if "\0" in found.file:
        return "no file's name holds a NUL"
    if canonical(found.label, rules) is not None:
        return ""
    if not found.label.strip():
        return "it has no label"
    return f"label {found.label[:LONGEST_LABEL]!r} is not one of the recipe's"


def written(path: Path) -> str:
    """Give a path as text that can be written as UTF-8.

    A name that is no UTF-8 has what Python puts in place of its bytes, and no file takes that.
    """
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def _indexed(index: Path) -> Iterator[Candidate]:
    try:
        with index.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            columns = rows.fieldnames or ()
            if not {"file", "label"} <= set(columns):
                raise DatasetInvalid(
                    f"columns file,label,cohort in {index}", ",".join(columns) or "none"
                )
            for row in rows:
                file, label = row["file"] or "", row["label"] or ""
                cohort, patient = (row.get(name) or "" for name in ("cohort", "patient"))
                yield Candidate(index.parent / file, file, label, cohort, patient.strip())
    except UnicodeDecodeError as error:
        raise DatasetInvalid(f"{index} in UTF-8", str(error)) from error
    except csv.Error as error:
        raise DatasetInvalid(f"rows of file,label,cohort in {index}", str(error)) from error


def _by_folder(data: Path) -> Iterator[Candidate]:
    for path in _files(data):
        file = written(path.relative_to(data))
        label, *cohort = file.split("/")[:-1] or [""]
        yield Candidate(path, file, label, "/".join(cohort))


def _files(data: Path) -> list[Path]:
    """List every file below a folder in order, through links to folders as well."""
    files = []
    for name, folders, names in os.walk(data, onerror=_unreadable, followlinks=True):
        here = Path(name)
        folders[:] = [folder for folder in folders if not _leads_back(here / folder, data)]
        paths = (here / file for file in names)
        files += [path for path in paths if path.is_file() or path.is_symlink()]  # broken ones too
    return sorted(files)


def _leads_back(folder: Path, data: Path) -> bool:
    """Tell whether a folder is a link to one that it is in."""
    above = (data / part for part in folder.relative_to(data).parents)
    back = folder.is_symlink() and folder.resolve() in {place.resolve() for place in above}
    if back:
        log.warning("not followed: %s leads back to a folder that it is in", folder)
    return back


def _unreadable(error: OSError) -> None:
    log.warning("not read: %s: %s", error.filename, error.strerror)
