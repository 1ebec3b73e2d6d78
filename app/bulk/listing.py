"""What is to be scored: listed as a stream, and read one by one."""

import glob
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from app.errors import BulkInputInvalid, FileNotRead, PayloadTooLarge
from app.reading import is_named_xray, walk

COLUMN = "path"
"""Of a Parquet list."""

_LIST_SUFFIXES = {".parquet", ".pq"}
_LIST_ROWS = 4096
_LOCAL = "file://"
_SHOWN_BYTE = re.compile(r"\\x[89a-f][0-9a-f]")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files are.

    Attributes:
        address: An absolute path, or an address of fsspec.
        kind: How it names files.
    """

    address: str
    kind: Literal["file", "folder", "pattern", "list"]

    def paths(self) -> Iterator[str]:
        """List the files, each as an absolute path or an address; a list may repeat itself.

        A folder gives its PNG, JPEG and DICOM files, also those below; see `app.reading.walk`.
        """
        remote = is_remote(self.address)
        match self.kind:
            case "file":
                yield self.address
            case "list":
                yield from _listed(self.address)
            case "pattern":
                yield from _match_remote(self.address) if remote else _match(self.address)
            case "folder":
                yield from _walk_remote(self.address) if remote else walk(self.address)


@dataclass(frozen=True, slots=True)
class Files:
    """Some files that a source has listed."""

    listed: tuple[str, ...]

    def paths(self) -> Iterator[str]:
        """List them."""
        return iter(self.listed)


def open_source(text: str) -> Source:
    """Find out how an input names files.

    Raises:
        BulkInputInvalid: There is nothing at it, it is no address that can be read here, or the
            list has no column of paths.
    """
    if not text.removeprefix(_LOCAL).strip():
        raise BulkInputInvalid("an input", "an empty text")
    address = text if is_remote(text) else str(Path(text.removeprefix(_LOCAL)).absolute())
    try:
        source = Source(address, _kind(address))
        if source.kind == "list":
            _check_list(address)
        found = next(source.paths(), None)
    except (ImportError, OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise BulkInputInvalid(f"an input that can be read at {address}", reason) from error
    if found is None:
        raise BulkInputInvalid(f"PNG, JPEG or DICOM files at {address}", "none")
    return source


def show(path: str) -> str:
    r"""Write a path as text: bytes of a file's name that are no UTF-8 as `\xff`.

    Where the text has such, its other backslashes are doubled, so that no two paths have the same.
    """
    name = os.fsencode(path)
    text = name.decode("utf-8", "backslashreplace")
    if not _SHOWN_BYTE.search(text):
        return text
    return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def is_remote(path: str) -> bool:
    """Tell an address from a path of this machine."""
    return "://" in path and not path.startswith(_LOCAL)


def read_file(path: str, max_bytes: int) -> bytes:
    """Read a file, at once.

    Args:
        path: Or an address.
        max_bytes: The most that is read.

    Raises:
        FileNotRead: It is not there, no file, or cannot be read.
        PayloadTooLarge: It is larger.
    """
    try:
        data = _read_remote(path, max_bytes + 1) if is_remote(path) else _read(path, max_bytes + 1)
    except OSError as error:
        said = error.strerror.lower() if error.strerror else type(error).__name__
        raise FileNotRead("a file that can be read", f"the error: {said}") from error
    except FileNotRead:
        raise
    except Exception as error:  # each store's library has its own
        raise FileNotRead("a file that can be read", f"{type(error).__name__}") from error
    if len(data) > max_bytes:
        raise PayloadTooLarge(f"at most {max_bytes} bytes", "more")
    return data


def _read(path: str, at_most: int) -> bytes:
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise FileNotRead("a file, or a folder that can be listed", "a folder that cannot")
    if not stat.S_ISREG(mode):  # to open a pipe may take for ever
        raise FileNotRead("a file", "something else of this name")
    with Path(path).open("rb") as file:
        return file.read(at_most)


def _read_remote(path: str, at_most: int) -> bytes:
    system, name = fsspec.url_to_fs(path)
    data: bytes = system.cat_file(name, start=0, end=at_most)
    return data


def _kind(address: str) -> Literal["file", "folder", "pattern", "list"]:
    if is_remote(address):
        system, name = fsspec.url_to_fs(address)
        is_folder, exists = system.isdir(name), system.exists(name)
    else:
        is_folder, exists = Path(address).is_dir(), Path(address).exists()
    if is_folder:
        return "folder"
    if not exists and glob.has_magic(address):
        return "pattern"
    if not exists:
        raise FileNotFoundError("nothing there")
    return "list" if PurePath(address).suffix.lower() in _LIST_SUFFIXES else "file"


def _walk_remote(address: str) -> Iterator[str]:
    system, root = _open_store(address)
    for folder, _, names in system.walk(root):
        for name in sorted(names):
            if is_named_xray(name) is not False:  # to look into each would take a request
                yield system.unstrip_protocol(f"{folder.rstrip('/')}/{name}")


def _open_store(address: str) -> tuple[Any, str]:
    """Open a store in which each file has an address of its own.

    Returns:
        The store, and the address as it names it.

    Raises:
        BulkInputInvalid: What an address of it tells, such as a host, or an archive that it is in,
            is lost in those of its files.
    """
    system, name = fsspec.url_to_fs(address, use_listings_cache=False)
    own = system.unstrip_protocol(name)
    try:
        is_whole = is_remote(own) and fsspec.url_to_fs(own, use_listings_cache=False)[0] == system
    except (ImportError, OSError, TypeError, ValueError):  # each store has its own
        is_whole = False
    if not is_whole:
        raise BulkInputInvalid("a store whose files can be read by their addresses", address)
    return system, name


def _match(pattern: str) -> Iterator[str]:
    return (path for path in glob.iglob(pattern, recursive=True) if not _is_folder(path))  # noqa: PTH207 -- Path.glob takes no absolute pattern


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # to read it tells why
        return False


def _match_remote(pattern: str) -> Iterator[str]:
    system, name = _open_store(pattern)
    found: dict[str, Any] = system.glob(name, detail=True)
    for path, info in found.items():
        if info["type"] == "file":
            yield system.unstrip_protocol(path)


def _listed(address: str) -> Iterator[str]:
    """Give the paths of a list; relative ones are from the list's own folder."""
    folder = address.rsplit("/", 1)[0]
    with fsspec.open(address, "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(_LIST_ROWS, columns=[COLUMN]):
            for path in batch.column(0).to_pylist():
                yield _placed(path, folder)


def _placed(path: str | None, folder: str) -> str:
    if not path:
        return folder  # a null names no file, and its row tells so
    if is_remote(path) or path.startswith("/"):
        return path
    return f"{folder}/{path.removeprefix(_LOCAL)}" if not path.startswith(_LOCAL) else path[7:]


def _check_list(address: str) -> None:
    with fsspec.open(address, "rb") as file:
        schema = pq.ParquetFile(file).schema_arrow
    kind = schema.field(COLUMN).type if COLUMN in schema.names else "none"
    if kind not in (pa.string(), pa.large_string()):
        raise BulkInputInvalid(f"a column {COLUMN} of strings in {address}", f"{kind}")
