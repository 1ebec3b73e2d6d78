"""A million paths in 16 MB: whether one has been seen."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_BYTES = 16
"""Of a path's hash: two of a thousand million paths have the same with a chance of 1 in 10^20."""

_HASH = np.dtype(f"S{_BYTES}")  # compares as bytes; the zeros that it drops at the end are equal


class PathSet:
    """Which paths were seen, in 16 bytes for each."""

    def __init__(self) -> None:
        self._sorted: NDArray[np.bytes_] = np.empty(0, _HASH)
        self._new: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._new)

    def add_new(self, paths: Iterable[str]) -> list[bool]:
        """Add paths, and tell of each whether it was not there yet."""
        hashes = _hash(paths)
        known = self._find(hashes)
        fresh = []
        for each, is_known in zip(hashes, known, strict=True):
            fresh.append(not is_known and each not in self._new)
            if fresh[-1]:
                self._new.add(each)
        if len(self._new) > max(_SMALL, len(self._sorted) // 4):
            self._merge()
        return fresh

    def has(self, paths: Iterable[str]) -> list[bool]:
        """Tell of each path whether it is there."""
        hashes = _hash(paths)
        known = zip(hashes, self._find(hashes), strict=True)
        return [is_known or each in self._new for each, is_known in known]

    def _find(self, hashes: list[bytes]) -> list[bool]:
        if not len(self._sorted):
            return [False] * len(hashes)
        wanted = np.array(hashes, _HASH)
        places = np.searchsorted(self._sorted, wanted)
        places[places == len(self._sorted)] = 0
        found: list[bool] = (self._sorted[places] == wanted).tolist()
        return found

    def _merge(self) -> None:
        new = np.array(list(self._new), _HASH)
        self._sorted = np.sort(np.concatenate([self._sorted, new]))
        self._new.clear()


_SMALL = 10_000
"""Hashes that are kept in a set, which takes seven times the memory, before they are sorted in."""


def _hash(paths: Iterable[str]) -> list[bytes]:
    return [blake2b(path.encode(), digest_size=_BYTES).digest() for path in paths]
