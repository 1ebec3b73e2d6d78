"""Many files at the command line: found, read several at once, and shown in their order."""

import asyncio
import glob
import json
import math
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from app.errors import ClientUnavailable, CovidXrayError, KeysInvalid
from app.schemas import PredictionSchema, Problem
from app.service import InferenceService

Content = dict[str, Any]
"""A prediction or a problem, as JSON has it."""

Read = Callable[[bytes], Awaitable[Content]]
"""Gives a file's prediction, and raises `Unread` where there is none."""

AT_A_SERVER = 4
"""Files that are sent to a server at once."""

_SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom"}
_DICOM = slice(128, 132), b"DICM"
_LIST_OF_FILES = "DICOMDIR"


class Unread(Exception):
    """A file has no prediction.

    Args:
        problem: Why; `detail` tells it to people.
    """

    def __init__(self, problem: Content) -> None:
        super().__init__(problem["detail"])
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a file.

    Attributes:
        file: Its path, as it was found.
        prediction: The answer, where there is one.
        problem: Else why there is none.
    """

    file: Path
    prediction: Content | None = None
    problem: Content | None = None

    @property
    def positive(self) -> float | None:
        """The first label's probability, in [0, 1]."""
        return next(iter(self.prediction["probabilities"].values())) if self.prediction else None

    @property
    def remark(self) -> str:
        """What a person should know beside the answer, or why there is none."""
        if self.prediction is None:
            return str(self.problem["detail"]) if self.problem else ""
        return " ".join(remarks_on(self.prediction))

    def as_json(self) -> str:
        """Write it as one line of JSON."""
        beside = self.prediction or {"problem": self.problem}
        return json.dumps({"file": str(self.file)} | beside)

    def as_row(self) -> str:
        """Write it as one line of text."""
        return write_row(self.prediction, str(self.file), self.remark)


def remarks_on(prediction: Content) -> list[str]:
    """Name a prediction's warnings, and where the model says itself that it has no answer."""
    sets = prediction["prediction_set"]
    empty = [f"no-answer-at-{confidence}" for confidence, labels in sets.items() if not labels]
    return [each["code"] for each in prediction["warnings"]] + empty


def write_row(prediction: Content | None, name: str, remark: str) -> str:
    """Write a line of text: label, the first label's probability, whose they are, a remark."""
    label = probability = "-"
    if prediction:
        label = prediction["label"]
        positive, value = next(iter(prediction["probabilities"].items()))
        probability = f"p({positive})={value:.1%}"
    return f"{label:<10} {probability:<18}  {name}  {remark}".rstrip()


def find_files(arguments: Iterable[str]) -> list[Path]:
    """Find the files that are meant, each once.

    Args:
        arguments: Files; folders, of which all that `walk` gives is meant; patterns such as `*.dcm`
            or `**/*.png`. What is not there stays as it is.
    """
    found = (path for argument in arguments for path in _find(argument))
    return list(dict.fromkeys(found))


def _find(argument: str) -> Sequence[Path]:
    path = Path(argument)
    try:
        if path.is_dir():
            return sorted(map(Path, walk(str(path)))) or [path]
        if path.exists():
            return [path]
    except OSError:  # such as a name that is too long; a pattern may be
        pass
    return [Path(each) for each in sorted(glob.glob(argument, recursive=True))] or [path]  # noqa: PTH207 -- Path.glob takes no absolute pattern


