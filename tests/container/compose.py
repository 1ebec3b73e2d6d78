"""docker-compose.yml as arguments of `docker run`, which podman shares: no limit is said twice."""

import re
from typing import Any

import yaml

from tests.container.shell import ROOT


def read_service(name: str = "service") -> dict[str, Any]:
    """Read one service's part of docker-compose.yml, its variables not replaced."""
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    service: dict[str, Any] = document["services"][name]
    return service


def default(value: object) -> str:
    """Give what `${NAME:-value}` is where nobody sets NAME; anything else as it is."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value))


def restrictions(service: dict[str, Any]) -> list[str]:
    """Spell a service's user, file system, privileges and limits as arguments of `run`."""
    return [
        *(["--read-only"] if service["read_only"] else []),
        f"--user={service['user']}",
        f"--memory={service['mem_limit']}",
        f"--cpus={default(service['cpus'])}",
        f"--pids-limit={service['pids_limit']}",
        *(f"--tmpfs={mount}" for mount in service["tmpfs"]),
        *(f"--cap-drop={capability}" for capability in service["cap_drop"]),
        *(f"--security-opt={option}" for option in service["security_opt"]),
        *(
            f"--ulimit={name}={limit['soft']}:{limit['hard']}"
            for name, limit in service["ulimits"].items()
        ),
    ]
