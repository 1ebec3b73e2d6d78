"""Two replicas on Ray Serve as `deploy/ray` says, with the settings of the environment.

python -m tests.benchmarks.cluster.on_ray PORT

Runs `serve run` until it is terminated, and again where Ray does not come up: its processes give
each other a quarter of a minute, which is too little on a machine that does much else.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.benchmarks.serving.servers import START_TIMEOUT_S
from tests.integration.ray_nodes import CONFIG, read_environment

TRIES = 4


def write_config(folder: Path, port: int) -> Path:
    """Write the shipped configuration with another port and two replicas."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    # The first request waits at the proxy until there is a replica.
    config["http_options"] |= {"port": port, "request_timeout_s": START_TIMEOUT_S}
    (application,) = config["applications"]
    settings = application["runtime_env"]["env_vars"]
    settings |= {key: os.environ.pop(key) for key in list(os.environ) if "COVID_XRAY_" in key}
    application["deployments"][0]["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        file = write_config(Path(name), int(sys.argv[1]))
        own = {"RAY_TMPDIR": name, "RAY_raylet_start_wait_time_s": "40"}
        environment = os.environ | read_environment() | own
        command = [sys.executable, "-m", "ray.serve.scripts", "run", str(file)]
        ended = False
        for _ in range(TRIES):
            process = subprocess.Popen(command, env=environment)

            def end(*_: object, process: subprocess.Popen[bytes] = process) -> None:
                nonlocal ended
                ended = True
                process.terminate()

            signal.signal(signal.SIGTERM, end)
            process.wait()
            if ended:
                break


if __name__ == "__main__":
    main()
