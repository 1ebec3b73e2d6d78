"""What a body holds: the files of a form, a file as it is, or one that was compressed."""

import asyncio
import io
import zlib
from collections.abc import AsyncGenerator, Sequence

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.errors import MalformedRequest, UnsupportedEncoding

MULTIPART = "multipart/form-data"
DICOM = "application/dicom"
IDENTITY = "identity"
COMPRESSED = ("gzip", "deflate")
"""Content codings that `expand` reads."""
Chunks = AsyncGenerator[bytes, None]
"""Of a body, as they arrive."""
_MAX_PARAMETERS = 2000
"""Characters of a header with parameters; clients send about 80. To parse 60,000 of them could take
a tenth of a second, in which nobody else would be answered."""
_MAX_TEXT_BYTES = 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS + 32
_PIECE_BYTES = 256 * 1024


def media_type(request: Request) -> str:
    """Give the media type of a request's body, without parameters; empty where it has none.

    Raises:
        MalformedRequest: The header is of more than `_MAX_PARAMETERS` characters.
    """
    content_type = request.headers.get("content-type", "")
    _check_length("Content-Type", len(content_type))
    return content_type.split(";")[0].strip().lower()


def content_coding(request: Request, known: Sequence[str]) -> str:
    """Name what a body is compressed by (RFC 9110, 8.4); `identity` where by nothing.

    Args:
        request: Whose body it is.
        known: Codings that are read beside `identity`.

    Raises:
        UnsupportedEncoding: It is another, or several.
    """
    named = ",".join(request.headers.getlist("content-encoding"))
    coding = named.strip().lower() or IDENTITY
    if coding == IDENTITY or coding in known:
        return coding
    if known:
        wanted = f"a Content-Encoding of {', '.join(known)} or none"
        raise UnsupportedEncoding(wanted, "another", read=known)
    raise UnsupportedEncoding("a body without Content-Encoding", "one with it")


async def read_bare(chunks: Chunks) -> bytes:
    """Collect a body that is a file."""
    collected = io.BytesIO()
    async for chunk in chunks:
        collected.write(chunk)
    return collected.getvalue()


async def expand(chunks: Chunks) -> Chunks:
    """Expand what gzip or zlib compressed, in pieces: a little may become very much.

    Raises:
        MalformedRequest: It is not what they make, not all of it, or more than that.
    """
    wanted = f"a whole body that is compressed by {' or '.join(COMPRESSED)}"
    decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        async for chunk in chunks:
            piece = decoder.decompress(chunk, _PIECE_BYTES)
            yield piece
            while decoder.unconsumed_tail or len(piece) == _PIECE_BYTES:
                await asyncio.sleep(0)  # others have their turn
                piece = decoder.decompress(decoder.unconsumed_tail, _PIECE_BYTES)
                yield piece
            if decoder.unused_data:  # would be copied anew with every chunk that follows
                raise MalformedRequest(wanted, "more behind it")
    except zlib.error as error:
        raise MalformedRequest(wanted, "another") from error
    if not decoder.eof:
        raise MalformedRequest(wanted, "a part of one")


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, but no part of an upload ever goes to a temporary file.

    Attributes:
        is_whole: Whether the form's closing boundary came; Starlette does not ask.
    """

    spool_max_size = 0  # tempfile.SpooledTemporaryFile: never roll over
    is_whole = False

    @property
    def has_too_many(self) -> bool:
        """Whether more parts came than there may be."""
        return self._current_files > self.max_files or self._current_fields > self.max_fields

    def on_headers_finished(self) -> None:
        """Take the head of a part.

        Raises:
            MalformedRequest: Its Content-Disposition is too long.
            MultiPartException: It cannot be used.
        """
        _check_length("Content-Disposition", len(self._current_part.content_disposition or b""))
        super().on_headers_finished()

    def on_end(self) -> None:
        """Note the closing boundary."""
        self.is_whole = True

    def close(self) -> None:
        """Let go of all files, also of one that the form's end cut off."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_form(request: Request, chunks: Chunks, field: str, most: int) -> list[bytes]:
    """Take the files out of a form while it arrives.

    Args:
        request: Whose body it is.
        chunks: Of the body.
        field: The name that all files have.
        most: How many there may be.

    Raises:
        MalformedRequest: It is truncated or corrupt, or holds something else than such files.
    """
    parser = _InMemoryParser(
        request.headers,
        chunks,
        max_files=most,
        max_fields=most,
        max_part_size=_MAX_TEXT_BYTES,
    )
    files = "one file" if most == 1 else f"at most {most} files"
    what = f"a well-formed form with {files} in the field {field}"
    try:
        form = await parser.parse()
        if not parser.is_whole:
            wanted = f"a form with the field {field} and a closing boundary"
            raise MalformedRequest(wanted, "a truncated one")
        return [await _take(upload) for upload in _uploads(form, field)]
    except MultiPartException as error:
        received = "more parts" if parser.has_too_many else error.message.rstrip(".")
        raise MalformedRequest(what, received) from error
    except ValueError as error:  # from a codec that the sender chose for the names
        raise MalformedRequest(what, "one whose charset cannot be used") from error
    finally:
        parser.close()


def _check_length(name: str, length: int) -> None:
    if length > _MAX_PARAMETERS:
        wanted = f"a {name} of at most {_MAX_PARAMETERS} characters"
        raise MalformedRequest(wanted, f"one of {length}")


async def _take(upload: UploadFile) -> bytes:
    """Read a file, and let go at once what it was collected in."""
    data = await upload.read()
    await upload.close()
    return data


def _uploads(form: FormData, field: str) -> list[UploadFile]:
    parts = form.multi_items()
    named = [part for name, part in parts if name == field]
    if not named or len(named) < len(parts):
        received = f"{len(parts)} part(s), {len(named)} of them with that name"
        raise MalformedRequest(f"a form with the field {field} and no other", received)
    uploads = [part for part in named if isinstance(part, UploadFile)]
    if len(uploads) < len(named):
        raise MalformedRequest(f"a file, with a file name, in the field {field}", "a text")
    return uploads
