"""A run: one work folder in which the stages leave what the next ones need.

run.json        the recipe, the data folder, the versions: what the run is
dataset.csv     every used file with its group and split
rejected.csv    every file that is not used, with the reason
images.csv      instead of dataset.csv: the same without splits, for a cross-validation only
pixels.npy      uint8 `[n, 224, 224, 1]`, in the order of dataset.csv
fit/            see `training.fit`
remeasured.json the manifest of a release whose network is measured anew, see `training.remeasure`
"""

import json
import logging
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.imaging import Pixels
from training import dataset
from training.config import Config
from training.dataset import Record, Rejected
from training.errors import DatasetInvalid, RunMismatch
from training.files import write_whole

log = logging.getLogger(__name__)

NOT_DECISIVE = {"note", "about_data"}
SPLIT, UNSPLIT = "dataset.csv", "images.csv"
PACKAGES = ("tensorflow", "keras", "openvino", "numpy", "pillow", "scikit-learn", "imagehash")


@dataclass(frozen=True, slots=True)
class Run:
    """A work folder and what it is for.

    Attributes:
        folder: The work folder.
        config: The recipe, with its backbone.
        recipe: The recipe's file.
        data: The data folder.
    """

    folder: Path
    config: Config
    recipe: Path
    data: Path

    @property
    def command(self) -> str:
        """The command that makes such a release out of the same data.

        What the run went on from, and what `card` adds to it, are told beside it on the card.
        """
        return (
            f"python -m training run --data DIR --config {self.recipe} "
            f"--backbone {self.config.backbone} --out model_store"
        )

    def record(self) -> None:
        """Write `run.json`, or compare with the one that is there.

        Raises:
            RunMismatch: The folder holds a run of another recipe or other data.
        """
        file = self.folder / "run.json"
        mine = {"config": _decisive(self.config), "data": str(self.data)}
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            whole = {"config": self.config.model_dump(mode="json")}  # its notes are for cards
            text = json.dumps(mine | whole | environment(), indent=2)
            write_whole(file, lambda path: path.write_text(text, encoding="utf-8"))
            return
        theirs = json.loads(file.read_text())
        theirs["config"] = _completed(theirs["config"])
        for key, value in mine.items():
            if theirs[key] != value:
                raise RunMismatch(
                    f"a run with the same {key} in {self.folder} (or give another --work)",
                    f"another {key}: {_differences(theirs[key], value)}",
                )

    def scan(self, folds: int = 0) -> None:
        """Read, deduplicate, group and split the data, once.

        Args:
            folds: Of a cross-validation, if it is for one: data that is enough for these, but not
                for the recipe's own split, is kept without it, in `images.csv`.

        Raises:
            DatasetInvalid: There is too little data to split.
        """
        done = (SPLIT, UNSPLIT) if folds else (SPLIT,)
        if any((self.folder / name).exists() for name in done):
            return
        found = dataset.scan(self.data, self.config.data)
        dataset.write_csv(self.folder / "rejected.csv", found.rejected, Rejected)
        tell_rejected(found.rejected)
        records = dataset.group(found.records, self.config.data.duplicate_bits)
        name, records = self._split(records, folds)
        report(records, found.rejected)
        write_whole(self.folder / "pixels.npy", lambda path: np.save(path, found.pixels))
        write_whole(self.folder / name, lambda path: dataset.write_csv(path, records, Record))

    def _split(self, records: list[Record], folds: int) -> tuple[str, list[Record]]:
        """Split by the recipe; where that cannot be, and need not, see that `folds` can."""
        rules, seed = self.config.data, self.config.seed
        try:
            return SPLIT, dataset.split(records, rules, seed)
        except DatasetInvalid:
            if not folds:
                raise
        dataset.split(records, rules.model_copy(update={"folds": folds}), seed)
        return UNSPLIT, records

    def records(self) -> list[Record]:
        """The scanned images with their splits, in the order of `pixels`."""
        return dataset.read_records(self.need(SPLIT, "scan"))

    def images(self) -> list[Record]:
        """The scanned images, whether the recipe could split them or not, the same way."""
        if (self.folder / SPLIT).exists():
            return self.records()
        return dataset.read_records(self.need(UNSPLIT, "crossval"))

    def pixels(self) -> Pixels:
        """uint8 `[n, 224, 224, 1]`, mapped from the disk."""
        pixels: Pixels = np.load(self.need("pixels.npy", "scan"), mmap_mode="r")
        return pixels

    def targets(self, records: Sequence[Record]) -> NDArray[np.float32]:
        """One-hot float32 `[n, labels]`."""
        labels = self.config.data.labels
        codes = [labels.index(record.label) for record in records]
        return np.eye(len(labels), dtype=np.float32)[codes]

    def need(self, name: str, stage: str) -> Path:
        """Give the path of what an earlier stage left.

        Raises:
            RunMismatch: That stage has not run in this folder.
        """
        path = self.folder / name
        if not path.exists():
            raise RunMismatch(f"{path}, which `python -m training {stage}` makes", "none")
        return path


def environment() -> dict[str, Any]:
    """Name what a result depends on besides recipe and data."""
    return {
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "hardware": f"{platform.machine()}, {_processor()}",
    }


def places(records: Sequence[Record], name: str) -> NDArray[np.int64]:
    """Where the records of a split are, int64 `[k]`."""
    return np.flatnonzero([record.split == name for record in records])


def tell_rejected(rejected: Sequence[Rejected]) -> None:
    """Name every file that is not used."""
    for file in rejected:
        log.warning("not used: %s: %s", file.file, file.reason)


def report(records: Sequence[Record], rejected: Sequence[Rejected]) -> None:
    """Say what was found."""
    log.info("%d X-rays used, %d files not", len(records), len(rejected))
    sizes = Counter(Counter(record.group for record in records).values())
    log.info(
        "groups of near-duplicates or of one patient: %d",
        sum(n for size, n in sizes.items() if size > 1),
    )
    for name, labels in dataset.counts(records).items():
        log.info("%s: %s", name, ", ".join(f"{n} {label}" for label, n in labels.items()))


def _differences(theirs: object, mine: object, most: int = 3) -> str:
    """Name the settings that differ, with both values."""
    there, here = dict(_settings(theirs)), dict(_settings(mine))
    names = [name for name in here | there if there.get(name) != here.get(name)]
    told = [f"{n} ({there.get(n, 'none')} there, {here.get(n, 'none')} here)" for n in names]
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(told[:most] + more).lstrip()


def _settings(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Give every single setting: its name, such as `stages.0.epochs`, and its value."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _settings(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _decisive(config: Config) -> dict[str, Any]:
    """Leave out what is only for the card's reader and changes no result."""
    return config.model_dump(mode="json", exclude=NOT_DECISIVE)


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """Add to an older run's recipe what recipes say since: it means the defaults."""
    try:
        return _decisive(Config.model_validate(config))
    except ValidationError:
        # It says what no recipe says any more, and equals none.
        return {key: value for key, value in config.items() if key not in NOT_DECISIVE}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()
