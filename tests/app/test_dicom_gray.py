"""Exact grays: each step from stored samples to 8 bits, as PS3.3 defines it."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.errors import UnreadableImage
from app.imaging import decode
from tests.app.dicoms import dataset, dcmtk, dicom, ramp, write

WIDE = {"BitsStored": 16, "WindowCenter": 32768, "WindowWidth": 65536}


def grays(values: list[int], kind: str = "uint16", **elements: Any) -> list[int]:
    """Read an image whose first row begins with some values, and give their grays."""
    samples = np.zeros((64, 64), kind)
    samples[0, : len(values)] = values
    shown: list[int] = decode(dicom(samples, **elements)).pixels[0, : len(values)].tolist()
    return shown


def lut(entries: list[int], first: int, bits: int, vr: str = "US") -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    data: Any = np.array(entries, "<u2").tobytes() if vr == "OW" else entries
    item.add_new("LUTData", vr, data)
    return [item]


@pytest.mark.parametrize(
    ("function", "center", "width", "values", "expected"),
    [
        # PS3.3's formula is 0 up to 49.5, 1 from 149.5
        (None, 100, 101, [0, 49, 50, 99, 100, 149, 150, 4095], [0, 0, 1, 126, 129, 254, 255, 255]),
        ("LINEAR", 100, 101, [49, 50, 100, 150], [0, 1, 129, 255]),
        ("LINEAR", 2048, 4096, [0, 1, 2047, 2048, 4094, 4095], [0, 0, 127, 128, 255, 255]),
        ("LINEAR", 100, 1, [99, 100, 101], [0, 255, 255]),
        # from 50 to 150, without the half
        ("LINEAR_EXACT", 100, 100, [49, 50, 51, 100, 149, 150], [0, 0, 3, 128, 252, 255]),
        ("LINEAR_EXACT", 10, 0.5, [9, 10, 11], [0, 128, 255]),
        # one half at the center, 1 / (1 + e^2) half a width below it
        ("SIGMOID", 100, 100, [0, 50, 100, 150, 200, 4095], [5, 30, 128, 225, 250, 255]),
    ],
)
def test_windows_give_these_grays(
    function: str | None, center: float, width: float, values: list[int], expected: list[int]
) -> None:
    found = grays(values, VOILUTFunction=function, WindowCenter=center, WindowWidth=width)
    assert found == expected


def test_the_first_of_several_windows_is_used() -> None:
    window: dict[str, Any] = {"WindowCenter": [100, 3000], "WindowWidth": [101, 1]}
    assert grays([49, 50, 100, 150], **window) == [0, 1, 129, 255]


@pytest.mark.parametrize(
    ("kind", "bits", "values"),
    [
        ("uint8", 8, [0, 128, 255]),
        ("int8", 8, [-128, 0, 127]),
        ("uint16", 10, [0, 512, 1023]),
        ("uint16", 12, [0, 2048, 4095]),
        ("int16", 12, [-2048, 0, 2047]),
        ("uint16", 14, [0, 8192, 16383]),
        ("uint16", 16, [0, 32768, 65535]),
        ("int16", 16, [-32768, 0, 32767]),
    ],
)
def test_samples_of_8_to_16_bits_are_read_signed_and_unsigned(
    kind: str, bits: int, values: list[int]
) -> None:
    window: dict[str, Any] = {"WindowCenter": values[1], "WindowWidth": 1 << bits}
    assert grays(values, kind, BitsStored=bits, **window) == [0, 128, 255]


def test_bits_that_are_not_stored_are_left_out() -> None:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    overlay_above = [0x1000, 0x8FFF]
    assert grays(overlay_above, BitsStored=12, **window) == [0, 255]
    below = [0x000F, 0xFFF0]
    assert grays(below, BitsStored=12, HighBit=15, **window) == [0, 255]


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (1, 0, [0, 102, 255]),
        (2, 0, [0, 204, 255]),
        (1, -100, [0, 77, 255]),
        (-1, 250, [250, 153, 0]),
        (0.5, None, [0, 51, 255]),
        (None, 10, [10, 112, 255]),
    ],
)
def test_rescaling_comes_before_the_window(
    slope: float | None, intercept: float | None, expected: list[int]
) -> None:
    values = [0, 102, 4095] if (slope or 1) >= 0 else [0, 97, 4095]
    if intercept == -100:
        values = [100, 177, 4095]
    found = grays(
        values,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        VOILUTFunction="LINEAR_EXACT",
        WindowCenter=127.5,
        WindowWidth=255,
    )
    assert found == expected


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_modality_lut_takes_the_place_of_rescaling(vr: str, syntax: str) -> None:
    samples = np.zeros((64, 64), np.uint16)
    samples[0, :5] = [0, 10, 11, 12, 4095]
    data = dataset(
        samples,
        ModalityLUTSequence=lut([0, 0x8000, 0xFFFF], 10, 16, vr),
        RescaleSlope=7,
        **{key: value for key, value in WIDE.items() if key != "BitsStored"},
    )
    if syntax == ExplicitVRBigEndian:
        data.PixelData = samples.byteswap().tobytes()
        if vr == "OW":
            item = data.ModalityLUTSequence[0]
            item.LUTData = np.array([0, 0x8000, 0xFFFF], ">u2").tobytes()
    shown = decode(write(data, syntax)).pixels[0, :5].tolist()
    assert shown == [0, 0, 128, 255, 255]


def test_a_voi_lut_is_used_before_a_window() -> None:
    table = lut([0, 512, 1023], 100, 10)
    found = grays([99, 100, 101, 102, 103], VOILUTSequence=table, WindowCenter=0, WindowWidth=1)
    assert found == [0, 0, 128, 255, 255]


def test_a_voi_lut_may_begin_below_zero() -> None:
    table = lut([0, 128, 255], -1, 8)
    found = grays([-5, -1, 0, 1, 5], "int16", VOILUTSequence=table, WindowCenter=0, WindowWidth=1)
    assert found == [0, 0, 128, 255, 255]


def test_a_voi_lut_is_entered_at_the_nearest_value() -> None:
    table = lut([0, 51, 102, 255], 0, 8)
    assert grays([1, 2, 3, 5], VOILUTSequence=table, RescaleSlope=0.5) == [51, 51, 102, 255]


def test_a_lut_with_more_bits_than_it_says_is_scaled_by_those_that_it_has() -> None:
    assert grays([0, 1, 2], VOILUTSequence=lut([0, 512, 1023], 0, 8)) == [0, 128, 255]


def test_a_lut_of_bytes_and_one_of_65536_entries_are_read() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [3, 0, 8])
    item.add_new("LUTData", "OW", bytes([0, 100, 255, 0]))
    assert grays([0, 1, 2], VOILUTSequence=[item]) == [0, 100, 255]
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [0, 0, 16])
    item.add_new("LUTData", "OW", np.arange(65536, dtype="<u2")[::-1].tobytes())
    found = grays([0, 32768, 65535], VOILUTSequence=[item], BitsStored=16)
    assert found == [255, 127, 0]


@pytest.mark.parametrize("is_endless", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_first_of_several_full_size_luts_is_used(syntax: str, is_endless: bool) -> None:
    full = list(range(65536))
    data = dataset(ramp(16), BitsStored=16)
    data.VOILUTSequence = lut(full[::-1], 0, 16, "OW") + lut(full, 0, 16, "OW") * 4
    for item in data.VOILUTSequence:
        item.LUTDescriptor = [0, 0, 16]
    data["VOILUTSequence"].is_undefined_length = is_endless
    pixels = decode(write(data, syntax)).pixels
    assert pixels[[0, -1], [0, -1]].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("photometric", "shape", "expected", "codes"),
    [
        ("MONOCHROME2", None, [0, 255], []),
        ("MONOCHROME2", "IDENTITY", [0, 255], []),
        ("MONOCHROME1", None, [255, 0], []),
        ("MONOCHROME1", "INVERSE", [255, 0], []),
        ("MONOCHROME1", "IDENTITY", [0, 255], ["polarity-conflict"]),
        ("MONOCHROME2", "INVERSE", [255, 0], ["polarity-conflict"]),
    ],
)
def test_the_presentation_lut_shape_decides_what_is_black_and_a_conflict_is_told(
    photometric: str, shape: str | None, expected: list[int], codes: list[str], tmp_path: Path
) -> None:
    elements: dict[str, Any] = {
        "PhotometricInterpretation": photometric,
        "PresentationLUTShape": shape,
        "WindowCenter": 2048,
        "WindowWidth": 4096,
    }
    file = dicom(ramp(12), **elements)
    radiograph = decode(file)
    assert radiograph.pixels[[0, -1], [0, -1]].tolist() == expected
    assert [warning.code for warning in radiograph.warnings] == codes
    assert np.abs(radiograph.pixels - dcmtk_rendering(file, tmp_path)).max() <= 1


def dcmtk_rendering(file: bytes, folder: Path, *options: str) -> np.ndarray[Any, Any]:
    options = options or ("+Wi", "1")
    dcmtk("dcm2pnm", file, folder, "--write-raw-pnm", *options)
    return np.asarray(Image.open(folder / "out"), np.int16)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 1800, "WindowWidth": 1000},
        {"WindowCenter": 1800, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 300, "WindowWidth": 600, "RescaleSlope": 0.25, "RescaleIntercept": -100},
        {"WindowCenter": 300, "WindowWidth": 600, "PhotometricInterpretation": "MONOCHROME1"},
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_windows_are_rendered_as_dcmtk_renders_them(
    elements: dict[str, Any], signed: bool, tmp_path: Path
) -> None:
    file = dicom(ramp(12, signed=signed), **elements)
    assert np.abs(decode(file).pixels - dcmtk_rendering(file, tmp_path)).max() <= 1


def test_a_voi_lut_is_rendered_as_dcmtk_renders_it(tmp_path: Path) -> None:
    table = lut([round(1023 * (each / 2047) ** 2) for each in range(2048)], 500, 10)
    file = dicom(ramp(12), VOILUTSequence=table)
    assert np.abs(decode(file).pixels - dcmtk_rendering(file, tmp_path, "+Wl", "1")).max() <= 1


def test_without_a_window_the_percentiles_are_black_and_white() -> None:
    samples = np.full((100, 100), 500, np.uint16)
    samples.flat[:50] = 0  # 0.5%
    samples.flat[50:100] = 100
    samples.flat[-50:] = 4000  # 0.5%
    samples.flat[-100:-50] = 1100
    radiograph = decode(dicom(samples))
    shown = {
        int(value): int(radiograph.pixels[samples == value][0]) for value in np.unique(samples)
    }
    # The 50th value of 10,000 is 0, the 9,950th is 1100.
    assert shown == {0: 0, 100: 23, 500: 116, 1100: 255, 4000: 255}
    assert [warning.code for warning in radiograph.warnings] == ["window-inferred"]


def test_an_image_of_one_value_has_one_gray() -> None:
    assert not decode(dicom(np.full((64, 64), 700, np.uint16))).pixels.any()


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": -3, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 100, "WindowWidth": 30, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": 100},
        {"WindowWidth": 100},
    ],
)
def test_a_window_that_is_none_is_not_used(window: dict[str, Any]) -> None:
    radiograph = decode(dicom(ramp(12), **window))
    assert (radiograph.pixels == decode(dicom(ramp(12))).pixels).all()
    assert [warning.code for warning in radiograph.warnings] == ["window-inferred"]


@pytest.mark.parametrize(
    ("padding", "limit", "black"),
    [(0, None, [0]), (4000, None, [4000]), (4000, 4095, [4000, 4050, 4095]), (10, 0, [0, 5, 10])],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_counts_for_nothing(
    padding: int, limit: int | None, black: list[int], photometric: str
) -> None:
    plain = np.tile(np.linspace(1000, 2000, 64).astype(np.uint16), (64, 1))
    padded = np.vstack([plain, np.resize(np.array(black, np.uint16), (64, 64))])
    data = dataset(padded, PhotometricInterpretation=photometric)
    data.add_new("PixelPaddingValue", "US", padding)
    if limit is not None:
        data.add_new("PixelPaddingRangeLimit", "US", limit)
    pixels = decode(write(data)).pixels
    expected = decode(dicom(plain, PhotometricInterpretation=photometric)).pixels
    assert (pixels[:64] == expected).all()
    assert not pixels[64:].any()


@pytest.mark.parametrize(
    ("vr", "value", "black"), [("US", [4095, 0], True), ("LO", "4095,5", False)]
)
def test_padding_that_is_not_one_number_is_warned_of(vr: str, value: object, black: bool) -> None:
    data = dataset(ramp(12), WindowCenter=2048, WindowWidth=4096)
    data.add_new("PixelPaddingValue", vr, value)
    radiograph = decode(write(data))
    assert [warning.code for warning in radiograph.warnings] == ["padding-inferred"]
    assert radiograph.pixels[[0, -1], [0, -1]].tolist() == [0, 0 if black else 255]


def test_padding_may_be_negative_and_declared_as_positive() -> None:
    samples = ramp(16, signed=True)
    for vr, value in (("SS", -32768), ("US", 32768)):
        data = dataset(samples, BitsStored=16, PhotometricInterpretation="MONOCHROME1")
        data.add_new("PixelPaddingValue", vr, value)
        pixels = decode(write(data)).pixels
        assert not pixels[samples == -32768].any()
        assert (pixels[samples == -32767] == 255).all()


@pytest.mark.parametrize(
    "elements",
    [
        {"RescaleSlope": 0},
        {"ModalityLUTSequence": lut([1, 2], 0, 17)},
        {"VOILUTSequence": lut([1, 2], 0, 3)},
        {"VOILUTSequence": [Dataset()]},
    ],
)
def test_a_step_that_is_not_defined_is_unreadable(elements: dict[str, Any]) -> None:
    with pytest.raises(UnreadableImage, match=r"\(0028,"):
        decode(dicom(ramp(12), **elements))


def with_decimals(numbers: dict[str, str]) -> bytes:
    """Write numbers as decimal strings that pydicom would not write."""
    data = dataset()
    for keyword, value in numbers.items():
        data.add_new(keyword, "CS" if "LUT" in keyword else "LO", value)
    file = write(data)
    for element in (0x1050, 0x1051, 0x1052, 0x1053):
        head = struct.pack("<HH", 0x28, element)
        file = file.replace(head + b"LO", head + b"DS")
    return file


@pytest.mark.parametrize(
    "numbers",
    [
        {"RescaleSlope": "1e308"},
        {"RescaleSlope": "nan"},
        {"RescaleIntercept": "inf"},
        {"RescaleIntercept": "1e999"},
    ],
)
def test_a_rescaling_to_what_is_no_number_is_unreadable(numbers: dict[str, str]) -> None:
    with pytest.raises(UnreadableImage, match=r"Rescale Slope \(0028,1053\)"):
        decode(with_decimals(numbers))


@pytest.mark.parametrize(
    "numbers",
    [
        {"WindowCenter": "2048,5", "WindowWidth": "4096"},
        {"WindowCenter": "2048", "WindowWidth": "wide"},
    ],
)
def test_a_window_that_is_no_number_is_not_used(numbers: dict[str, str]) -> None:
    radiograph = decode(with_decimals(numbers))
    assert [warning.code for warning in radiograph.warnings] == ["window-inferred"]


@pytest.mark.parametrize(
    "numbers",
    [
        {"RescaleSlope": "1e300", "RescaleIntercept": "-1e303"},
        {"WindowCenter": "1e308", "WindowWidth": "1e308"},
        {"WindowCenter": "-1e308", "WindowWidth": "1e-300", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "0", "WindowWidth": "1e-300", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "nan", "WindowWidth": "inf"},
    ],
)
def test_very_great_and_very_small_numbers_are_read(numbers: dict[str, str]) -> None:
    assert decode(with_decimals(numbers)).pixels.shape == (64, 64)


def test_a_lut_of_another_length_than_it_says_is_unreadable() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [5, 0, 8])
    item.add_new("LUTData", "US", [1, 2, 3])
    with pytest.raises(UnreadableImage, match=r"5 entries in LUT Data \(0028,3006\); received 3"):
        decode(dicom(ramp(12), VOILUTSequence=[item]))
