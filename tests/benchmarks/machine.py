"""What a number was measured on and with, to be kept beside it."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_PACKAGES = (
    "fastapi",
    "imagecodecs",
    "keras",
    "litserve",
    "numpy",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "pyturbojpeg",
    "pyvips",
    "simplejpeg",
    "tensorflow",
    "uvicorn",
    "uvloop",
)


def describe() -> dict[str, Any]:
    """Name the processor, the cores that are used, the versions, the date and the command."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *_module(), *sys.argv[1:]]),
        "revision": _revision(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
        "load_before": [round(each, 2) for each in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def newest_release(store: Path = ROOT / "model_store") -> Path:
    """Find the newest version of the store's model.

    Raises:
        FileNotFoundError: There is none.
    """
    versions = [path for path in store.glob("*/[1-9]*") if path.name.isdecimal()]
    if not versions:
        raise FileNotFoundError(f"Expected a release in {store}; received none.")
    return max(versions, key=lambda path: int(path.name))


def _module() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name.removesuffix(".__main__")] if spec else []


def _revision() -> str | None:
    """Name the commit; with `+` where files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
