"""The service on Ray, without a cluster; `tests/integration/test_cluster.py` has one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.integration.ray_nodes import CONFIG

pytest.importorskip("ray", reason="needs the extra `scale`")

from ray.serve.schema import ServeDeploySchema

from app import cluster

SHIPPED: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def test_without_the_extra_the_module_says_so_in_one_sentence() -> None:
    program = "import sys; sys.modules['ray'] = None; import app.cluster"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: Expected the extra scale to be installed ("
        "pip install --constraint constraints.txt --editable '.[scale]'); received no Ray Serve."
    )
    assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize(("cpus", "threads"), [(1.0, 1), (0.5, 1), (2.0, 2)])
def test_a_replica_has_a_thread_for_each_of_its_cpus(cpus: float, threads: int) -> None:
    assert cluster.fit(Settings(), {"CPU": cpus}).threads == threads
    assert cluster.fit(Settings(threads=3), {"CPU": cpus}).threads == 3


def test_a_replica_takes_itself_to_be_reached_from_everywhere() -> None:
    assert cluster.fit(Settings(), {}).host == "0.0.0.0"  # noqa: S104 -- nothing is bound


def test_the_shipped_configuration_is_rays_and_listens_here_only() -> None:
    config = ServeDeploySchema.model_validate(SHIPPED)
    assert config.http_options.host == "127.0.0.1"
    (application,) = config.applications
    assert application.import_path == "app.cluster:app"
    known = {f"COVID_XRAY_{name.upper()}" for name in Settings.model_fields}
    assert application.runtime_env["env_vars"].keys() <= known


def test_the_shipped_configuration_says_what_the_code_does() -> None:
    (written,) = SHIPPED["applications"][0]["deployments"]
    scaling = written.pop("autoscaling_config")
    own = cluster.deployment
    assert written.pop("name") == own.name
    assert written.pop("ray_actor_options")["num_cpus"] == own.ray_actor_options["num_cpus"]
    options = own._deployment_config.model_dump()  # noqa: SLF001 -- Ray shows some of them only
    assert scaling.items() <= options["autoscaling_config"].items()
    backpressure = written.pop("backpressure_config")
    assert backpressure.items() <= options["backpressure_config"].items()
    assert written.items() <= options.items()
