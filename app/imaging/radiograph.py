"""An X-ray as the service sees it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.imaging.contract import Pixels, to_model_input

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
        pixels: uint8 `[height, width]`, 0 black (air) to 255 white (bone), upright; smaller where
            it was decoded reduced.
        format: `PNG`, `JPEG` or `DICOM`.
        sha256: Of the file's bytes, in hexadecimal.
        warnings: What the decoder had to decide.
        size: Width and height of what the file holds, upright; that of `pixels` where not given.
        dicom: Which DICOM object it is; none of another format.
        header: Of a DICOM file, without its pixels, to refer to it in a report. It holds patient
            data: nothing of it may go into an answer that is no DICOM, a log or an error.
    """

    pixels: Pixels
    format: str
    sha256: str
    warnings: tuple[ImageWarning, ...] = ()
    size: tuple[int, int] | None = None
    dicom: DicomInstance | None = None
    header: "Dataset | None" = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """Columns of what the file holds, as shown upright."""
        return self.size[0] if self.size else int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows of what the file holds, as shown upright."""
        return self.size[1] if self.size else int(self.pixels.shape[0])

    @property
    def is_reduced(self) -> bool:
        """Whether the file holds more pixels."""
        return self.pixels.shape != (self.height, self.width)

    def to_model_input(self) -> Pixels:
        """Stretch it to the model's input, uint8 `[224, 224, 1]`; see the pixel contract."""
        if not self.is_reduced:
            return to_model_input(self.pixels)
        scale = round(self.width / self.pixels.shape[1])
        return to_model_input(self.pixels, (self.width / scale, self.height / scale))
