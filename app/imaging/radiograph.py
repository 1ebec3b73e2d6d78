"""An X-ray as the service sees it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.imaging.contract import Pixels

if TYPE_CHECKING:  # its import takes a quarter of a second, which PNG and JPEG do without
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


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A decoded X-ray.

    Attributes:
        pixels: uint8 `[height, width]`, 0 black (air) to 255 white (bone), upright.
        format: `PNG`, `JPEG` or `DICOM`.
        sha256: Of the file's bytes, in hexadecimal.
        warnings: What the decoder had to decide.
        header: A DICOM file's attributes, without its pixels; None for PNG and JPEG.
    """

    pixels: Pixels
    format: str
    sha256: str
    warnings: tuple[ImageWarning, ...] = ()
    header: "Dataset | None" = None

    @property
    def width(self) -> int:
        """Columns, as shown upright."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows, as shown upright."""
        return int(self.pixels.shape[0])
