"""What reports copy of their sources, byte by byte, and in which time zone their times are."""

import io
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import imagecodecs
import pydicom
import pytest
from pydicom import Dataset, uid
from pydicom.dataelem import RawDataElement

from app.errors import UnsupportedImage
from app.imaging import decode
from tests.app import dicoms
from tests.app.dicoms import ramp
from tests.app.test_reports import finding_of, read_sc, writers
from tests.fakes import dicom_header

TEXT = b"Marked^Name "
ODD = b"M\xfcller^\x84\x1b$B "
"""That fits no character set."""


def header_of(file: bytes) -> Dataset:
    """Give the header of a file as the service has it."""
    header = decode(file).header
    assert header is not None
    return header


@writers
@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO 2022 IR 87", None])
def test_bytes_that_do_not_fit_the_character_set_are_copied(
    write: Any, charset: str | None, syntax: str
) -> None:
    samples = ramp(12)
    data = dicoms.dataset(samples.byteswap() if syntax == uid.ExplicitVRBigEndian else samples)
    data.SpecificCharacterSet = charset
    data.PatientName = TEXT.decode()
    data.StudyDescription = 2 * TEXT.decode()
    file = dicoms.write(data, syntax).replace(TEXT, ODD)
    assert file.count(ODD) == 3
    report = write(finding_of(header_of(file)))
    assert report.count(ODD) == 3
    assert report.count(2 * ODD) == 1


@writers
def test_a_text_of_odd_length_is_filled_up(write: Any) -> None:
    file = dicoms.dicom(PatientID="MARKED-ID")
    at = file.index(b"\x10\x00\x20\x00LO")
    odd = file[:at] + b"\x10\x00\x20\x00LO" + struct.pack("<H", 9) + b"MARKED-ID" + file[at + 18 :]
    report = pydicom.dcmread(io.BytesIO(write(finding_of(header_of(odd)))))
    assert report.PatientID == "MARKED-ID"


@writers
def test_an_attribute_that_is_too_long_is_refused(write: Any) -> None:
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 100_000
    sequence = b"\x08\x00\x51\x00SQ\0\0" + struct.pack("<L", len(items)) + items
    file = dicoms.dicom()
    at = file.index(b"\x08\x00\x60\x00CS")
    with pytest.raises(UnsupportedImage, match="IssuerOfAccessionNumberSequence"):
        write(finding_of(header_of(file[:at] + sequence + file[at:])))


@writers
@pytest.mark.parametrize("hours", [-9, 0, 5.5, 13])
def test_times_are_in_the_time_zone_of_the_source(write: Any, hours: float) -> None:
    zone = f"{'-' if hours < 0 else '+'}{int(abs(hours)):02}{int(abs(hours) % 1 * 60):02}"
    begun = datetime.now(UTC) + timedelta(hours=hours)
    header = dicom_header(TimezoneOffsetFromUTC=zone)
    report = pydicom.dcmread(io.BytesIO(write(finding_of(header))))
    assert report.TimezoneOffsetFromUTC == zone
    for kind in ("Content", "InstanceCreation"):
        told = report[f"{kind}Date"].value + report[f"{kind}Time"].value
        made = datetime.strptime(told, "%Y%m%d%H%M%S.%f").replace(tzinfo=UTC)
        assert abs(made - begun) < timedelta(minutes=10)
    assert report.StudyTime == header.StudyTime


@writers
@pytest.mark.parametrize("zone", [None, "", "+1", "CET", "+9900", "-0000"])
def test_without_a_valid_time_zone_none_is_told(write: Any, zone: str | None) -> None:
    header = dicom_header(TimezoneOffsetFromUTC=zone)
    assert "TimezoneOffsetFromUTC" not in pydicom.dcmread(io.BytesIO(write(finding_of(header))))


@pytest.mark.parametrize(
    ("syntax", "said", "told"),
    [
        (uid.JPEGBaseline8Bit, None, "01"),
        (uid.JPEGBaseline8Bit, "00", "01"),
        (uid.JPEG2000, None, "01"),
        (uid.JPEG2000, "00", "00"),
        (uid.JPEG2000Lossless, None, None),
        (uid.JPEG2000Lossless, "01", "01"),
    ],
)
def test_the_picture_of_a_lossy_source_says_that_it_is_lossy(
    syntax: str, said: str | None, told: str | None
) -> None:
    baseline = syntax == uid.JPEGBaseline8Bit
    encode = imagecodecs.jpeg8_encode if baseline else dicoms.ENCODERS["JPEG2000Lossless"]
    file = dicoms.compressed(ramp(8), syntax, encode(ramp(8)), LossyImageCompression=said)
    assert read_sc(header_of(file)).get("LossyImageCompression") == told


@writers
def test_a_time_zone_that_is_far_too_long_is_not_looked_at(write: Any) -> None:
    zone = struct.pack("<HH2sHL", 0x8, 0x201, b"UC", 0, 65_536) + b"\\" * 65_536
    file = dicoms.dicom()
    at = file.index(b"\x08\x00\x60\x00CS")
    header = header_of(file[:at] + zone + file[at:])
    assert "TimezoneOffsetFromUTC" not in pydicom.dcmread(io.BytesIO(write(finding_of(header))))
    assert isinstance(header.get_item("TimezoneOffsetFromUTC"), RawDataElement)
