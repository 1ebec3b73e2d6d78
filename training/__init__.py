"""The offline training program: a folder of X-rays in, a release in `model_store/` out."""

import os

# TensorFlow reads it when it is imported; level 2 leaves out what it says of absent GPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
