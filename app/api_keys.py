"""API keys: made, written as a line of a file, and accepted by it."""

import hashlib
import hmac
import logging
import os
import re
import secrets
from pathlib import Path

from app.errors import KeysInvalid

_log = logging.getLogger(__name__)

_KEY_BYTES = 32
_PREFIX = "cxr_"  # lets a scanner for leaked credentials tell what it found
_LINE = re.compile(r"sha256:([0-9a-f]{64})(?:\s+\S.*)?")


def new_key() -> str:
    """Make an API key of 256 random bits, as letters, digits, `-` and `_`."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def key_line(key: str, name: str = "") -> str:
    """Write a key's line of the file of keys: its hash, and whose it is.

    A plain SHA-256 is enough: a slow hash protects passwords, which can be guessed, but nobody can
    try 2²⁵⁶ keys.
    """
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {name}".rstrip()


class ApiKeys:
    """The keys that are accepted, by their hashes, from a file that may change at any time.

    A line is what `key_line` writes; empty lines and lines with `#` in front are passed over. With
    the last key, or the file itself, removed, none is accepted any more. A file that cannot be read
    or used leaves the keys as they are. Both are logged as errors.

    Args:
        path: The file.

    Raises:
        KeysInvalid: It cannot be read, a line of it is no hash, or it has none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._digests = _read(path)
        if not self._digests:
            raise KeysInvalid(f"at least one API key hash in {path}", "none")

    def accept(self, key: str) -> bool:
        """Tell whether a key is one of them, in a time that tells nothing of how near it was."""
        self._refresh()
        digest = hashlib.sha256(key.encode()).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    def _refresh(self) -> None:
        stamp = _stamp(self._path)  # one call of the system: cheaper than to hash the key
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = [] if stamp is None else _read(self._path)
        except KeysInvalid as error:
            _log.error("The API keys stay as they were: %s", error)
            return
        if self._digests:
            _log.info("%d API key(s) are accepted now.", len(self._digests))
        else:
            _log.error("No API key is accepted now: %s holds none, or is gone.", self._path)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Tell a file's states apart: None where it is gone, nothing where it cannot be looked at."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _read(path: Path) -> list[bytes]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "no text"
        raise KeysInvalid(f"a file of API key hashes at {path}", reason) from error
    digests = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:  # what it holds is not told: it may be a key by mistake
            raise KeysInvalid("lines of `sha256:HASH NAME` only", f"another in line {number}")
        digests.append(bytes.fromhex(match[1]))
    return digests
