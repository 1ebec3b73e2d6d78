"""The released network in 8-bit integers, for engines and processors that are faster with them."""

import logging
import sys
from pathlib import Path

import numpy as np

from app.engines import INT8
from app.imaging import Pixels

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 300
MOST_BYTES = 95_000_000
"""Of a release with its quantised network."""


def quantize(release: Path, images: Pixels, seed: int) -> None:
    """Write the network of a SavedModel in 8-bit integers beside it, as `INT8`.

    Post-training quantisation of weights and activations (Jacob et al., CVPR 2018) by NNCF. Only
    convolutions are quantised: the heatmap is a chain of the dense layers' kernels, in which
    rounding adds up.

    Args:
        release: Folder of the SavedModel.
        images: X-rays of the training split, uint8 `[n, 224, 224, 1]`, to find the activations'
            ranges by.
        seed: Which of them.
    """
    # Both would report to their maker's analytics when they are imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import nncf  # noqa: PLC0415 -- after the line above
    import openvino  # noqa: PLC0415 -- the same
    from nncf.quantization.range_estimator import (  # noqa: PLC0415 -- the same
        RangeEstimatorParametersSet as ranges,  # noqa: N813 -- a table of constants
    )

    nncf.set_log_level(logging.ERROR)
    chosen = np.random.default_rng(seed).permutation(len(images))[:CALIBRATION_IMAGES]
    dataset = nncf.Dataset([images[i : i + 1] for i in np.sort(chosen)])
    quantized = nncf.quantize(
        openvino.Core().read_model(str(release)),
        dataset,
        subset_size=len(chosen),
        preset=nncf.QuantizationPreset.MIXED,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            # It would halve the first layer's steps for processors that serve in f32 anyway.
            overflow_fix=nncf.OverflowFix.DISABLE,
            # By the extremes, as is the default, the heatmaps' correlation was 0.89 and not 0.999.
            activations_range_estimator_params=ranges.HISTOGRAM,
        ),
        ignored_scope=nncf.IgnoredScope(types=["MatMul", "Einsum"], validate=False),
    )
    openvino.save_model(quantized, release / INT8)


def fits(release: Path) -> bool:
    """Tell whether a release is small enough with its quantised network."""
    size = sum(file.stat().st_size for file in release.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        log.warning("The release would have %d bytes, more than %d.", size, MOST_BYTES)
    return size <= MOST_BYTES


def remove(release: Path) -> None:
    """Take the quantised network out of a release."""
    for suffix in (".xml", ".bin"):
        (release / INT8).with_suffix(suffix).unlink()