def walk(folder: str) -> Iterator[str]:
    """Find a folder's PNG, JPEG and DICOM files, also those below, in no order.

    Links to folders are not followed. A folder that cannot be listed is given as if it were a file,
    and so is what cannot be looked at, or is a link to nothing: to read it tells why.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry):
                    yield from walk(entry.path)
                elif _is_xray(Path(entry.path)):
                    yield entry.path
    except OSError:
        yield folder


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_xray(path: Path) -> bool:
    """Tell whether a file looks like one that is read, by its name, or as DICOM by its bytes."""
    named = is_named_xray(path.name)
    if named is False:
        return False
    try:
        if not path.is_file():
            return path.is_symlink() and not path.exists()
        return named or _is_dicom(path)
    except FileNotFoundError:  # it has gone meanwhile
        return False
    except OSError:
        return True


def is_named_xray(name: str) -> bool | None:
    """Tell whether a name is one of a file that is read; None where the file may be DICOM.

    DICOM files often have no suffix, or are named by a UID, whose last number looks like one.
    """
    suffix = PurePath(name).suffix.lower()
    if name == _LIST_OF_FILES:
        return False
    return None if suffix[1:].isdigit() or not suffix else suffix in _SUFFIXES


def _is_dicom(path: Path) -> bool:
    place, magic = _DICOM
    with path.open("rb") as file:
        return file.read(place.stop)[place] == magic


def read_here(service: InferenceService) -> Read:
    """Read by a service in this process."""

    async def read(data: bytes) -> Content:
        try:
            prediction = await service.predict(data, math.inf)
        except CovidXrayError as error:
            problem = Problem.of(error).model_dump(exclude_none=True)
            raise Unread(problem | {"detail": str(error)}) from error
        return PredictionSchema.model_validate(prediction).model_dump(mode="json")

    return read


@asynccontextmanager
async def open_server(address: str, key_file: Path | None) -> AsyncIterator[Read]:
    """Read by a service elsewhere.

    Args:
        address: Of the service.
        key_file: Holds the API key.

    Raises:
        ClientUnavailable: The client is not installed, or the service cannot be used.
        KeysInvalid: The file holds no API key.
    """
    try:
        import covid_xray  # noqa: PLC0415 -- needs an extra, and half a second
    except ImportError as error:
        raise ClientUnavailable("the extra client to be installed", "none") from error
    key = _read_key(key_file) if key_file else None

    async def read(data: bytes) -> Content:
        try:
            return (await client.predict(data)).model_dump(mode="json", exclude_none=True)
        except covid_xray.ProblemReceived as error:
            raise Unread(error.problem.model_dump(exclude_none=True)) from error
        except covid_xray.CovidXrayError as error:
            raise Unread({"detail": str(error)}) from error

    try:
        async with covid_xray.AsyncClient(address, api_key=key) as client:
            await client.models()  # what keeps every file from being read is told once
            yield read
    except covid_xray.ProblemReceived as error:
        raise ClientUnavailable(
            error.expected or "an answer", error.received or error.code
        ) from error
    except covid_xray.CovidXrayError as error:
        raise ClientUnavailable(f"a service at {address}", "none") from error


def _read_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysInvalid(f"an API key in {path}", "no text that can be read") from error
    if not key.isprintable() or key.split() != [key]:
        raise KeysInvalid(f"one API key and nothing else in {path}", "another text")
    return key


async def read_all(files: Iterable[Path], read: Read, at_once: int) -> AsyncIterator[Reading]:
    """Read files, some of them at once, and give what came of each in their order.

    Args:
        files: What is read.
        read: Reads one.
        at_once: How many are in memory at most.
    """
    begun: deque[asyncio.Task[Reading]] = deque()
    try:
        for file in files:
            begun.append(asyncio.create_task(_read_file(file, read)))
            if len(begun) == at_once:
                yield await begun.popleft()
        while begun:
            yield await begun.popleft()
    finally:
        for task in begun:
            task.cancel()


async def _read_file(file: Path, read: Read) -> Reading:
    try:
        return Reading(file, prediction=await read(await asyncio.to_thread(file.read_bytes)))
    except Unread as error:
        return Reading(file, problem=error.problem)
    except IsADirectoryError:
        return Reading(file, problem={"detail": await asyncio.to_thread(_tell_folder, file)})
    except OSError as error:
        return Reading(file, problem={"detail": f"{error.strerror}."})


def _tell_folder(path: Path) -> str:
    try:
        os.scandir(path).close()
    except OSError as error:
        return f"A folder that cannot be listed: {error.strerror}."
    return "A folder without any PNG, JPEG or DICOM file."
