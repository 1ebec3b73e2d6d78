"""What a build takes from the machine it runs on: where its packages come from.

Machines behind a mirror or without internet have this in the settings of pip and apt. It is handed
to the build as mounts and arguments, and stays out of the image.
"""

import ast
import configparser
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.container.shell import run

CERTIFICATES = Path("/etc/ssl/certs")
PIP_OPTIONS = {
    "cert",
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "no-index",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
}


@dataclass(frozen=True)
class Archive:
    """Where this machine gets its Debian or Ubuntu packages."""

    suite: str
    mirror: str
    components: str


def archive() -> Archive:
    """Read the archive of this machine's own distribution from apt.

    Raises:
        LookupError: apt knows none.
    """
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    listed = re.findall(rf"^ *\d+ (\S+) {suite}/(\S+) ", run("apt-cache", "policy"), re.MULTILINE)
    if not listed:
        raise LookupError(f"expected an archive of {suite} in `apt-cache policy`; received none")
    mirror = listed[0][0]
    components = (component for url, component in listed if url == mirror)
    return Archive(suite, mirror, ",".join(dict.fromkeys(components)))


def build_mounts(folder: Path) -> list[str]:
    """Spell the mounts with which pip finds its packages in a build as it does here.

    Args:
        folder: Where to write a pip.conf for the build. It may hold credentials.

    Returns:
        Arguments of `buildah bud`.
    """
    options = _pip_options()
    config = configparser.ConfigParser(interpolation=None)
    config["global"] = options
    file = folder / "pip.conf"
    file.touch(mode=0o600)
    with file.open("w") as stream:
        config.write(stream)
    paths = [CERTIFICATES, *_local_paths(options)]
    mounts = {str(path): str(path) for path in paths if path.exists()} | {
        str(file): "/etc/pip.conf"
    }
    return [f"--volume={source}:{target}:ro" for source, target in mounts.items()]


def _pip_options() -> dict[str, str]:
    """Ask pip for its settings; what the environment says comes last and wins, as in pip."""
    lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    pairs = [
        line.split("=", 1) for line in sorted(lines, key=lambda line: line.startswith(":env:"))
    ]
    named = {name.rpartition(".")[2]: ast.literal_eval(value) for name, value in pairs}
    return {name: value for name, value in named.items() if name in PIP_OPTIONS}


def _local_paths(options: dict[str, str]) -> Iterator[Path]:
    """Find the files and folders that pip's settings name."""
    for word in " ".join(options.values()).split():
        if word.startswith("file:"):
            yield Path(unquote(urlsplit(word).path)).parent  # an index's files lie beside its pages
        elif word.startswith("/") and not Path(word).is_relative_to(CERTIFICATES):
            yield Path(word)
