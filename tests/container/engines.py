"""What builds and runs the image: docker where an engine runs, else buildah, podman and runc."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.container import host
from tests.container.shell import ROOT, log, run, succeeds

IMAGE = "localhost/covid-xray:container-test"
STORE = ROOT / ".container"
# What podman must forget when the machine starts; it takes no path of more than 50 characters.
RUNTIME = Path("/run/covid-xray-" + hashlib.sha256(str(ROOT).encode()).hexdigest()[:8])
PODMAN_NEEDS = ("buildah", "debootstrap", "podman", "runc")


class Engine(Protocol):
    """Builds an image and runs it."""

    @property
    def command(self) -> tuple[str, ...]:
        """The program that runs containers, with the options it always gets."""

    def build(self) -> None:
        """Build the image of the Dockerfile's stage `service`."""

    def run_arguments(self, port: int) -> list[str]:
        """Spell how this engine makes the service reachable on 127.0.0.1:`port`."""


@dataclass(frozen=True)
class Docker:
    """A running docker engine."""

    command: tuple[str, ...] = ("docker",)

    def build(self) -> None:
        base = os.environ.get("PYTHON_IMAGE")
        arguments = [f"--build-arg=PYTHON_IMAGE={base}"] if base else []
        build = ("build", "--target=service", f"--tag={IMAGE}", *arguments, ".")
        run(*self.command, *build, timeout=1200, quiet=False)

    def run_arguments(self, port: int) -> list[str]:
        return [f"--publish=127.0.0.1:{port}:8000"]


@dataclass(frozen=True)
class Podman:
    """Debian's buildah, podman and runc, as root, without a registry of images.

    Everything they keep is in the ignored folder `.container`, so that another run is quick.
    """

    scratch: Path

    @property
    def _storage(self) -> tuple[str, ...]:
        return (f"--root={STORE}", f"--runroot={RUNTIME / 'storage'}")

    @property
    def command(self) -> tuple[str, ...]:
        return (
            "podman",
            *self._storage,
            f"--tmpdir={RUNTIME / 'libpod'}",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            "--runtime=runc",
        )

    def build(self) -> None:
        base = self._base_image()
        run(
            *self._buildah("bud"),
            *("--layers", "--format=docker", "--isolation=chroot", "--network=host"),
            *host.build_mounts(self.scratch),
            *("--target=service", f"--tag={IMAGE}", f"--build-arg=PYTHON_IMAGE={base}", "."),
            timeout=1200,
            quiet=False,
        )

    def run_arguments(self, port: int) -> list[str]:
        # Docker's --read-only leaves no temporary folder writable; podman's would.
        network = ["--network=host", f"--env=COVID_XRAY_PORT={port}"]
        return [*network, "--read-only-tmpfs=false", "--no-healthcheck"]

    def _buildah(self, *arguments: str) -> list[str]:
        return ["buildah", *self._storage, *arguments]

    def _base_image(self) -> str:
        """Make a minimal image of this machine's distribution with Python, once."""
        archive = host.archive()
        image = f"localhost/{archive.suite}-python:minimal"
        if not succeeds(*self._buildah("inspect", "--type=image", image)):
            log.info("Making the base image %s ...", image)
            self._commit(self._debootstrap(archive), image)
        return image

    def _debootstrap(self, archive: host.Archive) -> Path:
        folder = self.scratch / "base"
        run(
            *("debootstrap", "--variant=minbase", "--include=python3,python3-venv"),
            *(f"--components={archive.components}", archive.suite, folder, archive.mirror),
        )
        for unneeded in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(folder / unneeded)
        return folder

    def _commit(self, folder: Path, image: str) -> None:
        container = run(*self._buildah("from", "scratch"))
        run(*self._buildah("copy", "--quiet", container, str(folder), "/"))
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        run(*self._buildah("config", f"--env=PATH={path}", container))
        run(*self._buildah("commit", "--quiet", "--rm", container, image))


@dataclass(frozen=True)
class Container:
    """A running container of the image."""

    engine: Engine
    name: str

    def python(self, script: str) -> object:
        """Run a script inside and read the JSON that it prints."""
        answer: object = json.loads(
            run(*self.engine.command, "exec", self.name, "python", "-c", script)
        )
        return answer

    def is_running(self) -> bool:
        """Tell whether its program has not ended yet."""
        state = run(*self.engine.command, "inspect", "--format={{.State.Running}}", self.name)
        return state == "true"

    def check_health(self) -> None:
        """Run the image's own healthcheck inside."""
        wanted = "{{json .Config.Healthcheck.Test}}"
        image = run(*self.engine.command, "image", "inspect", f"--format={wanted}", IMAGE)
        _, *check = json.loads(image)  # its first word is CMD
        run(*self.engine.command, "exec", self.name, *check, timeout=30)

    def terminate(self, timeout: float) -> int:
        """Send SIGTERM and return the exit code."""
        run(*self.engine.command, "kill", "--signal=TERM", self.name)
        return int(run(*self.engine.command, "wait", self.name, timeout=timeout))


@contextmanager
def open_engine() -> Iterator[Engine]:
    """Find what can build and run an image here.

    Raises:
        LookupError: Nothing can.
    """
    if succeeds("docker", "info"):
        yield Docker()
        return
    missing = [program for program in PODMAN_NEEDS if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        raise LookupError(
            f"expected a docker engine, or root with {', '.join(PODMAN_NEEDS)}; received "
            f"user {os.geteuid()} without {', '.join(missing) or 'docker'}"
        )
    STORE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="covid-xray-") as scratch:
        yield Podman(Path(scratch))


@contextmanager
def running(engine: Engine, arguments: Sequence[str]) -> Iterator[Container]:
    """Run the image and remove its container in the end; show its log if anything fails."""
    container = Container(engine, f"covid-xray-test-{os.getpid()}")
    run(*engine.command, "run", "--detach", f"--name={container.name}", *arguments, IMAGE)
    try:
        yield container
    except BaseException:
        run(*engine.command, "logs", container.name, quiet=False)
        raise
    finally:
        run(*engine.command, "rm", "--force", container.name)
