"""Every transfer syntax, from encoders that are not the decoders; pixels are compared exactly."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.encaps import generate_frames

from app.errors import UnreadableImage, UnsupportedImage
from app.imaging import Pixels, decode
from tests.app.dicoms import ENCODERS, compressed, dataset, dcmtk, dicom, ramp, write

KINDS = [(8, False), (8, True), (10, False), (12, False), (12, True), (16, False), (16, True)]


def window(bits: int, *, signed: bool = False) -> dict[str, Any]:
    center = 0 if signed else 1 << (bits - 1)
    return {"BitsStored": bits, "WindowCenter": center, "WindowWidth": 1 << bits}


def picture(bits: int, *, signed: bool) -> NDArray[np.integer]:
    """Draw a ramp with edges, of which no row is like another."""
    samples = ramp(bits, signed=signed)
    samples[20:30] = samples[::-1][20:30]
    samples[:, 10:14] = samples[::-1, ::-1][:, 10:14]
    return samples


def expected(samples: NDArray[np.integer], bits: int) -> Pixels:
    """Tell the grays of `window`, by its formula."""
    signed = samples.dtype.kind == "i"
    values = samples.astype(np.float64) + (1 << (bits - 1)) * signed
    return np.floor(values / ((1 << bits) - 1) * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize(("bits", "signed"), KINDS)
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda each: each.keyword,
)
def test_samples_without_compression_are_exact(syntax: uid.UID, bits: int, signed: bool) -> None:
    samples = picture(bits, signed=signed)
    data = dataset(samples, **window(bits, signed=signed))
    if syntax == uid.ExplicitVRBigEndian:
        data.PixelData = samples.byteswap().tobytes()
    assert (decode(write(data, syntax)).pixels == expected(samples, bits)).all()


def test_big_endian_words_of_two_bytes_are_read_in_their_order() -> None:
    samples = picture(8, signed=False)
    data = dataset(samples, **window(8))
    data.PixelData = samples.view(np.uint16).byteswap().tobytes()
    data["PixelData"].VR = "OW"
    file = write(data, uid.ExplicitVRBigEndian)
    assert (decode(file).pixels == expected(samples, 8)).all()


def test_an_odd_number_of_bytes_is_padded() -> None:
    samples = ramp(8, side=65)
    assert (decode(dicom(samples, **window(8))).pixels == expected(samples, 8)).all()


@pytest.mark.parametrize(("bits", "signed"), KINDS)
@pytest.mark.parametrize("name", ENCODERS)
def test_codestreams_without_loss_are_exact(name: str, bits: int, signed: bool) -> None:
    samples = picture(bits, signed=signed)
    codestream = ENCODERS[name](samples)
    file = compressed(samples, getattr(uid, name), codestream, **window(bits, signed=signed))
    assert (decode(file).pixels == expected(samples, bits)).all()


@pytest.mark.parametrize(("bits", "signed"), KINDS)
@pytest.mark.parametrize(
    ("syntax", "plugin"), [(uid.RLELossless, "pydicom"), (uid.JPEG2000Lossless, "pylibjpeg")]
)
def test_what_pydicom_compresses_is_exact(
    syntax: uid.UID, plugin: str, bits: int, signed: bool
) -> None:
    samples = picture(bits, signed=signed)
    data = dataset(samples, **window(bits, signed=signed))
    data.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    assert (decode(write(data, syntax)).pixels == expected(samples, bits)).all()


@pytest.mark.parametrize(("bits", "signed"), KINDS)
@pytest.mark.parametrize(
    ("program", "options", "syntax"),
    [
        ("dcmcjpeg", ["+e1"], uid.JPEGLosslessSV1),
        *(("dcmcjpeg", ["+el", "+sv", f"{each}"], uid.JPEGLossless) for each in range(1, 8)),
        ("dcmcjpls", ["+el"], uid.JPEGLSLossless),
        ("dcmcrle", [], uid.RLELossless),
        ("dcmconv", ["+td"], uid.DeflatedExplicitVRLittleEndian),
        ("dcmconv", ["+te"], uid.ExplicitVRLittleEndian),
        ("dcmconv", ["+tb"], uid.ExplicitVRBigEndian),
        ("dcmconv", ["+ti"], uid.ImplicitVRLittleEndian),
    ],
)
def test_what_dcmtk_writes_without_loss_is_exact(  # noqa: PLR0913, PLR0917 -- columns of a table
    program: str, options: list[str], syntax: uid.UID, bits: int, signed: bool, tmp_path: Path
) -> None:
    samples = picture(bits, signed=signed)
    plain = dicom(samples, **window(bits, signed=signed))
    file = dcmtk(program, plain, tmp_path, *options)
    assert pydicom.dcmread(tmp_path / "out").file_meta.TransferSyntaxUID == syntax
    assert (decode(file).pixels == expected(samples, bits)).all()


@pytest.mark.parametrize(
    ("program", "options", "decoder", "bits", "syntax"),
    [
        ("dcmcjpeg", ["+eb"], "dcmdjpeg", 8, uid.JPEGBaseline8Bit),
        ("dcmcjpeg", ["+ee"], "dcmdjpeg", 8, uid.JPEGExtended12Bit),
        ("dcmcjpeg", ["+ee"], "dcmdjpeg", 12, uid.JPEGExtended12Bit),
        ("dcmcjpls", ["+en"], "dcmdjpls", 8, uid.JPEGLSNearLossless),
        ("dcmcjpls", ["+en"], "dcmdjpls", 12, uid.JPEGLSNearLossless),
        ("dcmcjpls", ["+en"], "dcmdjpls", 16, uid.JPEGLSNearLossless),
    ],
)
def test_what_dcmtk_writes_with_loss_is_read_as_dcmtk_reads_it(  # noqa: PLR0913, PLR0917 -- a table
    program: str, options: list[str], decoder: str, bits: int, syntax: uid.UID, tmp_path: Path
) -> None:
    file = dcmtk(program, dicom(ramp(bits), **window(bits)), tmp_path, *options)
    assert pydicom.dcmread(tmp_path / "out").file_meta.TransferSyntaxUID == syntax
    again = decode(dcmtk(decoder, file, tmp_path)).pixels
    found = decode(file).pixels
    assert np.abs(found.astype(int) - again).max() <= 1
    assert np.abs(found.astype(int) - expected(ramp(bits), bits)).max() <= 2


@pytest.mark.parametrize("option", ["+e1", "+ee"])
def test_jpegs_are_rendered_as_dcmj2pnm_renders_them(option: str, tmp_path: Path) -> None:
    window_of_half = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 2048}
    file = dcmtk("dcmcjpeg", dicom(ramp(12), **window_of_half), tmp_path, option)
    dcmtk("dcmj2pnm", file, tmp_path, "--write-raw-pnm", "+Wi", "1")
    rendered = np.asarray(Image.open(tmp_path / "out"), np.int16)
    assert np.abs(decode(file).pixels - rendered).max() <= 1


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [uid.JPEG2000, uid.HTJ2K], ids=lambda each: each.keyword)
def test_jpeg_2000_with_loss_is_near(syntax: uid.UID, bits: int) -> None:
    samples = ramp(bits)
    encoded = (
        imagecodecs.jpeg2k_encode(
            samples, codecformat="j2k", reversible=False, level=60, bitspersample=bits
        )
        if syntax == uid.JPEG2000
        else imagecodecs.htj2k_encode(
            samples, reversible=False, level=0.0005 / (1 << (samples.itemsize * 8 - bits))
        )
    )
    found = decode(compressed(samples, syntax, encoded, **window(bits))).pixels
    assert np.abs(found.astype(int) - expected(samples, bits)).max() <= 2


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEG2000Lossless, ENCODERS["JPEG2000Lossless"]),
        (uid.JPEG2000, ENCODERS["JPEG2000Lossless"]),
        (uid.HTJ2K, ENCODERS["HTJ2KLossless"]),
        (uid.JPEGLSNearLossless, ENCODERS["JPEGLSLossless"]),
    ],
    ids=lambda each: each.keyword if isinstance(each, uid.UID) else "",
)
def test_a_codestream_of_fewer_bits_than_the_header_says_is_read_with_and_without_loss(
    syntax: uid.UID, encode: Callable[[NDArray[np.integer]], bytes]
) -> None:
    elements = window(8) | {"BitsStored": 12}
    file = compressed(ramp(12), syntax, encode(ramp(8)), **elements)
    assert (decode(file).pixels == expected(ramp(8), 8)).all()


def test_a_frame_in_several_fragments_is_put_together() -> None:
    samples = ramp(12)
    codestream = ENCODERS["JPEG2000Lossless"](samples)
    parts = codestream[:100], codestream[100:]
    file = compressed(samples, uid.JPEG2000Lossless, *parts, **window(12))
    assert len(list(generate_frames(pydicom.dcmread(io.BytesIO(file)).PixelData))) == 1
    assert (decode(file).pixels == expected(samples, 12)).all()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("rows", [65, 63])
def test_a_codestream_of_another_size_than_the_header_says_is_unreadable(
    name: str, rows: int
) -> None:
    samples = ramp(12)
    file = compressed(samples, getattr(uid, name), ENCODERS[name](samples), Rows=rows)
    with pytest.raises((UnreadableImage, UnsupportedImage), match=r"64 x (64|63)|at least"):
        decode(file)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_codestream_with_greater_values_than_the_header_says_is_unreadable(name: str) -> None:
    samples = ramp(16)
    file = compressed(samples, getattr(uid, name), ENCODERS[name](samples), BitsStored=12)
    with pytest.raises(UnreadableImage, match="samples of 12 bits"):
        decode(file)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_truncated_codestream_is_unreadable(name: str, cut: float) -> None:
    samples = picture(12, signed=False)
    codestream = ENCODERS[name](samples)
    file = compressed(samples, getattr(uid, name), codestream[: int(cut * len(codestream))])
    with pytest.raises(UnreadableImage):
        decode(file)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("filling", [b"\0", b"\xff", b"\0\0\0"])
def test_a_codestream_may_be_filled_up(name: str, filling: bytes) -> None:
    samples = ramp(12)
    codestream = ENCODERS[name](samples)
    file = compressed(samples, getattr(uid, name), codestream + filling, **window(12))
    assert (decode(file).pixels == expected(samples, 12)).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_color_in_a_codestream_is_unreadable(name: str) -> None:
    color = np.zeros((64, 64, 3), np.uint8)
    encoded = {
        "JPEGLosslessSV1": lambda: imagecodecs.jpeg8_encode(color, lossless=True),
        "JPEGLSLossless": lambda: imagecodecs.jpegls_encode(color),
        "JPEG2000Lossless": lambda: imagecodecs.jpeg2k_encode(color, codecformat="j2k"),
        "HTJ2KLossless": lambda: imagecodecs.htj2k_encode(color),
    }[name]()
    file = compressed(ramp(8), getattr(uid, name), encoded)
    with pytest.raises(UnreadableImage, match="one gray component"):
        decode(file)


def renamed(file: bytes, syntax: str) -> bytes:
    """Let a file of JPEG 2000 name another transfer syntax, that may be shorter."""
    named = uid.JPEG2000Lossless.encode()
    assert len(named) % 2 == 0
    assert len(syntax) <= len(named)
    return file.replace(named, syntax.encode().ljust(len(named), b"\0"))


@pytest.mark.parametrize(
    ("syntax", "received"),
    [
        ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
        ("1.2.840.10008.1.2.4.54", "JPEG Spectral Selection"),
        ("1.2.840.113619.5.2.99", "another"),
        ("Marked^Name", "another"),
    ],
)
def test_an_unknown_transfer_syntax_is_told(syntax: str, received: str) -> None:
    file = renamed(compressed(ramp(12), uid.JPEG2000Lossless, b"\0\0"), syntax)
    with pytest.raises(UnsupportedImage, match=received) as caught:
        decode(file)
    assert "Transfer Syntax UID (0002,0010)" in caught.value.expected
    assert "Marked" not in str(caught.value)


def test_fragments_under_a_syntax_of_samples_and_the_reverse_are_unreadable() -> None:
    fragments = compressed(ramp(12), uid.JPEG2000Lossless, b"\0" * 8192)
    with pytest.raises(UnreadableImage, match="samples in Pixel Data"):
        decode(renamed(fragments, uid.ExplicitVRLittleEndian))
    samples = dicom(ramp(8)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    with pytest.raises(UnreadableImage, match="fragments in Pixel Data"):
        decode(samples)
