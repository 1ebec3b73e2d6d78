"""The released network in 8-bit integers, for engines and processors that are faster with them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from app.engines import INT8
from app.imaging import Pixels
from app.openvino_runtime import import_openvino

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 300
LARGEST_MAP = 14
"""Side of the maps, in pixels, up to which they are quantised: of the last two of ResNet50's four
groups of blocks, which have 94% of its kernels and 55% of its work. Rounding in the larger maps
before them moved the answer more than twice as far (`training/README.md`)."""

_MAP_AXES = 4
_SIDE_AXIS = 2  # of [n, channels, side, side] as of [n, side, side, channels]

MOST_BYTES = 95_000_000
"""Of a release with its quantised network."""


def quantize(release: Path, images: Pixels, seed: int) -> None:
    """Write the network of a SavedModel in 8-bit integers beside it, as `INT8`.

    Post-training quantisation of weights and activations (Jacob et al., CVPR 2018) by NNCF. Only
    maps of at most `LARGEST_MAP` and the convolutions that make them are quantised. What comes
    after the maps is not: the heatmap is a chain of the dense layers' kernels, in which rounding
    adds up.

    Args:
        release: Folder of the SavedModel.
        images: X-rays of the training split, uint8 `[n, 224, 224, 1]`, to find the activations'
            ranges by.
        seed: Which of them.
    """
    openvino = import_openvino()
    import nncf  # noqa: PLC0415 -- after the line above, or it would report to its maker
    from nncf.quantization.range_estimator import (  # noqa: PLC0415 -- the same
        RangeEstimatorParametersSet as ranges,  # noqa: N813 -- a table of constants
    )

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(str(release))
    _unpack_kernels(model)
    whole = [op.get_friendly_name() for op in model.get_ops() if not _gives_small_map(op)]
    chosen = np.random.default_rng(seed).permutation(len(images))[:CALIBRATION_IMAGES]
    quantized = nncf.quantize(
        model,
        nncf.Dataset([images[i : i + 1] for i in np.sort(chosen)]),
        subset_size=len(chosen),
        preset=nncf.QuantizationPreset.MIXED,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            # It would leave the first layers' kernels half of their steps. Without it AVX2 may
            # saturate in the first layers that are quantised; agreement there is measured in
            # training/README.md.
            overflow_fix=nncf.OverflowFix.DISABLE,
            # By the extremes, as is the default, the heatmaps' correlation was 0.89 and not 0.999.
            activations_range_estimator_params=ranges.HISTOGRAM,
        ),
        ignored_scope=nncf.IgnoredScope(names=whole, validate=False),
    )
    partial = release / f"partial-{INT8}"
    openvino.save_model(quantized, partial)
    for suffix in (".bin", ".xml"):  # the one that a resumed run looks for comes last
        partial.with_suffix(suffix).replace((release / INT8).with_suffix(suffix))


def _unpack_kernels(model: Any) -> None:  # noqa: ANN401 -- OpenVINO publishes no types
    """Give the convolutions that are quantised float32 kernels, which NNCF packs as 8 bits.

    It would keep the release's float16 ones as they are, and round them anew at every start.
    """
    from openvino import opset15  # noqa: PLC0415 -- see `quantize`

    for op in model.get_ops():
        kernel = op.input_value(0).get_node() if op.get_type_name() == "Convert" else None
        if kernel is None or kernel.get_type_name() != "Constant":
            continue
        users = [user.get_node() for user in op.output(0).get_target_inputs()]
        if any(_leads_to_small_map(user) for user in users):
            constant = opset15.constant(kernel.data.astype(np.float32))
            for user in op.output(0).get_target_inputs():
                user.replace_source_output(constant.output(0))


def _leads_to_small_map(op: Any) -> bool:  # noqa: ANN401 -- see above
    """Tell of what takes a kernel, a convolution or its transposition, where it ends."""
    if op.get_type_name() == "Convolution":
        return _gives_small_map(op)
    users = [user.get_node() for user in op.output(0).get_target_inputs()]
    return op.get_type_name() == "Transpose" and any(map(_leads_to_small_map, users))


def _gives_small_map(op: Any) -> bool:  # noqa: ANN401 -- see above
    if not op.get_output_size():
        return False
    shape = op.get_output_partial_shape(0)
    known = shape.rank.is_static and len(shape) == _MAP_AXES and shape[_SIDE_AXIS].is_static
    return known and 1 < shape[_SIDE_AXIS].get_length() <= LARGEST_MAP


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
