"""Two replicas on Ray Serve as `deploy/ray` says, with the settings of the environment.

python -m tests.benchmarks.cluster.on_ray PORT

Becomes `serve run`.
"""

import os
import sys
import tempfile
from pathlib import Path

import yaml

from tests.integration.ray_nodes import CONFIG, read_environment


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets are in it
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["http_options"]["port"] = int(sys.argv[1])
    (application,) = config["applications"]
    settings = application["runtime_env"]["env_vars"]
    settings |= {key: os.environ.pop(key) for key in list(os.environ) if "COVID_XRAY_" in key}
    application["deployments"][0]["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    environment = read_environment() | {"RAY_TMPDIR": str(folder)}
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(file)]
    # S606: this interpreter, with a file of this program.
    os.execve(sys.executable, command, os.environ | environment)  # noqa: S606


if __name__ == "__main__":
    main()
