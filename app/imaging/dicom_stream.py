"""What pydicom reads a header from: bounded in what it costs to read."""

import io

from app.errors import UnsupportedImage

MAX_READS = 60_000
"""Pieces that a header is read in, about two for each element, also of nested ones. The headers of
X-rays have some hundreds of elements."""

MAX_CHARACTER_SETS = 2**16
"""Bytes of all Specific Character Sets in a header: pydicom converts them while it reads."""

_HEAD = 8
"""Bytes of an element before its value, or before the length of its value."""
_CHARACTER_SET = (b"\x08\0\x05\0", b"\0\x08\0\x05")
"""Its tag, in both orders of bytes."""


class Counted(io.BytesIO):
    """Bytes that are read in a bounded number of pieces, however they are nested."""

    reads = 0
    _head = b""
    _character_sets = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; see `io.BytesIO`.

        Raises:
            UnsupportedImage: It was too much.
        """
        self.reads += 1
        if self.reads > MAX_READS:
            raise UnsupportedImage(f"a header of at most {MAX_READS // 2} elements", "more")
        found = super().read(size)
        if size == _HEAD:
            self._head = found  # or a value as short, which the next head takes the place of
        elif self._head.startswith(_CHARACTER_SET):
            self._character_sets += len(found)
            if self._character_sets > MAX_CHARACTER_SETS:
                wanted = f"at most {MAX_CHARACTER_SETS} bytes of Specific Character Set (0008,0005)"
                raise UnsupportedImage(wanted, "more")
        return found
