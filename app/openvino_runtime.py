"""OpenVINO's import, and what is done to a network before it is compiled."""

import sys
from contextlib import suppress
from typing import Any

import numpy as np

from app.errors import EngineUnavailable


def import_openvino() -> Any:  # noqa: ANN401 -- a module
    """Import OpenVINO, a fifth of a second's work, and keep it from telling anybody.

    Raises:
        EngineUnavailable: It is not installed.
    """
    # On import it would report to its maker's analytics and write into the home folder;
    # without this module it does neither.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # noqa: PLC0415 -- only where this engine is chosen
    except ImportError as error:
        raise EngineUnavailable(
            "the Python package openvino to be installed", "none that imports"
        ) from error
    return openvino


def simplify(network: Any) -> Any:  # noqa: ANN401 -- OpenVINO has no types
    """Do once what every compilation of a network read from a SavedModel would do for itself.

    Weights of float16 become float32, with what scales them multiplied in. What is compiled from it
    then shares them, where each network would have its own.
    """
    from openvino.op import Constant  # noqa: PLC0415 -- only where this engine is chosen

    for node in network.get_ordered_ops():
        if node.get_type_name() != "Convert" or node.get_element_type().to_dtype() != np.float32:
            continue
        weights = node.input_value(0).get_node()
        if weights.get_type_name() == "Constant":
            wide = Constant(weights.data.astype(np.float32))
            node.output(0).replace(wide.output(0))
    with suppress(ImportError):  # it is not promised to stay; without it they share less
        from openvino import _offline_transformations as offline  # noqa: PLC0415 -- as above

        offline.apply_moc_transformations(network, cf=True)
    return network
