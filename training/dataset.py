"""A folder of X-rays → records → groups of near-duplicates → a seeded split.

Every file that is not used is reported by name with its reason; none stops a run.
"""

import csv
import hashlib
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from app.errors import InputError
from app.imaging import Pixels, decode
from training.config import Data
from training.errors import DatasetInvalid
from training.listing import INDEX, Candidate, candidates, canonical, refusal

HASH_SIDE = 16  # a difference hash of 16 x 16 = 256 bits
LARGEST_FILE = 256 * 2**20
"""Bytes. The largest image that is decoded has half of that at 16 bits, without any compression."""

SPLITS = ("train", "validation", "test", "held-out")


@dataclass(frozen=True, slots=True)
class Record:
    """A file that is used: its place in the pixels' array is its place in the list of records.

    Attributes:
        file: Path inside the data folder.
        label: One of the recipe's labels or other labels.
        cohort: Where it comes from; empty where not known.
        sha256: Of the model's input, so that the same picture in two file types is the same.
        dhash: 256-bit difference hash, hexadecimal.
        group: Number of its group of near-duplicates, and of the same patients' images.
        split: `train`, `validation`, `test`, or `held-out` for what is evaluated on its own.
        patients: Whose X-ray it is, where known; several where copies of it say so. For the groups
            alone: never written.
    """

    file: str
    label: str
    cohort: str
    sha256: str
    dhash: str
    group: int = -1
    split: str = ""
    patients: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is not used, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What a data folder holds.

    Attributes:
        records: In the order of `pixels`.
        pixels: uint8 `[n, 224, 224, 1]`.
        rejected: Files that are not used.
    """

    records: list[Record]
    pixels: Pixels
    rejected: list[Rejected]


def scan(data: Path, rules: Data) -> Scan:
    """Read every image of a folder, through the service's own decoder.

    Args:
        data: Folders named by label (with folders named by cohort in them, or not), or a folder
            with an `index.csv` of `file,label` and, where known, `cohort,patient`.
        rules: Labels and their other names.

    Raises:
        DatasetInvalid: The folder holds no usable image, or its index lacks a column.
    """
    rejected: list[Rejected] = []
    usable = []
    for found in candidates(data):
        reason = refusal(found, rules)
        label = canonical(found.label, rules)
        if reason or label is None:
            rejected.append(Rejected(found.file, reason))
        else:
            usable.append(replace(found, label=label))
    records, images = [], []
    for found, outcome in zip(usable, _read_all(usable), strict=True):
        if isinstance(outcome, str):
            rejected.append(Rejected(found.file, outcome))
        else:
            records.append(_record(found, outcome))
            images.append(outcome)
    records, images = _without_copies(records, images, rejected)
    if not records:
        names = ", ".join(rules.labels)
        raise DatasetInvalid(
            f"X-rays of {names} in {data}, in folders with these names or named by its {INDEX}",
            f"none that is usable{commonest(rejected)}",
        )
    return Scan(records, np.stack(images), rejected)


def commonest(rejected: Sequence[Rejected], most: int = 3) -> str:
    """Tell the commonest reasons why files are not used, each with its number of files."""
    reasons = Counter(file.reason for file in rejected).most_common(most)
    return "".join(f"; {count} x {reason}" for reason, count in reasons)


def group(records: Sequence[Record], bits: int) -> list[Record]:
    """Number the groups: chains of near-duplicates and of images of the same patient.

    Near-duplicates are within `bits` of each other's hash. A patient is one in all cohorts and
    under all labels.
    """
    hashes = np.array([_words(record.dhash) for record in records])  # [n, 4] uint64
    pairs = [
        (first, int(second))
        for first in range(len(hashes))
        for second in first + 1 + np.flatnonzero(_distances(hashes, first) <= bits)
    ]
    first_of: dict[str, int] = {}
    pairs += [(first_of.setdefault(p, i), i) for i, r in enumerate(records) for p in r.patients]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(hashes), len(hashes)))
    numbers = connected_components(graph, directed=False)[1]
    return [replace(r, group=int(number)) for r, number in zip(records, numbers, strict=True)]


def split(records: Sequence[Record], rules: Data, seed: int, fold: int = 0) -> list[Record]:
    """Give every record its split: stratified by label and cohort, no group in two splits.

    A cohort with fewer groups of a label than there are folds counts to the label's largest one.
    A held-out record whose group also holds a record to learn from is still held out: it is never
    trained on.

    Args:
        records: With their groups.
        rules: What is learned from, and the number of folds.
        seed: Of the folds, and of what is drawn where the recipe limits a label.
        fold: From 0: the one that is the test split; the next is validation.

    Raises:
        DatasetInvalid: A label has fewer groups than the recipe has folds, or so few without the
            other label in them that a split would have none of it.
    """
    pool = _drawn(records, rules, seed)
    learned = [records[i] for i in pool]
    _check_pool(learned, rules)
    strata, groups = _strata(learned, rules.folds), [record.group for record in learned]
    folds = StratifiedGroupKFold(rules.folds, shuffle=True, random_state=seed)
    parts = [part for _, part in folds.split(pool, strata, groups)]
    names = dict.fromkeys(range(len(records)), "held-out") | dict.fromkeys(pool, "train")
    for name, part in (("test", parts[fold]), ("validation", parts[(fold + 1) % len(parts)])):
        names.update({pool[int(i)]: name for i in part})
    made = [replace(record, split=names[i]) for i, record in enumerate(records)]
    _check_splits(made, rules)
    return made


def fingerprint(records: Iterable[Record]) -> str:
    """Hash what a release is made from: each record's pixels, label, cohort and split."""
    lines = sorted(f"{r.sha256},{r.label},{r.cohort},{r.split}" for r in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def counts(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Count the images: split → label → number."""
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        table[record.split][record.label] += 1
    return {name: dict(sorted(table[name].items())) for name in SPLITS if name in table}


def write_csv(path: Path, rows: Sequence[Record] | Sequence[Rejected], kind: type) -> None:
    """Write records or rejected files, a row each, without the patients."""
    names = [column.name for column in fields(kind) if column.name != "patients"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_records(path: Path) -> list[Record]:
    """Read what `write_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    return [Record(**{**row, "group": int(row["group"])}) for row in rows]


def _read_all(files: Sequence[Candidate]) -> Iterator[Pixels | str]:
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        yield from track(pool.map(_read, files), "Reading X-rays", total=len(files))


def _read(found: Candidate) -> Pixels | str:
    try:
        status = found.path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe may take for ever
            return "not a file"
        if status.st_size > LARGEST_FILE:
            return f"larger than {LARGEST_FILE >> 20} MiB, as no X-ray is"
        return decode(found.path.read_bytes(), reduced=True).to_model_input()
    except InputError as error:
        return str(error)
    except OSError as error:
        return error.strerror or "cannot be opened"


def _record(found: Candidate, pixels: Pixels) -> Record:
    picture = Image.fromarray(pixels[..., 0])
    return Record(
        file=found.file,
        label=found.label,
        cohort=found.cohort,
        patients=frozenset({found.patient} - {""}),
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        dhash=str(imagehash.dhash(picture, HASH_SIDE)),
    )


def _without_copies(
    records: list[Record], images: list[Pixels], rejected: list[Rejected]
) -> tuple[list[Record], list[Pixels]]:
    """Keep the first of the same pixels, for the patients of all of them.

    Where their labels differ, none is right: keep none.
    """
    first: dict[str, Record] = {}
    labels: defaultdict[str, set[str]] = defaultdict(set)
    patients: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        first.setdefault(record.sha256, record)
        labels[record.sha256].add(record.label)
        patients[record.sha256] |= record.patients
    kept = []
    for place, record in enumerate(records):
        original = first[record.sha256]
        if len(labels[record.sha256]) > 1:
            both = " and ".join(sorted(labels[record.sha256]))
            rejected.append(Rejected(record.file, f"the same pixels are labelled {both}"))
        elif record is original:
            kept.append(place)
        else:
            rejected.append(Rejected(record.file, f"a copy of {original.file}"))
    whole = [replace(records[i], patients=frozenset(patients[records[i].sha256])) for i in kept]
    return whole, [images[i] for i in kept]


def _words(dhash: str) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(dhash), dtype=np.uint64)


def _distances(hashes: NDArray[np.uint64], first: int) -> NDArray[np.int64]:
    """Hamming distances of one hash to all behind it."""
    different = np.bitwise_count(hashes[first + 1 :] ^ hashes[first])
    distances: NDArray[np.int64] = different.sum(axis=1, dtype=np.int64)
    return distances


def _learnable(record: Record, rules: Data) -> bool:
    return record.label in rules.labels and (not rules.cohorts or record.cohort in rules.cohorts)


def _drawn(records: Sequence[Record], rules: Data, seed: int) -> list[int]:
    """Say where the records to learn from are: all that may be, or as many as a limit allows.

    Whole groups are drawn, so that what is left over, and held out, holds no near-duplicate under
    the same label of what is learned from.
    """
    rng = np.random.default_rng(seed)
    pool = [i for i, record in enumerate(records) if _learnable(record, rules)]
    dropped: set[int] = set()
    for label, most in sorted(rules.limit.items()):
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for i in pool:
            if records[i].label == label:
                groups[records[i].group].append(i)
        left = most
        for number in rng.permutation(sorted(groups)):
            members = groups[int(number)]
            if len(members) <= left:
                left -= len(members)
            else:
                dropped.update(members)
    return [i for i in pool if i not in dropped]


def _check_pool(pool: Sequence[Record], rules: Data) -> None:
    for label in rules.labels:
        groups = len({record.group for record in pool if record.label == label})
        if groups < rules.folds:
            raise DatasetInvalid(
                f"at least {rules.folds} different X-rays of {label} to split", str(groups)
            )


def _check_splits(records: Sequence[Record], rules: Data) -> None:
    found = {(record.split, record.label) for record in records}
    for name in ("train", "validation", "test"):
        for label in rules.labels:
            if (name, label) not in found:
                raise DatasetInvalid(
                    f"X-rays of {label} in the {name} split (try fewer folds or another seed)",
                    "none, since groups hold both labels",
                )


def _strata(pool: Sequence[Record], folds: int) -> list[str]:
    groups: defaultdict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for record in pool:
        groups[record.label][record.cohort].add(record.group)
    largest = {
        label: max(cohorts, key=lambda cohort: len(cohorts[cohort]))
        for label, cohorts in groups.items()
    }
    cohorts = [
        r.cohort if len(groups[r.label][r.cohort]) >= folds else largest[r.label] for r in pool
    ]
    return [f"{r.label}/{cohort}" for r, cohort in zip(pool, cohorts, strict=True)]
