"""FastAPI around `model.predict`, as most tutorials have it.

uvicorn tests.benchmarks.serving.plain.keras_predict:app
"""

import keras
from fastapi import FastAPI, UploadFile

from tests.benchmarks.serving.plain.common import RELEASE, read_image, to_answer

image = keras.Input((224, 224, 1), dtype="uint8", name="image")
release = keras.layers.TFSMLayer(str(RELEASE), call_endpoint="serving_default")
model = keras.Model(image, release(image))
app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, dict[str, float]]:
    return to_answer(model.predict(read_image(file.file), verbose=0)["probabilities"])
