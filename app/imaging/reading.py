"""Bytes of any type that is read, to a radiograph."""

from app.imaging import raster
from app.imaging.radiograph import DicomInstance, Radiograph
from app.imaging.raster import Limits

_PREAMBLE = 128
_PREFIX = b"DICM"


def decode(data: bytes, limits: Limits | None = None, *, reduced: bool = False) -> Radiograph:
    """Read a PNG, JPEG or DICOM file; `raster.decode` and `dicom.decode_dicom` tell how.

    Args:
        data: The file's bytes.
        limits: What is decoded at all; the defaults where not given.
        reduced: See `raster.decode`; without effect on DICOM.

    Raises:
        UnsupportedImageType: The bytes begin like none of them.
        UnreadableImage: The file is empty, truncated or corrupt.
        UnsupportedImage: It is intact, but not of a kind that is read.
        NotAChestRadiograph: Its header says that it is something else.
    """
    if not is_dicom(data):
        return raster.decode(data, limits, reduced=reduced)
    from app.imaging.dicom import decode_dicom  # noqa: PLC0415 -- most services never see one

    return decode_dicom(data, limits or Limits())


def identify(data: bytes, limits: Limits | None = None) -> DicomInstance | None:
    """Read which DICOM object a file holds, whatever it is of.

    Args:
        data: The file's bytes.
        limits: What is decoded at all; the defaults where not given.

    Returns:
        Its UIDs; none where it is no DICOM file, or one whose header is broken.
    """
    if not is_dicom(data):
        return None
    from app.imaging.dicom import identify_dicom  # noqa: PLC0415 -- see above

    return identify_dicom(data, limits or Limits())


def is_dicom(data: bytes) -> bool:
    """Tell whether bytes are a DICOM file: 128 bytes of anything, then `DICM`.

    Data sets without that preamble, which nothing but a guess could tell, are not taken for one.
    """
    return data[_PREAMBLE : _PREAMBLE + len(_PREFIX)] == _PREFIX
