"""An X-ray as the service sees it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.imaging.contract import Pixels

if TYPE_CHECKING:  # pydicom is imported when a DICOM file comes
    from pydicom import Dataset


@dataclass(frozen=True, slots=True)
class ImageWarning:
    """Something about an image that its reader should know.

    Attributes:
        code: Stable, for programs.
        detail: For people.
    """

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class DicomInstance:
    """Which DICOM object was read, by its UIDs; none where it has none, or one of another form."""

    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    sop_class_uid: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A decoded X-ray.

    Attributes:
        pixels: uint8 `[height, width]`, 0 black (air) to 255 white (bone), upright.
        format: `PNG`, `JPEG` or `DICOM`.
        sha256: Of the file's bytes, in hexadecimal.
        warnings: What the decoder had to decide.
        dicom: Which DICOM object it is; none of another format.
        header: Of a DICOM file, without its pixels, to refer to it in a report. It holds patient
            data: nothing of it may go into an answer that is no DICOM, a log or an error.
    """

    pixels: Pixels
    format: str
    sha256: str
    warnings: tuple[ImageWarning, ...] = ()
    dicom: DicomInstance | None = None
    header: "Dataset | None" = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """Columns, as shown upright."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows, as shown upright."""
        return int(self.pixels.shape[0])
