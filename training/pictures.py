"""Real pictures but of no chest, out of the packages that the extra `train` installs.

They are loaded by what those packages publish for it; nothing is downloaded.
"""

import io
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import skimage.data
from matplotlib import cbook
from nilearn.datasets import load_mni152_template
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from sklearn.datasets import load_sample_images

from app.imaging import Pixels, decode

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cat", "cell", "clock", "coffee", "coins", "colorwheel"),
    *("grass", "gravel", "horse", "hubble_deep_field", "immunohistochemistry", "moon", "retina"),
    "rocket",
)
PAGES = ("page", "text")
"""Names of scikit-image's functions."""
SAMPLES = ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png")
"""Files of Matplotlib."""
DICOM = {
    "CT slice": ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"),
    "MR slice": ("MR_small.dcm", "examples_overlay.dcm"),
    "ultrasound": ("examples_rgb_color.dcm", "examples_palette.dcm", "examples_ybr_color.dcm"),
}
"""Kind → files of pydicom."""
SLICES = 24


class Picture(NamedTuple):
    """A picture.

    Attributes:
        kind: What it shows.
        pixels: Its gray, uint8 `[height, width]`.
        origin: The photograph, clip or volume that it is, or is a part of.
    """

    kind: str
    pixels: Pixels
    origin: str


@cache
def pictures() -> tuple[Picture, ...]:
    """Give all pictures, always in the same order."""
    return (*_photographs(), *_dicom(), *_brain())


def _photographs() -> Iterator[Picture]:
    for name in PHOTOGRAPHS:
        yield Picture("photograph", _gray(getattr(skimage.data, name)()), name)
    samples = load_sample_images()
    for name, image in zip(samples.filenames, samples.images, strict=True):
        yield Picture("photograph", _gray(image), Path(name).name)
    for name in SAMPLES:
        path = cbook.get_sample_data(name, asfileobj=False)
        with Image.open(str(path)) as opened:
            yield Picture("photograph", _gray(np.asarray(opened.convert("RGB"))), name)
    for name in PAGES:
        yield Picture("document", _gray(getattr(skimage.data, name)()), name)


def _dicom() -> Iterator[Picture]:
    for kind, names in DICOM.items():
        for name in names:
            path = get_testdata_file(name, download=False)
            frames = _frames(pydicom.dcmread(Path(str(path))))
            for frame in frames[:: max(1, len(frames) // 4)]:
                yield Picture(kind, _gray(frame), name)


def _frames(file: pydicom.FileDataset) -> NDArray[np.uint8]:
    """Stored values → uint8 `[frames, height, width]` or `[frames, height, width, 3]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some files test how readers take what is not the norm
        samples = file.pixel_array
    color = file.SamplesPerPixel > 1
    if samples.ndim == (3 if color else 2):
        samples = samples[np.newaxis]
    return samples if color else _windowed(samples.astype(np.float32))


def _brain() -> Iterator[Picture]:
    """Slices of the MNI template of a head in three directions, upright."""
    volume = load_mni152_template(resolution=1).get_fdata(dtype=np.float32)  # right, front, up
    for axis, length in enumerate(volume.shape):
        for place in np.linspace(0.15 * length, 0.85 * length, SLICES).astype(int):
            pixels = np.rot90(_windowed(np.take(volume, place, axis)))
            yield Picture("MR slice", pixels, "MNI152")


def _windowed(values: NDArray[np.float32]) -> Pixels:
    """Stretch values, but for the brightest half percent, over black to white."""
    low, high = np.percentile(values, [0.5, 99.5])
    pixels: Pixels = (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return pixels


def _gray(image: NDArray[np.generic]) -> Pixels:
    """Reduce to gray as the service does with a PNG of it."""
    samples = image.astype(np.uint8) * np.uint8(255 if image.dtype == bool else 1)
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "PNG")
    return decode(stream.getvalue()).pixels
