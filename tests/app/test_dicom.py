"""Which DICOM files are read, what is told of them, and what is not."""

import hashlib
import logging
import time
import warnings
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, uid

from app.errors import (
    InputError,
    NotAChestRadiograph,
    UnreadableImage,
    UnsupportedImage,
    UnsupportedImageType,
)
from app.imaging import DicomInstance, Limits, decode
from app.logs import silence_libraries
from app.schemas import Problem
from tests.app.dicoms import INSTANCE, SERIES, STUDY, dataset, dicom, ramp, write

CAPTURE = uid.SecondaryCaptureImageStorage
MARK = "MARKED"


def coded(value: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "SCT"
    item.CodeMeaning = "Marked"
    return [item]


def test_a_file_is_told_by_its_format_size_hash_and_uids() -> None:
    file = dicom(ramp(12)[:, :40].repeat(2, axis=1))
    radiograph = decode(file)
    assert (radiograph.format, radiograph.width, radiograph.height) == ("DICOM", 80, 64)
    assert radiograph.sha256 == hashlib.sha256(file).hexdigest()
    sop_class = uid.DigitalXRayImageStorageForPresentation
    assert radiograph.dicom == DicomInstance(STUDY, SERIES, INSTANCE, sop_class)


def test_the_header_is_kept_without_pixels_and_overlays_and_is_not_shown() -> None:
    data = dataset()
    data.add_new(0x60003000, "OW", b"\1\0" * 32)
    radiograph = decode(write(data))
    header = radiograph.header
    assert header is not None
    assert header.PatientName == "Marked^Name"
    assert header.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    assert "PixelData" not in header
    assert 0x60003000 not in header
    assert "Marked" not in repr(radiograph)


@pytest.mark.parametrize("value", [None, "", "Marked^Name", "19700101", "1.02.3", "1.2.3" * 20])
def test_a_uid_that_is_none_is_not_told(value: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, which writes it
        file = dicom(StudyInstanceUID=value)
    instance = decode(file).dicom
    assert instance is not None
    assert instance.study_instance_uid is None
    assert instance.series_instance_uid == SERIES


@pytest.mark.parametrize(
    "elements",
    [
        {"Modality": "CR", "SOPClassUID": uid.ComputedRadiographyImageStorage},
        {"Modality": "DX"},
        {"Modality": "DR"},
        {"Modality": "RG", "SOPClassUID": CAPTURE},
        {"Modality": "OT", "SOPClassUID": CAPTURE, "BodyPartExamined": "CHEST"},
        {"Modality": "SC", "SOPClassUID": CAPTURE, "AnatomicRegionSequence": coded("T-D3000")},
        {"BodyPartExamined": "CHEST"},
        {"BodyPartExamined": "Thorax"},
        {"BodyPartExamined": "PORT CHEST"},
        {"BodyPartExamined": "LUNG"},
        {"BodyPartExamined": ""},
        {"AnatomicRegionSequence": coded("816094009")},
        {"AnatomicRegionSequence": coded("51185008")},
        {"ViewPosition": "PA"},
        {"ViewPosition": "AP"},
        {"ViewPosition": "AP SUPINE"},
        {"ViewPosition": ""},
        {"ViewCodeSequence": coded("399348003")},
        {"ViewCodeSequence": coded("R-10206")},
        {"PatientOrientation": ["L", "F"]},
        {"PatientOrientation": "P"},
        {"PatientOrientation": ["X", "A"]},
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"NumberOfFrames": 1},
        {"SamplesPerPixel": None},
    ],
)
def test_frontal_chest_xrays_are_read(elements: dict[str, Any]) -> None:
    assert decode(dicom(**elements)).pixels.shape == (64, 64)


@pytest.mark.parametrize(
    ("elements", "expected", "received"),
    [
        ({"Modality": "CT"}, "Modality (0008,0060)", "CT"),
        ({"Modality": "MG"}, "Modality (0008,0060)", "MG"),
        ({"Modality": None}, "Modality (0008,0060)", "none"),
        ({"Modality": "marked^name"}, "Modality (0008,0060)", "another value"),
        ({"Modality": "OT"}, "SOP Class UID (0008,0016)", "another class"),
        ({"Modality": "OT", "SOPClassUID": CAPTURE}, "Body Part Examined (0018,0015)", "none"),
        ({"BodyPartExamined": "HAND"}, "Body Part Examined (0018,0015)", "HAND"),
        ({"BodyPartExamined": "DOE JOHN"}, "Body Part Examined (0018,0015)", "another value"),
        ({"BodyPartExamined": "Ärmel"}, "Body Part Examined (0018,0015)", "another value"),
        ({"AnatomicRegionSequence": coded("T-D8700")}, "Anatomic Region", "another code"),
        ({"ViewPosition": "LL"}, "View Position (0018,5101)", "LL"),
        ({"ViewPosition": "RL"}, "View Position (0018,5101)", "RL"),
        ({"ViewPosition": "Lateral"}, "View Position (0018,5101)", "LATERAL"),
        ({"ViewPosition": "LLD"}, "View Position (0018,5101)", "LLD"),
        ({"ViewPosition": "RAO"}, "View Position (0018,5101)", "RAO"),
        (
            {"PatientOrientation": ["A", "F"]},
            "Patient Orientation (0020,0020)",
            "one to front or back",
        ),
        ({"PatientOrientation": ["L", "PF"]}, "Patient Orientation", "one to front or back"),
        ({"ViewCodeSequence": coded("399067008")}, "View Code Sequence (0054,0220)", "lateral"),
        ({"ViewCodeSequence": coded("R-10236")}, "View Code Sequence", "left lateral"),
    ],
)
def test_what_its_header_says_to_be_no_frontal_chest_xray_is_refused(
    elements: dict[str, Any], expected: str, received: str
) -> None:
    if "Ärmel" in elements.values():
        elements["SpecificCharacterSet"] = "ISO_IR 100"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, which writes it
        file = dicom(**elements)
    with pytest.raises(NotAChestRadiograph) as caught:
        decode(file)
    assert expected in caught.value.expected
    assert caught.value.received == received
    assert Problem.of(caught.value).status == 422


@pytest.mark.parametrize(
    ("elements", "expected", "received"),
    [
        (
            {"PresentationIntentType": "FOR PROCESSING"},
            "FOR PRESENTATION in Presentation Intent Type (0008,0068)",
            "FOR PROCESSING",
        ),
        (
            {"SOPClassUID": uid.DigitalXRayImageStorageForProcessing},
            "SOP Class UID (0008,0016)",
            "Digital X-Ray Image Storage - For Processing",
        ),
        ({"NumberOfFrames": 2}, "1 in Number of Frames (0028,0008)", "2"),
        ({"SamplesPerPixel": 3}, "1 (gray) in Samples per Pixel (0028,0002)", "3"),
        ({"PhotometricInterpretation": "RGB"}, "Photometric Interpretation (0028,0004)", "RGB"),
        (
            {"PhotometricInterpretation": "PALETTE COLOR"},
            "Photometric Interpretation (0028,0004)",
            "PALETTE COLOR",
        ),
        ({"PhotometricInterpretation": None}, "Photometric Interpretation", "none"),
        ({"PixelData": None}, "pixels in Pixel Data (7FE0,0010)", "none"),
        ({"PixelData": b""}, "pixels in Pixel Data (7FE0,0010)", "none"),
        ({"BitsStored": 6, "HighBit": 5}, "8 to 16 in Bits Stored (0028,0101)", "6"),
        ({"BitsAllocated": 32}, "8 or 16 in Bits Allocated (0028,0100)", "32"),
        ({"BitsAllocated": 1}, "8 or 16 in Bits Allocated (0028,0100)", "1"),
    ],
)
def test_pixels_that_are_not_read_are_refused_by_the_element_that_says_so(
    elements: dict[str, Any], expected: str, received: str
) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        decode(dicom(**elements))
    assert expected in caught.value.expected
    assert caught.value.received == received
    assert Problem.of(caught.value).status == 422


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Rows": 65}, "8320 bytes in Pixel Data"),
        ({"Columns": 66}, "8448 bytes in Pixel Data"),
        ({"BitsAllocated": 8, "BitsStored": 8}, "4096 bytes in Pixel Data"),
        ({"Rows": None}, r"a number in Rows \(0028,0010\); received none"),
        ({"Columns": 0}, r"a number in Columns \(0028,0011\)"),
        ({"BitsStored": 12, "HighBit": 10}, "12 bits up to High Bit"),
        ({"BitsStored": 12, "HighBit": 16}, "12 bits up to High Bit"),
        ({"PixelRepresentation": 2}, r"0 or 1 in Pixel Representation \(0028,0103\)"),
    ],
)
def test_a_header_that_contradicts_itself_is_unreadable(
    elements: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnreadableImage, match=message):
        decode(dicom(**elements))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_pixels=4095), "at most 4095 pixels by .*; received 64 x 64"),
        (Limits(min_side=65), "at least 65 x 65 pixels by .*; received 64 x 64"),
    ],
)
def test_limits_are_checked_before_pixels_are_looked_at(limits: Limits, message: str) -> None:
    with pytest.raises(UnsupportedImage, match=message):
        decode(dicom(PixelData=b"\0\0"), limits)


