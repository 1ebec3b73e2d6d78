"""LitServe around the SavedModel's signature, with its own defaults.

python -m tests.benchmarks.serving.plain.lit PORT
"""

import sys
from typing import Any

import litserve as ls
import numpy as np
import tensorflow as tf
from fastapi import Request
from numpy.typing import NDArray

from tests.benchmarks.serving.plain.common import RELEASE, read_image, to_answer


class XrayApi(ls.LitAPI):  # type: ignore[misc] # it is not installed, or has no types
    def setup(self, device: str) -> None:
        del device
        self.model = tf.saved_model.load(str(RELEASE))
        self.run = self.model.signatures["serving_default"]

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        form: Any = request  # at run time it is the form that came with the request
        return read_image(form["file"].file)

    def predict(self, image: NDArray[np.uint8]) -> Any:
        return self.run(image=tf.constant(image))["probabilities"].numpy()

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, dict[str, float]]:
        return to_answer(output)


if __name__ == "__main__":
    server = ls.LitServer(XrayApi(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
