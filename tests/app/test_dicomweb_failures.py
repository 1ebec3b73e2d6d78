"""What cannot be analysed is named in the answer to STOW-RS, with the reason that it has."""

import httpx
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from tests.app.dicoms import ENCODERS, INSTANCE, compressed, dataset, dicom, ramp, write
from tests.app.test_dicomweb import module, stow

pytestmark = pytest.mark.anyio

CODESTREAM = bytes(ENCODERS["JPEG2000Lossless"](ramp(12)))


def film(**elements: object) -> bytes:
    """Write an intact file of two frames, with the offsets of both."""
    data = dataset(ramp(12), NumberOfFrames=2, **elements)
    data.PixelData = encapsulate([CODESTREAM, CODESTREAM])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return write(data, uid.JPEG2000Lossless)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (film(), 0xC000),
        (film(SOPClassUID=uid.UltrasoundMultiFrameImageStorage, Modality="US"), 0x0122),
        (dicom()[:-2], 0xC000),
        (dicom()[:-8000], 0xC000),
        (compressed(ramp(12), uid.JPEG2000Lossless, CODESTREAM)[:-100], 0xC000),
        (dicom(Modality="CT", SOPClassUID=uid.CTImageStorage)[:-2], 0x0122),
    ],
    ids=["film", "ultrasound", "one pixel less", "few pixels", "less codestream", "less CT"],
)
async def test_what_has_a_whole_header_is_named(
    client: httpx.AsyncClient, file: bytes, reason: int
) -> None:
    answer = module(await stow(client, file), 409)
    (failed,) = answer.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (INSTANCE, reason)
    assert "OtherFailuresSequence" not in answer


async def test_a_uid_that_may_be_cut_off_is_not_named(client: httpx.AsyncClient) -> None:
    file = dicom()
    cut = file[: file.rindex(INSTANCE.encode()) + 3]
    answer = module(await stow(client, cut), 409)
    assert [item.FailureReason for item in answer.OtherFailuresSequence] == [0xC000]
    assert "FailedSOPSequence" not in answer
