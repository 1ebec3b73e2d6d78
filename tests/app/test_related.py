"""multipart/related bodies that chance has changed."""

import random

import pytest

from app.dicomweb.related import read_related
from app.errors import InputError, MalformedRequest, UnsupportedImageType
from tests.app.calls import Body, related

pytestmark = pytest.mark.anyio


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change, take out or put in some bytes, where they matter."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed))
        if chance.random() < 0.5:
            changed[at] = chance.choice((*b"\0\r\n:- ;=", chance.randrange(256)))
        elif chance.random() < 0.5:
            del changed[at : at + chance.randrange(1, 9)]
        else:
            changed[at:at] = chance.choice((b"--limit", b"\r\n", b"--", chance.randbytes(5)))
    return bytes(changed)


@pytest.mark.parametrize("chunk", [1, 2, 7, 100])
async def test_a_preamble_is_left(chunk: int) -> None:
    body, headers = related(b"DICM", b"two\r\n--")
    preamble = b"not --limit, nor\r\n-\r\n--limi\r\n\r\n"
    sent = Body(preamble + body, chunk)
    assert await read_related(aiter(sent), headers["content-type"], 4) == [b"DICM", b"two\r\n--"]


async def test_mutated_bodies_are_files_or_an_error_of_the_sender() -> None:
    chance = random.Random(0)  # noqa: S311 -- no secret
    body, headers = related(b"one\r\n--limi", b"DICM" * 9, b"")
    came: set[type] = set()
    for _ in range(1000):
        kind = mutate(headers["content-type"].encode(), chance).decode("latin-1")
        content_type = chance.choice((headers["content-type"], kind))
        sent = Body(mutate(body, chance), chance.choice((1, 3, 50, 500)))
        try:
            came.add(type(await read_related(aiter(sent), content_type, 4)))
        except InputError as error:
            came.add(type(error))
    assert came == {list, MalformedRequest, UnsupportedImageType}
