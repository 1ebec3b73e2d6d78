"""FastAPI around the SavedModel's signature, called on the threads that FastAPI has.

uvicorn tests.benchmarks.serving.plain.signature:app
"""

import tensorflow as tf
from fastapi import FastAPI, UploadFile

from tests.benchmarks.serving.plain.common import RELEASE, read_image, to_answer

model = tf.saved_model.load(str(RELEASE))
run = model.signatures["serving_default"]
app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, dict[str, float]]:
    return to_answer(run(image=tf.constant(read_image(file.file)))["probabilities"].numpy())
