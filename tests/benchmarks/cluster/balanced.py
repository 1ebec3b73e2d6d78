"""Two plain replicas behind HAProxy, with the settings of the environment.

python -m tests.benchmarks.cluster.balanced PORT

Whoever starts it ends what it started with it, as one group of processes.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.balancer import balanced
from tests.integration.server import SERVE, free_port


def main() -> None:
    port = int(sys.argv[1])
    replicas = [free_port() for _ in range(2)]
    for each in replicas:
        subprocess.Popen(SERVE, env=os.environ | {"COVID_XRAY_PORT": str(each)})
    with tempfile.TemporaryDirectory() as folder, balanced(Path(folder), replicas, port):
        signal.pause()


if __name__ == "__main__":
    main()
