"""One fit in a process of its own: to be killed, or to run on several virtual devices.

python fit_worker.py CONFIG.json WORK [DEVICES]
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorflow as tf

from tests.training.test_fit import TRAIN, VALIDATION
from training import fit
from training.config import Config


def main() -> None:
    config = Config.model_validate_json(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 3:
        count = int(sys.argv[3])
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
        mirrored = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
        print("replicas:", mirrored.num_replicas_in_sync)  # noqa: T201 -- read by the test
        fit.strategy = lambda: mirrored
    fit.fit(Path(sys.argv[2]), config, TRAIN, VALIDATION)


if __name__ == "__main__":
    main()
