"""What surrounds the code: locked versions, the image, compose, the change log."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from app.page import FILES
from app.settings import PREFIX, Settings
from tests.container import compose

ROOT = Path(__file__).parents[1]
_PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = _PYPROJECT["project"]
TOOLS: dict[str, Any] = _PYPROJECT["tool"]
PYTHONS = ("3.11", "3.12", "3.13")
DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
NOT_FOR_SERVING = {"keras", "matplotlib", "scikit-learn", "tensorboard", "tensorflow"}


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]


def stages() -> dict[str, str]:
    """Split the Dockerfile: name of a stage → its text."""
    text = (ROOT / "Dockerfile").read_text()
    _, *parts = re.split(r"^(?=FROM )", text, flags=re.MULTILINE)
    return {re.split(r"\s+", part)[3]: part for part in parts}


def stages_behind(name: str) -> Iterator[str]:
    """Walk through all stages that something of a stage comes from, itself included."""
    text = stages()[name]
    yield text
    for source in re.findall(r"^FROM (\S+)|--from=(\S+)", text, flags=re.MULTILINE):
        if (found := source[0] or source[1]) in stages():
            yield from stages_behind(found)


def closure(names: list[Requirement]) -> set[str]:
    """Follow the installed packages' own requirements, for this Python."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # one for another system, such as colorama
            continue
        todo += [
            needed for needed in map(Requirement, lines) if applies(needed, requirement.extras)
        ]
    return found


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Tell whether this Python needs it for a package that was asked for with these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras})


