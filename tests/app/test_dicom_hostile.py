"""DICOM files that are broken on purpose: an error of the tree or a radiograph, soon and in little
memory, and nothing else."""

import random
import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import product
from types import FrameType
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, uid

from app.errors import InputError, UnreadableImage, UnsupportedImage
from app.imaging import Limits, decode, dicom_codestreams, dicom_samples
from app.imaging.dicom_file import MAX_VALUE
from app.imaging.dicom_stream import MAX_CHARACTER_SETS
from tests.app.dicoms import ENCODERS, compressed, dataset, dicom, ramp, write

LIMITS = Limits(max_pixels=2**16)
UNDEFINED = b"\xff\xff\xff\xff"
ITEM = b"\xfe\xff\x00\xe0"
SEQUENCE = b"\x08\x00\x18\x22SQ\0\0"
"""The head of Anatomic Region Sequence (0008,2218), without its length."""


def seeds() -> list[bytes]:
    """Make a file in each transfer syntax, with sequences, tables and padding in some."""
    samples = np.random.default_rng(0).permuted(ramp(12), axis=1)
    item = Dataset()
    item.CodeValue = "R-10206"
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [16, 0, 12])
    table.add_new("LUTData", "US", list(range(16)))
    rich = dataset(samples, ViewCodeSequence=[item], VOILUTSequence=[table], RescaleSlope=2)
    rich["ViewCodeSequence"].is_undefined_length = True
    rich.add_new("PixelPaddingValue", "US", 0)
    plain = (
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
    )
    files = [write(rich, syntax) for syntax in plain]
    for name, encode in ENCODERS.items():
        files.append(compressed(samples, getattr(uid, name), encode(samples)))
    rle = dataset(samples)
    rle.compress(uid.RLELossless, generate_instance_uid=False)
    baseline = imagecodecs.jpeg8_encode(ramp(8))
    extended = imagecodecs.jpeg8_encode(samples, bitspersample=12)
    files.append(write(rle, uid.RLELossless))
    files.append(compressed(ramp(8), uid.JPEGBaseline8Bit, baseline))
    files.append(compressed(samples, uid.JPEGExtended12Bit, extended))
    return files


def mutate(file: bytes, chance: random.Random) -> bytes:
    """Change, take out, put in or cut off some bytes, more of them at the places that matter."""
    data = bytearray(file)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(132, chance.choice((min(len(data), 900), len(data))))
        kind = chance.random()
        if kind < 0.75:
            data[at] = chance.choice((0, 255, chance.randrange(256), data[at] ^ 1))
        elif kind < 0.85:
            del data[at : at + chance.randrange(1, 12)]
        elif kind < 0.95:
            data[at:at] = chance.randbytes(chance.randrange(1, 12))
        else:
            del data[at:]
        if len(data) < 140:
            break
    return bytes(data)


def test_the_seeds_are_read() -> None:
    for seed in seeds():
        assert decode(seed, LIMITS).format == "DICOM"


@pytest.mark.parametrize("number", range(len(seeds())))
def test_mutated_files_are_an_error_of_the_tree_or_a_radiograph(number: int) -> None:
    chance = random.Random(number)  # noqa: S311 -- no secret
    seed = seeds()[number]
    read = refused = 0
    for _ in range(500):
        file = mutate(seed, chance)
        start = time.monotonic()
        try:
            radiograph = decode(file, LIMITS)
        except InputError as error:
            refused += 1
            told = str(error)
        else:
            read += 1
            told = f"{radiograph} {radiograph.dicom}"
            assert radiograph.pixels.dtype == np.uint8
            assert radiograph.pixels.size <= LIMITS.max_pixels
        assert "marked" not in told.lower()  # the seeds' patient, whose elements may become others
        assert time.monotonic() - start < 5
    assert read
    assert refused


def with_elements(elements: bytes) -> bytes:
    """Put encoded elements of group 0008 before the modality."""
    file = dicom()
    at = file.index(b"\x08\x00\x60\x00CS")
    return file[:at] + elements + file[at:]


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_nested_sequences_do_not_exhaust_the_stack(depth: int) -> None:
    nested = (SEQUENCE + UNDEFINED + ITEM + UNDEFINED) * depth
    with pytest.raises(UnreadableImage):
        decode(with_elements(nested))


