"""Several Ray nodes on this machine, with what `deploy/ray` says, in a process of their own.

python -m tests.integration.ray_nodes CONFIG NODES

CONFIG is a `serve.yaml`, NODES a number. Reads commands, a line of JSON each: `[name, argument]`.
Answers each with a line of JSON. Ends when its input does.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import yaml

from tests.integration.server import Server, free_port

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "ray" / "serve.yaml"
QUICK = {
    # Where many tests run at once, it takes long to start.
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_agent_register_timeout_ms": "240000",
    # Seconds between two looks at the load; Ray's own are longer than a test.
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}


def read_environment() -> dict[str, str]:
    """Read the variables that `deploy/ray/environment` sets."""
    lines = (ROOT / "deploy" / "ray" / "environment").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class RayServer:
    """The service on some Ray nodes, and a client for it.

    The proxy is on the first node, and every node has a CPU for a replica.

    Args:
        nodes: How many.
        settings: Of the service.
        deployment: What is to be other than in `serve.yaml`.
    """

    def __init__(self, nodes: int, settings: dict[str, str], **deployment: object) -> None:
        # Of its own, by which other clusters of this machine are left alone; and short, since
        # Ray's sockets are in it.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        port = free_port()
        self.config: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        self.config["proxy_location"] = "HeadOnly"
        self.config["http_options"]["port"] = port
        self.replica: dict[str, Any] = self.config["applications"][0]["deployments"][0]
        self.replica.update(deployment)
        self.settings: dict[str, str] = self.config["applications"][0]["runtime_env"]["env_vars"]
        self.settings.update({f"COVID_XRAY_{key.upper()}": val for key, val in settings.items()})
        file = self._folder / "serve.yaml"
        file.write_text(yaml.safe_dump(self.config), encoding="utf-8")
        self._log = (self._folder / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.ray_nodes", str(file), str(nodes)],
            cwd=ROOT,
            env={key: val for key, val in os.environ.items() if "COVID_XRAY_" not in key}
            | read_environment()
            | QUICK
            | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(self._folder)}
            | {"RAY_AUTH_TOKEN": uuid4().hex},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
            text=True,
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def wait_until_ready(self) -> "RayServer":
        self._answer()
        self.wait_for("RUNNING")
        return self

    def call(self, name: str, *arguments: object) -> Any:
        """Have the nodes' process do something: `deploy`, `status`, `kill`, `add`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def deploy(self) -> None:
        """Make it so as `config` says now."""
        self.call("deploy", self.config)

    def wait_for(self, status: str, replicas: int | None = None, seconds: float = 120) -> str:
        """Wait until Ray says so, and give what else it says."""
        end = time.monotonic() + seconds
        while True:
            found = self.call("status")
            if found["status"] == status and replicas in (None, found["replicas"]):
                return str(found["message"])
            assert time.monotonic() < end, found
            time.sleep(0.2)

    def predict(self, data: bytes) -> httpx.Response:
        return self.client.post("/v1/predictions", files={"file": data})

    def stop(self) -> None:
        self.client.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, Path(self._log.name).read_text(errors="replace")[-3000:]
        return json.loads(line)


Either = Server | RayServer
"""The service on one machine, or on a cluster: both answer the same."""


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer

    import ray  # noqa: PLC0415 -- after the environment and the output are as they should be
    from ray import serve  # noqa: PLC0415
    from ray.cluster_utils import Cluster  # noqa: PLC0415
    from ray.serve._private.api import serve_start  # noqa: PLC0415 -- as `serve run` does
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415

    def options() -> dict[str, Any]:
        """A node with one CPU; where its agents' ports are said, it need not wait for them."""
        agents = ("metrics_agent", "metrics_export", "dashboard_agent_listen", "runtime_env_agent")
        ports = {f"{agent}_port": free_port() for agent in agents}
        without = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        return {"num_cpus": 1, **without, **ports}

    cluster = Cluster(initialize_head=True, head_node_args=options())
    nodes = [cluster.add_node(**options()) for _ in range(int(sys.argv[2]) - 1)]
    ray.init(cluster.address, namespace="serve", log_to_driver=False)
    first = ServeDeploySchema.model_validate(config)
    client = serve_start(
        http_options=first.http_options.model_dump(),
        proxy_location=first.proxy_location,
        controller_options=first.controller_options,
    )

    def deploy(config: dict[str, Any]) -> None:
        client.deploy_apps(ServeDeploySchema.model_validate(config), _blocking=False)

    def status() -> dict[str, Any]:
        (application,) = serve.status().applications.values()
        deployments = application.deployments.values()
        running = sum(each.replica_states.get("RUNNING", 0) for each in deployments)
        message = " ".join([application.message, *(each.message for each in deployments)])
        return {"status": application.status, "replicas": running, "message": message}

    def kill() -> None:
        cluster.remove_node(nodes.pop(), allow_graceful=False)

    def add() -> None:
        nodes.append(cluster.add_node(**options()))

    commands: dict[str, Callable[..., object]] = {
        each.__name__: each for each in (deploy, status, kill, add)
    }
    deploy(config)
    print("null", file=answers, flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(commands[name](*arguments)), file=answers, flush=True)
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
