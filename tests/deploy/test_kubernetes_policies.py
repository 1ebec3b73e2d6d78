"""The network policies for Kubernetes: whom they are for, and whether what they let in arrives."""

import pytest

from tests.deploy.test_kubernetes import ALL_PODS, Resource, pods, read, sources

POLICIES = [(path, each) for path, each in sources() if each["kind"] == "NetworkPolicy"]


def selected(policy: Resource) -> dict[str, list[Resource]]:
    """Give the pods that a policy is for: file → pods."""
    wanted = policy["spec"]["podSelector"]["matchLabels"].items()
    found: dict[str, list[Resource]] = {}
    for path, pod in ALL_PODS:
        if wanted <= pod["metadata"]["labels"].items():
            found.setdefault(path, []).append(pod)
    return found


def admitted(policy: Resource) -> set[int | str]:
    """Give the ports that a policy lets somebody in at, by number or name as it says them."""
    rules = policy["spec"].get("ingress", [])
    return {port["port"] for rule in rules for port in rule.get("ports", [])}


def opened(pod: Resource) -> set[int | str]:
    """Give the ports of a pod, by number and by name."""
    ports = [port for container in pod["spec"]["containers"] for port in container["ports"]]
    return {port[key] for port in ports for key in ("containerPort", "name") if key in port}


def test_the_rays_pods_are_who_its_policy_is_for() -> None:
    policy = read("ray/network-policy.yaml")["spec"]
    for pod in pods(read("ray/ray-service.yaml")):
        labels = pod["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
        assert not read("base/service.yaml")["spec"]["selector"].items() <= labels.items()


def test_kserves_pods_have_the_policy_of_the_base() -> None:
    found = selected(read("base/network-policy.yaml"))
    assert found.keys() == {"base/deployment.yaml", "kserve/inference-service.yaml"}


@pytest.mark.parametrize(("path", "policy"), POLICIES)
def test_what_a_policy_lets_in_finds_its_port_on_the_pods_that_it_is_for(
    path: str, policy: Resource
) -> None:
    found = selected(policy)
    assert found, path
    for each in found.values():
        assert admitted(policy) <= set().union(*map(opened, each))