def test_burned_in_annotation_is_warned_of() -> None:
    warned = decode(dicom(BurnedInAnnotation="YES", WindowCenter=9, WindowWidth=9)).warnings
    assert [warning.code for warning in warned] == ["burned-in-annotation"]
    assert not decode(dicom(BurnedInAnnotation="NO", WindowCenter=9, WindowWidth=9)).warnings


@pytest.mark.parametrize(
    ("orientation", "warned"),
    [
        (["R", "F"], True),
        (["F", "R"], True),
        (["L", "H"], True),
        (["L", "F"], False),
        (["LA", "FP"], False),
        (["L", "R"], False),
        (["L", "F", "L"], False),
        ("", False),
    ],
)
def test_an_image_that_is_mirrored_or_turned_is_warned_of_and_left_so(
    orientation: str | list[str], warned: bool
) -> None:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    radiograph = decode(dicom(PatientOrientation=orientation, **window))
    codes = [warning.code for warning in radiograph.warnings]
    assert codes == ["orientation-not-applied"] * warned
    assert (radiograph.pixels == decode(dicom(**window)).pixels).all()


def test_some_bytes_too_many_are_left_and_warned_of() -> None:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    radiograph = decode(dicom(PixelData=ramp(12).tobytes() + bytes(126), **window))
    assert [warning.code for warning in radiograph.warnings] == ["surplus-pixel-data"]
    assert (radiograph.pixels == decode(dicom(**window)).pixels).all()


