"""From bytes to pixels: the only place where pixels are made, for the service and for training.

bytes → `decode` → `Radiograph` (upright, 8-bit gray, its own size) → `to_model_input` (224×224)
"""

from app.imaging.contract import RESIZE_RULE, SIZE, Pixels, to_model_input
from app.imaging.phantom import phantom
from app.imaging.radiograph import DicomInstance, ImageWarning, Radiograph
from app.imaging.raster import Limits
from app.imaging.reading import decode, identify
from app.imaging.uids import MAX_UID, UID, is_uid

__all__ = [
    "MAX_UID",
    "RESIZE_RULE",
    "SIZE",
    "UID",
    "DicomInstance",
    "ImageWarning",
    "Limits",
    "Pixels",
    "Radiograph",
    "decode",
    "identify",
    "is_uid",
    "phantom",
    "to_model_input",
]
