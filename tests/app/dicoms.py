"""DICOM files that tests make: nobody's X-rays."""

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

STUDY, SERIES, INSTANCE = "1.2.826.0.1.3680043.8.498.1", "1.2.3.4", "1.2.3.5"

SIDE = 64


def ramp(bits: int, *, signed: bool = False, side: int = SIDE) -> NDArray[np.integer]:
    """Draw a picture that has the least and the greatest value that there can be, and many more."""
    values = np.linspace(0, (1 << bits) - 1, side * side).round().astype(np.int64)
    values = np.sort(values.reshape(side, side), axis=0)
    if signed:
        return (values - (1 << (bits - 1))).astype(np.int8 if bits == 8 else np.int16)
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def dataset(samples: NDArray[np.integer] | None = None, **elements: Any) -> Dataset:
    """Make a data set around samples; elements are set by keyword, and left out where None."""
    samples = ramp(12) if samples is None else samples
    bits = 8 * samples.dtype.itemsize
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "SOPInstanceUID": INSTANCE,
        "Modality": "DX",
        "PatientName": "Marked^Name",
        "PatientID": "MARKED-ID",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": samples.shape[0],
        "Columns": samples.shape[1],
        "BitsAllocated": bits,
        "BitsStored": 12 if bits == 16 else 8,
        "PixelRepresentation": int(samples.dtype.kind == "i"),
        "PixelData": samples.tobytes(),
        **elements,
    }
    values.setdefault("HighBit", values["BitsStored"] - 1)
    for keyword, value in values.items():
        if value is not None:
            setattr(made, keyword, value)
    if "PixelData" in made:
        made["PixelData"].VR = "OW" if bits == 16 else "OB"
    return made


def write(data: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Write a data set as a file, in a transfer syntax without codestreams."""
    data.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def dicom(samples: NDArray[np.integer] | None = None, **elements: Any) -> bytes:
    """Write a file around samples, in little endian with explicit VRs."""
    return write(dataset(samples, **elements))


def compressed(
    samples: NDArray[np.integer], syntax: str, *fragments: bytes | bytearray, **elements: Any
) -> bytes:
    """Write a file around a codestream, in one fragment or several."""
    data = dataset(samples, **elements)
    data.PixelData = encapsulate([b"".join(fragments)], fragments_per_frame=max(1, len(fragments)))
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return write(data, syntax)


def dcmtk(program: str, data: bytes, folder: Path, *options: str) -> bytes:
    """Let one of dcmtk's programs make a file of another; the test is skipped without it."""
    if not shutil.which(program):
        pytest.skip(f"{program} of dcmtk is not installed")
    (folder / "in").write_bytes(data)
    command = [program, *options, str(folder / "in"), str(folder / "out")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return (folder / "out").read_bytes()


def _jpeg_lossless(samples: NDArray[np.integer]) -> bytes | bytearray:
    bits = 8 if samples.dtype.itemsize == 1 else 16
    unsigned = samples.view(f"u{samples.dtype.itemsize}")
    return imagecodecs.jpeg8_encode(unsigned, lossless=True, bitspersample=bits)


ENCODERS: dict[str, Callable[[NDArray[np.integer]], bytes | bytearray]] = {
    "JPEGLosslessSV1": _jpeg_lossless,
    "JPEGLSLossless": lambda each: imagecodecs.jpegls_encode(each.view(f"u{each.dtype.itemsize}")),
    "JPEG2000Lossless": lambda each: imagecodecs.jpeg2k_encode(
        each, codecformat="j2k", reversible=True, level=0
    ),
    "HTJ2KLossless": lambda each: imagecodecs.htj2k_encode(each, reversible=True),
}
"""Of samples without loss, by the name of their transfer syntax in `pydicom.uid`."""