def test_sequences_that_are_nested_and_closed_are_read_or_refused() -> None:
    for depth in (5, 50, 150):
        opened = (SEQUENCE + UNDEFINED + ITEM + UNDEFINED) * depth
        closed = (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth
        assert decode(with_elements(opened + closed)).format == "DICOM"


@pytest.mark.parametrize("length", [b"\xf0\xff\xff\xff", b"\0\0\0\x40", UNDEFINED])
@pytest.mark.parametrize("vr", [b"OB", b"UN", b"SQ", b"UT"])
def test_lengths_beyond_the_file_take_no_memory(length: bytes, vr: bytes) -> None:
    file = with_elements(b"\x08\x00\x05\x22" + vr + b"\0\0" + length)
    tracemalloc.start()
    with pytest.raises(InputError):
        decode(file)
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


def test_a_header_of_very_many_elements_is_refused() -> None:
    many = b"".join(struct.pack("<HH2sH", 9, each % 65536, b"LO", 0) for each in range(200_000))
    with pytest.raises(UnsupportedImage, match="at most 30000 elements"):
        decode(with_elements(many))


def test_a_sequence_of_very_many_items_is_refused_where_its_length_is_not_known() -> None:
    with pytest.raises(InputError):
        decode(with_elements(SEQUENCE + UNDEFINED + (ITEM + bytes(4)) * 100_000))


def test_of_a_sequence_of_very_many_items_only_the_first_is_looked_at() -> None:
    items = (ITEM + bytes(4)) * 2_000_000
    file = with_elements(SEQUENCE + struct.pack("<L", len(items)) + items)
    tracemalloc.start()
    assert decode(file).format == "DICOM"
    assert tracemalloc.get_traced_memory()[1] < 4 * len(file)
    tracemalloc.stop()


def test_a_first_item_of_very_many_elements_is_refused() -> None:
    head = struct.pack("<HH2sH", 9, 0x10, b"LO", 0)
    item = ITEM + struct.pack("<L", len(head) * 100_000) + head * 100_000
    with pytest.raises(UnsupportedImage, match="at most 30000 elements"):
        decode(with_elements(SEQUENCE + struct.pack("<L", len(item)) + item))


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Write an element in explicit VR, of a VR that may be of any length."""
    return struct.pack("<HH2sHL", group, number, vr, 0, len(value)) + value


def in_item(elements: bytes) -> bytes:
    return ITEM + struct.pack("<L", len(elements)) + elements


@pytest.mark.parametrize(
    ("group", "number", "vr"),
    [(0x18, 0x5101, b"UC"), (0x28, 0x1053, b"UC"), (0x8, 0x2218, b"UC")],
    ids=["text", "number", "sequence"],
)
def test_an_element_of_very_many_values_is_unreadable_and_named(
    group: int, number: int, vr: bytes
) -> None:
    file = with_elements(element(group, number, vr, b"\\" * (MAX_VALUE + 8)))
    with pytest.raises(UnreadableImage, match=rf"{MAX_VALUE} bytes of .*{number:04X}\)") as caught:
        decode(file)
    assert str(caught.value).endswith(f"; received {MAX_VALUE + 8}.")


@pytest.mark.parametrize("number", [0x5101, 0x0015])
def test_an_element_of_very_many_values_is_unreadable_where_no_vr_is_told(number: int) -> None:
    file = write(dataset(), uid.ImplicitVRLittleEndian)
    at = file.index(b"\x08\0\x16\0")
    long = struct.pack("<HHL", 0x18, number, MAX_VALUE + 2) + b"\\" * (MAX_VALUE + 2)
    with pytest.raises(UnreadableImage, match=rf"bytes of .* \(0018,{number:04X}\)"):
        decode(file[:at] + long + file[at:])


def test_an_element_of_very_many_values_is_unreadable_before_the_data_set() -> None:
    syntax = element(0x2, 0x10, b"UC", b"\\" * (MAX_VALUE + 2))
    with pytest.raises(UnreadableImage, match=r"bytes of Transfer Syntax UID \(0002,0010\)"):
        decode(bytes(128) + b"DICM" + syntax)


@pytest.mark.parametrize("entries", [2**16, 2**16 + 1])
def test_a_table_may_have_as_many_entries_as_there_can_be(entries: int) -> None:
    file = dicom(ramp(12), RescaleSlope=1)
    table = element(0x28, 0x3002, b"UN", struct.pack("<3H", 0, 0, 16))
    table += element(0x28, 0x3006, b"OW", np.arange(entries).astype("<u2").tobytes())
    at = file.index(b"\x28\0\x53\x10")
    file = file[:at] + element(0x28, 0x3010, b"SQ", in_item(table)) + file[at:]
    if entries == 2**16:
        assert decode(file).format == "DICOM"
    else:
        with pytest.raises(UnreadableImage, match=r"131072 bytes of LUT Data \(0028,3006\)"):
            decode(file)


@pytest.mark.parametrize(
    "hide",
    [
        lambda charset: charset,
        lambda charset: charset[:8] + UNDEFINED + charset[12:] + b"\xfe\xff\xdd\xe0" + bytes(4),
        lambda charset: SEQUENCE + UNDEFINED + ITEM + UNDEFINED + charset,
        lambda charset: SEQUENCE + struct.pack("<L", len(charset) + 8) + in_item(charset),
    ],
    ids=["at the top", "of no length", "in an item", "in an item that is read when it is needed"],
)
def test_very_many_character_sets_are_refused(hide: Callable[[bytes], bytes]) -> None:
    charset = element(0x8, 0x5, b"UC", b"\\" * (MAX_CHARACTER_SETS + 2))
    with pytest.raises(UnsupportedImage, match=r"Specific Character Set \(0008,0005\)"):
        decode(with_elements(hide(charset)))


def test_very_many_character_sets_are_refused_in_sum() -> None:
    end = b"\xfe\xff\xdd\xe0" + bytes(4)
    many = in_item(element(0x8, 0x5, b"UC", b"\\" * 1000)) * 66
    with pytest.raises(UnsupportedImage, match="Specific Character Set"):
        decode(with_elements(SEQUENCE + UNDEFINED + many + end))
    usual = in_item(element(0x8, 0x5, b"UC", b"ISO_IR 192")) * 300
    assert decode(with_elements(SEQUENCE + UNDEFINED + usual + end)).format == "DICOM"


def test_a_file_that_inflates_to_too_much_is_refused_while_it_inflates() -> None:
    bomb = zlib.compressobj(9, wbits=-15)
    head = write(dataset(), uid.DeflatedExplicitVRLittleEndian)
    start = head.index(b"1.2.840.10008.1.2.1.99") + 22
    meta = head[: start + struct.unpack_from("<L", head, 140)[0] - (start - 144)]
    deflated = bomb.compress(bytes(2**28)) + bomb.flush()
    tracemalloc.start()
    with pytest.raises(UnsupportedImage, match=r"inflates to at most \d+ bytes; received more"):
        decode(meta + deflated, LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


VRS = [b"SQ", b"OB", b"UN", b"PN", b"FD", b"AT", b"US", b"SS", b"DS", b"IS", b"UI", b"ZZ", b"\0\0"]


@pytest.mark.parametrize("vr", VRS)
def test_wrong_vrs_are_an_error_of_the_tree_or_read(vr: bytes) -> None:
    file = dicom(
        WindowCenter=2048, WindowWidth=4096, RescaleSlope=1, BodyPartExamined="CHEST", HighBit=11
    )
    tags = [(0x0008, 0x0060), (0x0018, 0x0015), (0x0020, 0x000D)]
    tags += product([0x0028], [0x0002, 0x0004, 0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103])
    tags += product([0x0028], [0x1050, 0x1051, 0x1053])
    for group, element in tags:
        at = file.index(struct.pack("<HH", group, element)) + 4
        try:
            decode(file[:at] + vr + file[at + 2 :])
        except InputError:
            continue


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("level", "code blocks of at least 16 x 16"),
        ("tiles", "at most 4096 tiles"),
        ("precincts", "at most 32768 precincts"),
        ("blocks", "code blocks of at least 16 x 16"),
    ],
)
def test_a_jpeg_2000_that_asks_for_much_memory_is_refused(what: str, wanted: str) -> None:
    samples = np.zeros((1024, 1024), np.uint16)
    stream = bytearray(ENCODERS["JPEG2000Lossless"](samples))
    coding = stream.index(b"\xff\x52")
    if what == "level":
        stream[coding + 9] = 200
    if what == "blocks":
        stream[coding + 10 : coding + 12] = b"\0\0"
    if what == "tiles":
        struct.pack_into(">2L", stream, 24, 8, 8)
    if what == "precincts":
        divide(stream, b"\0" + b"\x11" * stream[coding + 9])
    with pytest.raises(UnsupportedImage, match=f"a codestream of {wanted}"):
        decode(compressed(samples, uid.JPEG2000Lossless, bytes(stream)))


def divide(stream: bytearray, sizes: bytes) -> None:
    """Tell a JPEG 2000 the exponents of its precincts' sides, a byte for each resolution."""
    coding = stream.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", stream, coding + 2)
    stream[coding + 4] |= 1
    stream[coding + 2 + length : coding + 2 + length] = sizes
    struct.pack_into(">H", stream, coding + 2, length + len(sizes))


@pytest.mark.parametrize("size", [b"\x1f", b"\xf1"])
def test_precincts_need_not_be_square(size: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = bytearray(ENCODERS["JPEG2000Lossless"](np.zeros((1024, 1024), np.uint16)))
    divide(stream, size * (1 + stream[stream.index(b"\xff\x52") + 9]))
    monkeypatch.setattr(dicom_codestreams, "MAX_PRECINCTS", 1008)  # 512 and 256 to 16
    dicom_codestreams.check_jpeg_2000(bytes(stream), 1024, 1024)
    monkeypatch.setattr(dicom_codestreams, "MAX_PRECINCTS", 1007)
    with pytest.raises(UnsupportedImage, match="at most 1007 precincts"):
        dicom_codestreams.check_jpeg_2000(bytes(stream), 1024, 1024)


def test_a_tile_cannot_be_coded_in_another_way() -> None:
    samples = ramp(12)
    stream = ENCODERS["JPEG2000Lossless"](samples)
    coding = stream.index(b"\xff\x52")
    segment = stream[coding : coding + 2 + struct.unpack_from(">H", stream, coding + 2)[0]]
    tile = stream.index(b"\xff\x90")
    (size,) = struct.unpack_from(">L", stream, tile + 6)
    head = bytearray(stream[tile : tile + 12])
    struct.pack_into(">L", head, 6, size + len(segment))
    changed = stream[:tile] + bytes(head) + segment + stream[tile + 12 :]
    with pytest.raises(UnsupportedImage, match="tiles that are coded alike"):
        decode(compressed(samples, uid.JPEG2000Lossless, changed))


@pytest.mark.parametrize(
    "segments",
    [
        b"\x02\0",
        b"\x02\0\0\0" + struct.pack("<2L", 64, 70) + bytes(52) + b"\x81\0" * 99,
        b"\x02\0\0\0" + struct.pack("<2L", 2**31, 2**32 - 1) + bytes(52),
        b"\x0f\0\0\0" + bytes(60),
        b"\x01\0\0\0" + struct.pack("<L", 64) + bytes(56) + b"\x80" * 5000,
        b"\x02\0\0\0" + struct.pack("<2L", 64, 66) + bytes(52) + b"\x81\0\x7f" * 99,
    ],
)
def test_a_broken_rle_is_unreadable(segments: bytes) -> None:
    with pytest.raises(UnreadableImage, match="RLE"):
        decode(compressed(ramp(12), uid.RLELossless, segments))


@pytest.mark.parametrize("run", [b"\x80", b"\0\1", b"\x80\0\1"])
def test_rle_of_very_short_runs_takes_no_step_of_python_for_each(run: bytes) -> None:
    runs = 3000
    header = struct.pack("<3L", 2, 64, 64 + len(run) * runs).ljust(64, b"\0")
    file = compressed(ramp(12), uid.RLELossless, header + run * runs * 2)
    lines = 0

    def count(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal lines
        lines += event == "line"
        return count if frame.f_code.co_filename == dicom_samples.__file__ else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with pytest.raises(UnreadableImage, match=r"4096 bytes in an RLE segment; received \d+"):
            decode(file)
    finally:
        sys.settrace(before)
    assert 0 < lines < runs / 10


def test_what_an_rle_segment_has_beyond_its_samples_is_left() -> None:
    samples = ramp(8)
    segment = imagecodecs.packbits_encode(samples.tobytes())
    header = struct.pack("<2L", 1, 64).ljust(64, b"\0")
    plain = compressed(samples, uid.RLELossless, header + segment)
    longer = compressed(samples, uid.RLELossless, header + segment + b"\x81\0" * 9)
    assert (decode(longer).pixels == decode(plain).pixels).all()


@pytest.mark.parametrize("fragments", [b"", ITEM, ITEM + b"\xff\xff\xff\x7f", bytes(64)])
def test_broken_fragments_are_unreadable(fragments: bytes) -> None:
    file = compressed(ramp(12), uid.RLELossless, b"\0" * 64)
    at = file.index(b"\xe0\x7f\x10\x00OB\0\0" + UNDEFINED) + 12
    with pytest.raises(UnreadableImage, match="fragments"):
        decode(file[:at] + fragments)


def test_offsets_of_several_frames_are_unreadable() -> None:
    data = dataset(ramp(8))
    offsets = ITEM + struct.pack("<3L", 8, 0, 72)
    frame = ITEM + struct.pack("<L", 64) + bytes(64)
    data.PixelData = offsets + 2 * frame
    data["PixelData"].is_undefined_length = True
    with pytest.raises(UnreadableImage, match="one frame"):
        decode(write(data, uid.RLELossless))