def validate_compose(path: Path) -> subprocess.CompletedProcess[str]:
    """Hold a file against the Compose Specification's own schema, which this package carries."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    # S603: this interpreter, with a path of this test.
    return subprocess.run(
        [*command, str(path)], capture_output=True, text=True, timeout=60, check=False
    )


def test_every_line_of_the_constraints_locks_one_version() -> None:
    for requirement in constraints():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "*" not in specifier.version, requirement
        assert not requirement.extras, requirement


def test_the_constraints_hold_no_address_and_no_option() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "@" not in text
    assert not re.search(r"^\s*-", text, flags=re.MULTILINE)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_to_a_version_that_it_allows(python: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
    }
    locked = {
        canonicalize_name(line.name): line.specifier
        for line in constraints()
        if line.marker is None or line.marker.evaluate(environment)
    }
    for requirement in requirements():
        (version,) = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version.version), requirement


def test_what_the_dependencies_need_is_locked_too() -> None:
    locked = {canonicalize_name(line.name) for line in constraints()}
    not_here = {
        canonicalize_name(line.name)
        for line in constraints()
        if line.marker and not line.marker.evaluate()
    }
    assert closure(requirements()) - not_here <= locked


def test_serving_needs_no_package_of_training() -> None:
    serving = closure([Requirement(line) for line in PROJECT["dependencies"]])
    assert serving.isdisjoint(NOT_FOR_SERVING)


def test_the_serving_image_takes_nothing_from_a_stage_that_installs_the_training_extra() -> None:
    behind = "".join(stages_behind("service"))
    assert "project['dependencies']" in behind
    for word in ("optional-dependencies", "[train", "tensorflow", "TensorFlow"):
        assert word not in behind
    assert "[train]" in "".join(stages_behind("training"))


def test_the_serving_image_is_what_a_build_without_a_target_makes() -> None:
    assert list(stages())[-1] == "service"


def test_the_serving_image_has_every_package_that_is_installed() -> None:
    behind = "".join(stages_behind("service"))
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    for pattern in TOOLS["setuptools"]["packages"]["find"]["include"]:
        name = pattern.removesuffix("*")
        assert f"COPY {name} {name}\n" in behind
        assert f"!{name}" in sent


@pytest.mark.parametrize("name", ["service", "training"])
def test_an_image_runs_its_program_directly_and_as_a_numeric_user(name: str) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", stages()[name], flags=re.MULTILINE)
    assert user is not None
    assert "0" not in user.groups()
    assert re.search(r'^ENTRYPOINT \["', stages()[name], flags=re.MULTILINE)


def test_the_serving_image_says_whether_it_is_ready() -> None:
    assert re.search(r"^HEALTHCHECK (.|\n)*/health/ready", stages()["service"], re.MULTILINE)


def test_compose_follows_the_compose_specification() -> None:
    done = validate_compose(ROOT / "docker-compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_misspelt_key_would_not_follow_the_compose_specification(tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(text.replace("read_only: true\n    tmpfs", "readonly: true\n    tmpfs"))
    done = validate_compose(wrong)
    assert done.returncode == 1
    assert "readonly" in done.stdout


@pytest.mark.parametrize("name", ["service", "training", "prometheus", "grafana"])
def test_compose_confines_and_limits(name: str) -> None:
    service = compose.read_service(name)
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith(("0", "root"))
    assert {"mem_limit", "cpus", "pids_limit", "ulimits"} <= service.keys()
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", ["service", "prometheus", "grafana"])
def test_compose_publishes_on_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in compose.read_service(name)["ports"])


def test_compose_publishes_nothing_of_training() -> None:
    assert "ports" not in compose.read_service("training")


def test_compose_serves_without_keys_only_because_it_publishes_on_this_machine() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    environment = compose.read_service()["environment"]
    assert environment["COVID_XRAY_ALLOW_ANONYMOUS"] == "${COVID_XRAY_ALLOW_ANONYMOUS:-true}"
    assert "ALLOW_ANONYMOUS" not in stages()["service"]
    keyed = text.replace("# COVID_XRAY_API", "COVID_XRAY_API").replace("# secrets:", "secrets:")
    service = yaml.safe_load(keyed)["services"]["service"]
    (secret,) = service["secrets"]
    assert yaml.safe_load(keyed)["secrets"].keys() == {secret}
    assert service["environment"]["COVID_XRAY_API_KEYS_FILE"] == f"/run/secrets/{secret}"


def test_compose_starts_training_only_when_asked_and_cannot_change_its_data() -> None:
    training = compose.read_service("training")
    assert training["profiles"] == ["training"]
    (data,) = [v for v in training["volumes"] if isinstance(v, dict) and v["target"] == "/data"]
    assert data["read_only"] is True


@pytest.mark.parametrize("name", ["service", "training", "prometheus", "grafana"])
def test_compose_starts_where_there_are_two_cores(name: str) -> None:
    """Docker refuses a container that may use more than the machine has."""
    assert float(compose.default(compose.read_service(name)["cpus"])) <= 2


@pytest.mark.parametrize("name", ["service", "training"])
def test_a_machine_of_one_core_can_say_so(name: str) -> None:
    assert compose.read_service(name)["cpus"] == f"${{{name.upper()}_CPUS:-2}}"


def test_what_compose_lets_choose_of_training_is_told_where_training_is() -> None:
    pattern = r"TRAINING_[A-Z]+"
    chosen = set(re.findall(pattern, (ROOT / "docker-compose.yml").read_text()))
    assert chosen
    assert set(re.findall(pattern, (ROOT / "CONTRIBUTING.md").read_text())) == chosen


def test_what_compose_passes_to_the_service_are_settings_that_it_knows() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert compose.read_service()["environment"].keys() <= known
    assert set(re.findall(rf"{PREFIX}\w+", (ROOT / "docker-compose.yml").read_text())) <= known
    assert set(re.findall(rf"{PREFIX}\w+", (ROOT / "Dockerfile").read_text())) <= known


def test_the_restrictions_of_a_container_are_those_of_compose() -> None:
    flags = compose.restrictions(compose.read_service())
    assert "--read-only" in flags
    assert "--cap-drop=ALL" in flags
    assert "--security-opt=no-new-privileges:true" in flags
    assert "--ulimit=nofile=1024:1024" in flags
    assert "--ulimit=nproc=1000:1000" in flags
    assert "--cpus=2" in flags


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_guide_installs_the_clone_as_make_does(path: Path) -> None:
    """Else the package moves to where there is no model store, and `make serve` does not know."""
    commands = re.findall(r"pip install[^`\n]*", path.read_text().replace("\\\n", " "))
    of_the_clone = [each for each in commands if re.search(r" '?\.(\[|$| )", each)]
    assert all("--editable" in each for each in of_the_clone), of_the_clone


def test_an_installed_package_has_every_file_of_the_page() -> None:
    packed = {
        path.name
        for pattern in TOOLS["setuptools"]["package-data"]["app.page"]
        for path in (ROOT / "app" / "page").glob(pattern)
    }
    assert packed == {name for name, _ in FILES.values()}


def test_every_place_tells_the_same_version() -> None:
    version = PROJECT["version"]
    assert str(Version(version)) == version
    changes = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    images = re.findall(r"image: covid-xray\S*:(\S+)", (ROOT / "docker-compose.yml").read_text())
    labels = re.findall(r'image\.version="([^"]+)"', (ROOT / "Dockerfile").read_text())
    assert changes[0] == version
    assert set(images + labels) == {version}


def test_the_license_is_the_one_that_the_package_names() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