@pytest.mark.parametrize("side", ["Rows", "Columns"])
def test_a_row_or_a_column_too_many_is_unreadable(side: str) -> None:
    with pytest.raises(UnreadableImage, match="12640 bytes in Pixel Data"):
        decode(dicom(ramp(12, side=80), **{side: 79}))


@pytest.mark.parametrize("cut", [133, 200, 400, 700, -5000, -1])
def test_a_truncated_file_is_no_radiograph(cut: int) -> None:
    with pytest.raises(InputError):
        decode(dicom()[:cut])


def test_a_file_that_lacks_its_last_pixel_is_unreadable() -> None:
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(dicom()[:-2])


def test_a_deflated_file_that_lacks_its_end_is_unreadable() -> None:
    file = write(dataset(), uid.DeflatedExplicitVRLittleEndian)
    with pytest.raises(UnreadableImage):
        decode(file[:-20])


def test_a_file_without_preamble_is_not_taken_for_dicom() -> None:
    with pytest.raises(UnsupportedImageType, match="a PNG, JPEG or DICOM file"):
        decode(dicom()[132:])


def test_a_file_without_transfer_syntax_is_unreadable() -> None:
    with pytest.raises(UnreadableImage, match=r"Transfer Syntax UID \(0002,0010\)"):
        decode(bytes(128) + b"DICM" + dicom()[-9000:])


def test_a_file_that_is_explicit_against_its_word_is_read() -> None:
    explicit = dicom(WindowCenter=2048, WindowWidth=4096)
    named = explicit.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0")
    assert (decode(named).pixels == decode(explicit).pixels).all()


def marked_files() -> list[bytes]:
    """Files that are read or refused, with a mark wherever a header can hold a text."""
    texts: dict[str, Any] = {
        "PatientName": MARK,
        "PatientID": MARK,
        "PatientBirthDate": MARK,
        "StudyDescription": MARK,
        "SeriesDescription": MARK,
        "AccessionNumber": MARK,
        "InstitutionName": MARK,
        "ImageComments": MARK,
        "StudyDate": MARK,
        "PatientAge": MARK,
    }
    looked_at = (
        *("SpecificCharacterSet", "Modality", "BodyPartExamined", "ViewPosition", "SOPClassUID"),
        *("PresentationIntentType", "PhotometricInterpretation", "PresentationLUTShape"),
        *("VOILUTFunction", "BurnedInAnnotation", "StudyInstanceUID", "SOPInstanceUID"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, which writes them
        files = [dicom(**texts)]
        files += [dicom(**texts | {keyword: f"{MARK}^x"}) for keyword in looked_at]
        numbers = ("WindowCenter", "RescaleSlope", "NumberOfFrames", "Rows", "PixelPaddingValue")
        for keyword in numbers:
            data = dataset(**texts | ({keyword: None}))
            data.add_new(keyword, "LO", MARK)
            files.append(write(data))
        item = Dataset()
        item.CodeValue = f"{MARK}^x"
        files.append(dicom(**texts, ViewCodeSequence=[item], AnatomicRegionSequence=[item]))
    return files


@pytest.mark.parametrize("number", range(19))
def test_nothing_of_a_header_is_in_logs_warnings_problems_or_what_is_told(
    number: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    file = marked_files()[number]
    assert MARK.encode() in file
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    with warnings.catch_warnings(record=True, action="always") as warned:
        silence_libraries()
        try:
            radiograph = decode(file)
            told += [repr(radiograph), str(radiograph.dicom)]
        except InputError as error:
            told += [Problem.of(error).model_dump_json(), repr(error)]
    told += [str(warning.message) for warning in warned]
    told += [caplog.text, *capfd.readouterr()]
    assert MARK not in "".join(told).upper()


def test_there_are_as_many_marked_files_as_are_tried() -> None:
    assert len(marked_files()) == 19


def test_many_runs_of_rle_do_not_take_long() -> None:
    samples = np.random.default_rng(0).integers(0, 4096, (1000, 1000), np.uint16)
    data = dataset(samples)
    data.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    file = write(data, uid.RLELossless)
    start = time.perf_counter()
    assert decode(file).pixels.shape == (1000, 1000)
    assert time.perf_counter() - start < 3
