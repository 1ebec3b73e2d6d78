"""The RayService for Kubernetes says what `deploy/ray` and the code say."""

import pytest
import yaml

from app.settings import PREFIX, Settings
from tests.deploy.test_kubernetes import ROOT, pods, read


def test_ray_is_told_on_kubernetes_what_it_is_told_elsewhere() -> None:
    folder = ROOT / "deploy" / "ray"
    if not folder.exists():
        pytest.skip("there is no deploy/ray")
    elsewhere = yaml.safe_load((folder / "serve.yaml").read_text())
    here = yaml.safe_load(read("ray/ray-service.yaml")["spec"]["serveConfigV2"])
    for serve in (elsewhere, here):
        (application,) = serve["applications"]
        for name in (
            "COVID_XRAY_ALLOW_ANONYMOUS",
            "COVID_XRAY_API_KEYS_FILE",
            "COVID_XRAY_METRICS",
        ):
            application["runtime_env"]["env_vars"].pop(name, None)
        del serve["http_options"]["host"]
        for name in ("min_replicas", "max_replicas"):
            del application["deployments"][0]["autoscaling_config"][name]
    assert here == elsewhere
    lines = (folder / "environment").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    cluster = read("ray/ray-service.yaml")["spec"]["rayClusterConfig"]
    assert cluster["authOptions"]["mode"] == variables.pop("RAY_AUTH_MODE", "token")  # by KubeRay
    for pod in pods(read("ray/ray-service.yaml")):
        (container,) = pod["spec"]["containers"]
        told = {each["name"]: each["value"] for each in container["env"]}
        assert variables.items() <= told.items()


def test_rays_object_store_and_what_it_spills_fit_into_memory() -> None:
    cluster = read("ray/ray-service.yaml")["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        volumes = {each["name"]: each for each in group["template"]["spec"]["volumes"]}
        size = volumes["shm"]["emptyDir"]["sizeLimit"]
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        # Where the store is larger than /dev/shm, Ray makes it a file in /tmp.
        store = int(group["rayStartParams"]["object-store-memory"])
        assert 2 * store <= int(size.removesuffix("Gi")) * 2**30


def test_a_drain_leaves_a_worker_and_never_waits_for_the_head() -> None:
    head, worker = pods(read("ray/ray-service.yaml"))
    budget = read("ray/disruption-budget.yaml")["spec"]
    selector = budget["selector"]["matchLabels"].items()
    assert selector <= worker["metadata"]["labels"].items()
    assert not selector <= head["metadata"]["labels"].items()
    assert "maxUnavailable" not in budget  # which needs `scale`, and a RayCluster has none
    (workers,) = read("ray/ray-service.yaml")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert budget["minAvailable"] < workers["minReplicas"] <= workers["replicas"]


def test_prometheus_is_let_in_where_ray_tells_its_metrics() -> None:
    cluster = read("ray/ray-service.yaml")["spec"]["rayClusterConfig"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    told = {int(group["rayStartParams"]["metrics-export-port"]) for group in groups}
    for pod in pods(read("ray/ray-service.yaml")):
        (container,) = pod["spec"]["containers"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        assert {ports["metrics"]} == told
    rules = read("ray/network-policy.yaml")["spec"]["ingress"]
    assert told <= {
        port["port"]
        for rule in rules
        for port in rule.get("ports", [])
        if "monitoring" in str(rule["from"])
    }


def test_ray_starts_the_application_with_settings_that_the_service_knows() -> None:
    serve = yaml.safe_load(read("ray/ray-service.yaml")["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    assert application["import_path"] == "app.cluster:app"
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert application["runtime_env"]["env_vars"].keys() <= known
    (deployment,) = application["deployments"]
    request_s = Settings.model_fields["request_timeout_s"].default
    assert serve["http_options"]["request_timeout_s"] == request_s
    assert deployment["graceful_shutdown_timeout_s"] > request_s
    *_, worker = pods(read("ray/ray-service.yaml"))
    grace_s = worker["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > deployment["graceful_shutdown_timeout_s"]
    constraints = (ROOT / "constraints.txt").read_text()
    version = read("ray/ray-service.yaml")["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"\nray=={version}\n" in constraints
