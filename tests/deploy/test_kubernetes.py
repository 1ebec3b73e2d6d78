"""The manifests for Kubernetes: of its own schemas, and about what the service really is.

Custom resources have no schema here; the pods in them are held against that of a pod.
"""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.api_keys import ApiKeys
from app.main import create_app
from app.metrics import Metrics
from app.routes import health
from app.settings import Settings, SettingsInvalid, load_settings
from tests.container import compose

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("fixed", "autoscaled")
OTLP_TIMEOUT_S = 10
NO_RESOURCES = {"kustomization.yaml", "prometheus-adapter.yaml", "rules-head.yaml"}
PODS = {"base/deployment.yaml": "service", "kserve/inference-service.yaml": "kserve-container"}
Resource = dict[str, Any]


def read(path: str) -> Resource:
    """Read the first resource of a file."""
    return next(yaml.safe_load_all((FOLDER / path).read_text()))


def sources() -> list[tuple[str, Resource]]:
    """Give every resource with its file."""
    paths = sorted(path for path in FOLDER.rglob("*.yaml") if path.name not in NO_RESOURCES)
    return [
        (path.relative_to(FOLDER).as_posix(), resource)
        for path in paths
        for resource in yaml.safe_load_all(path.read_text())
    ]


def pods(resource: Resource) -> Iterator[Resource]:
    """Give the pod templates in a resource, as pods."""
    spec = resource.get("spec", {})
    if resource["kind"] == "Deployment":
        yield _pod(spec["template"])
    if resource["kind"] == "InferenceService":
        of_kserve = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
        of_kserve |= {"labels", "deploymentStrategy"}
        predictor = spec["predictor"]
        metadata = {"labels": predictor["labels"]}
        pod = {key: value for key, value in predictor.items() if key not in of_kserve}
        yield _pod({"metadata": metadata, "spec": pod})
    if resource["kind"] == "RayService":
        cluster = spec["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield _pod(group["template"])


def _pod(template: Resource) -> Resource:
    return {"apiVersion": "v1", "kind": "Pod", **template}


ALL_PODS = [(path, pod) for path, resource in sources() for pod in pods(resource)]


def validate(resource: Resource) -> None:
    """Hold a resource against the newest schemas; custom ones have none, but for their pods."""
    group = resource["apiVersion"].partition("/")[0]
    if group not in {"monitoring.coreos.com", "serving.kserve.io", "ray.io"}:
        newest = kubernetes_validate.latest_version()
        kubernetes_validate.validate(resource, newest, strict=True)
    for pod in pods(resource):
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def build(overlay: str) -> dict[str, Resource]:
    """Build an overlay as `kubectl apply -k` does: kind → resource, policies by their names."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl")
    command = [program, "kustomize", str(FOLDER / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


def settings_of(path: str) -> dict[str, str]:
    """Give the variables that the service gets: of the base, or those of another pod."""
    if path == "base/deployment.yaml":
        lines = (FOLDER / "base" / "settings.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    (pod,) = pods(read(path))
    return {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize(("path", "resource"), sources(), ids=lambda each: str(each)[:40])
def test_a_resource_follows_the_schema_of_its_kind(path: str, resource: Resource) -> None:
    assert path
    validate(resource)


@pytest.mark.parametrize(
    "path", ["base/deployment.yaml", "kserve/inference-service.yaml", "ray/ray-service.yaml"]
)
def test_a_misspelt_key_of_a_pod_would_not_follow_it(path: str) -> None:
    wrong = deepcopy(read(path))
    *_, pod = pods(wrong)
    security = pod["spec"]["containers"][0]["securityContext"]
    security["readonlyRootFilesystem"] = security.pop("readOnlyRootFilesystem")
    with pytest.raises(kubernetes_validate.ValidationError, match="readonlyRootFilesystem"):
        validate(wrong)


def test_no_resource_has_a_namespace_but_the_one_that_it_is_applied_to() -> None:
    assert not [path for path, resource in sources() if "namespace" in resource["metadata"]]


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("kustomization.yaml")), ids=str)
def test_everything_that_is_put_together_is_there(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    generated = [file for each in document.get("configMapGenerator", []) for file in each["envs"]]
    for name in (*document["resources"], *document.get("components", []), *generated):
        assert (path.parent / name).exists(), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_built_and_follows_the_schemas(overlay: str) -> None:
    built = build(overlay)
    for resource in built.values():
        validate(resource)
    deployment = built["Deployment"]["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    (source,) = container["envFrom"]
    assert source["configMapRef"]["name"] == built["ConfigMap"]["metadata"]["name"]
    assert re.fullmatch(r"covid-xray-settings-\w{10}", source["configMapRef"]["name"])
    assert built["ConfigMap"]["data"] == settings_of("base/deployment.yaml")
    assert container["image"] == f"registry.example/covid-xray:{_version()}"
    assert deployment.get("replicas") == (None if "HorizontalPodAutoscaler" in built else 2)


def test_whoever_selects_pods_selects_those_of_the_service() -> None:
    template = read("base/deployment.yaml")["spec"]["template"]
    labels = template["metadata"]["labels"]
    selectors = [
        read("base/deployment.yaml")["spec"]["selector"]["matchLabels"],
        read("base/service.yaml")["spec"]["selector"],
        read("base/disruption-budget.yaml")["spec"]["selector"]["matchLabels"],
        read("base/network-policy.yaml")["spec"]["podSelector"]["matchLabels"],
        read("components/egress/network-policy.yaml")["spec"]["podSelector"]["matchLabels"],
        read("kserve/inference-service.yaml")["spec"]["predictor"]["labels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in template["spec"]["topologySpreadConstraints"]
        ),
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert all(selectors)
    monitor = read("overlays/autoscaled/service-monitor.yaml")["spec"]
    labels = read("base/service.yaml")["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "covid-xray"  # which the alerts ask for
    target = read("overlays/autoscaled/autoscaler.yaml")["spec"]["scaleTargetRef"]
    deployment = read("base/deployment.yaml")
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }


def test_every_port_leads_to_the_one_that_the_image_listens_on() -> None:
    listens = re.findall(r"COVID_XRAY_PORT=(\d+)", (ROOT / "Dockerfile").read_text())
    (container,) = read("base/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    (service,) = read("base/service.yaml")["spec"]["ports"]
    (monitored,) = read("overlays/autoscaled/service-monitor.yaml")["spec"]["endpoints"]
    probes = {container[probe]["httpGet"]["port"] for probe in container if "Probe" in probe}
    assert monitored["port"] == service["name"]
    assert {ports[name] for name in (service["targetPort"], *probes)} == set(map(int, listens))
    (predictor,) = read("kserve/inference-service.yaml")["spec"]["predictor"]["containers"]
    probes = {predictor[probe]["httpGet"]["port"] for probe in predictor if "Probe" in probe}
    assert {each["containerPort"] for each in predictor["ports"]} | probes == set(ports.values())


def test_every_path_that_is_asked_for_is_one_of_the_service(tmp_path: Path) -> None:
    app = create_app(Settings(model_store=tmp_path))
    known = {getattr(route, "path", "") for route in (*app.routes, *health.routes)}
    asked = {read("overlays/autoscaled/service-monitor.yaml")["spec"]["endpoints"][0]["path"]}
    for path, name in PODS.items():
        (pod,) = pods(read(path))
        (container,) = pod["spec"]["containers"]
        assert container["name"] == name
        probes = {
            probe: container[probe]["httpGet"]["path"] for probe in container if "Probe" in probe
        }
        assert probes.keys() == {"startupProbe", "livenessProbe", "readinessProbe"}
        assert probes["readinessProbe"] == "/health/ready"
        asked |= set(probes.values())
    assert asked <= known


@pytest.mark.parametrize("path", PODS)
def test_the_settings_are_the_services_and_it_starts_with_them(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings_of(path).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    (pod,) = pods(read(path))
    (mounted,) = (
        each["mountPath"]
        for each in pod["spec"]["containers"][0]["volumeMounts"]
        if each["name"] == "api-keys"
    )
    assert str(settings.api_keys_file) == f"{mounted}/api_keys"
    assert settings.shutdown_timeout_s >= settings.request_timeout_s
    stops_within = settings.leaving_s + settings.shutdown_timeout_s + OTLP_TIMEOUT_S
    assert pod["spec"]["terminationGracePeriodSeconds"] > stops_within
    assert settings_of(path) == settings_of("base/deployment.yaml")


@pytest.mark.parametrize(("path", "pod"), ALL_PODS)
def test_no_pod_gets_the_addresses_of_services_as_variables(
    path: str, pod: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path
    assert pod["spec"]["enableServiceLinks"] is False
    monkeypatch.setenv("COVID_XRAY_SERVICE_HOST", "10.0.0.1")  # as Kubernetes would
    with pytest.raises(SettingsInvalid, match="COVID_XRAY_SERVICE_HOST is not a setting"):
        load_settings()


@pytest.mark.parametrize(("path", "pod"), ALL_PODS)
def test_a_pod_is_confined_as_compose_confines_its_container(path: str, pod: Resource) -> None:
    service = compose.read_service()
    spec = pod["spec"]
    user, group = map(int, service["user"].split(":"))
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": service["cap_drop"]},
    }
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes.keys()
    assert all("emptyDir" in each or "secret" in each for each in volumes.values())
    resources = container["resources"]
    assert all(
        resources["limits"][name] == resources["requests"][name] for name in ("cpu", "memory")
    )
    if path in PODS:
        assert spec["automountServiceAccountToken"] is False
        assert resources["limits"]["cpu"] == compose.default(service["cpus"])
        assert resources["limits"]["memory"] == service["mem_limit"].replace("g", "Gi")
        assert volumes["tmp"]["emptyDir"]["medium"] == "Memory"


def test_a_rollout_takes_no_replica_away_and_a_drain_never_waits_for_a_single_one() -> None:
    deployment = read("base/deployment.yaml")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budget = read("base/disruption-budget.yaml")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


def test_every_image_has_the_version_of_the_code() -> None:
    paths = (*FOLDER.rglob("*.yaml"), FOLDER / "README.md")
    text = "".join(path.read_text() for path in paths)
    images = re.findall(r"(?:covid-xray(?:-scale)?:|newTag: )(\d\S+)", text)
    assert len(images) == 9
    assert set(images) == {_version()}


def _version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def test_the_secrets_that_pods_wait_for_are_those_of_the_example(tmp_path: Path) -> None:
    secrets = {
        each["metadata"]["name"]: each["stringData"]
        for path, each in sources()
        if path == "api-keys.example.yaml"
    }
    for _, pod in ALL_PODS:
        (volume,) = (each for each in pod["spec"]["volumes"] if "secret" in each)
        keys = secrets[volume["secret"]["secretName"]]
    (tmp_path / "api_keys").write_text(keys["api_keys"])
    assert not ApiKeys(tmp_path / "api_keys").accept("cxr_any")
    (endpoint,) = read("overlays/autoscaled/service-monitor.yaml")["spec"]["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials["key"] in secrets[credentials["name"]]


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_the_services_histogram() -> None:
    (rule,) = read("prometheus-adapter.yaml")["rules"]["custom"]
    metrics = read("overlays/autoscaled/autoscaler.yaml")["spec"]["metrics"]
    (asked,) = (each["pods"]["metric"]["name"] for each in metrics if each["type"] == "Pods")
    series = rule["seriesQuery"].partition("{")[0]
    assert re.sub(rule["name"]["matches"], rule["name"]["as"], series) == asked
    page = generate_latest(Metrics(lambda: None, lambda: None).registry).decode()
    shown = {
        (sample.name, sample.labels.get("stage"))
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    used = set(re.findall(r"covid_xray_\w+", rule["seriesQuery"] + rule["metricsQuery"]))
    assert used == {series, series.replace("_sum", "_count")}
    assert {(name, "queue") for name in used} <= shown


def test_the_adapter_asks_the_prometheus_of_the_operator() -> None:
    """The chart's own default is a Service of another name, in the namespace `default`."""
    prometheus = read("prometheus-adapter.yaml")["prometheus"]
    readme = (FOLDER / "README.md").read_text()
    (namespace,) = re.findall(r"prometheus-adapter --namespace (\S+) ", readme)
    assert prometheus == {"url": f"http://prometheus-operated.{namespace}.svc", "port": 9090}


def test_the_adapters_query_gives_each_pod_its_mean_wait_and_an_idle_one_none(
    tmp_path: Path,
) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool (Debian's package prometheus)")
    (rule,) = read("prometheus-adapter.yaml")["rules"]["custom"]
    series = rule["seriesQuery"].partition("{")[0]
    query = rule["metricsQuery"]
    for variable, value in {
        "<<.Series>>": series,
        "<<.GroupBy>>": "pod",
        "<<.LabelMatchers>>": 'namespace="x",pod=~"busy|idle"',
    }.items():
        query = query.replace(variable, value)

    def of(name: str, pod: str, values: str, stage: str = "queue") -> dict[str, str]:
        return {
            "series": f'{name}{{stage="{stage}",namespace="x",pod="{pod}"}}',
            "values": values,
        }

    count = series.replace("_sum", "_count")
    test = {
        "interval": "15s",
        "input_series": [
            of(series, "busy", "0+3x8"),
            of(count, "busy", "0+30x8"),
            of(series, "busy", "0+99x8", "decode"),
            of(count, "busy", "0+30x8", "decode"),
            of(series, "idle", "5+0x8"),
            of(count, "idle", "50+0x8"),
        ],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "2m",
                "exp_samples": [
                    {"labels": '{pod="busy"}', "value": 0.1},
                    {"labels": '{pod="idle"}', "value": 0},
                ],
            }
        ],
    }
    file = tmp_path / "adapter.test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    command = [program, "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readmes_command_makes_the_alerts_a_resource_of_the_operator() -> None:
    readme = (FOLDER / "README.md").read_text()
    applied = r" \\\n    \| kubectl --namespace covid-xray apply -f -$"
    (command,) = re.findall(rf"^(\{{ cat .*){applied}", readme, re.MULTILINE)
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rules = yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text())
    assert yaml.safe_load(done.stdout)["spec"] == rules
