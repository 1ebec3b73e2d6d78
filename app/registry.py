"""Find releases, verify them, load one, and know the state of each."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.engines import Engine, Predictions
from app.errors import NotReady, ReleaseError, ReleaseInvalid, ReleaseNotFound
from app.imaging import RESIZE_RULE, phantom
from app.release import Release, open_release

_log = logging.getLogger(__name__)


class State(StrEnum):
    """What the service does with a release."""

    SERVING = "serving"
    AVAILABLE = "available"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version in the model store.

    Attributes:
        version: The number that names its folder.
        state: What the service does with it.
        reason: Why it was refused; what it says of paths is in the log only.
        release: What was opened; none where it was refused.
    """

    version: int
    state: State
    reason: str | None = None
    release: Release | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """The release that answers.

    Attributes:
        release: Its contract.
        engine: It, loaded, warm, and giving its golden answer.
        inference_s: Seconds that the warm engine took for one image.
    """

    release: Release
    engine: Engine
    inference_s: float


class Registry:
    """The versions of one model.

    Args:
        store: Folder of models; a model's versions are in `<store>/<name>/<version>/`.
        name: The model.
        load_engine: Makes an engine out of a release's folder.
    """

    def __init__(self, store: Path, name: str, load_engine: Callable[[Path], Engine]) -> None:
        self._folder = store / name
        self._load_engine = load_engine
        self._serving: Serving | None = None
        self._entries: dict[int, Entry] = {}

    @property
    def serving(self) -> Serving:
        """The release that answers.

        Raises:
            NotReady: There is none yet, or no more.
        """
        if self._serving is None:
            raise NotReady("a loaded release", "a service that is starting or stopping")
        return self._serving

    @property
    def entries(self) -> list[Entry]:
        """All versions, the newest first."""
        return [self._entries[version] for version in sorted(self._entries, reverse=True)]

    def entry(self, version: int) -> Entry:
        """Look up a version.

        Raises:
            ReleaseNotFound: The store has no such version.
        """
        if version not in self._entries:
            raise ReleaseNotFound("a version that the service lists", f"{version}")
        return self._entries[version]

    def load(self, version: int | None = None) -> Serving:
        """Verify all versions, and load one.

        Args:
            version: Which one; the newest where not given.

        Raises:
            ReleaseNotFound: The store has no such version.
            ReleaseInvalid: Its files, its manifest or its golden answer are not what they must be.
            EngineUnavailable: Its engine is not installed.
        """
        versions = _find_versions(self._folder)
        if not versions:
            raise ReleaseNotFound(f"a release in {self._folder.resolve()}", "none")
        chosen = max(versions) if version is None else version
        release = open_servable(self._folder / str(chosen))
        serving = _start(release, self._load_engine(release.path))
        self._entries = {each: self._inspect(each) for each in versions if each != chosen}
        self._entries[chosen] = Entry(chosen, State.SERVING, release=release)
        self._serving = serving
        _log.info("Serving %s version %d with %s.", self._folder.name, chosen, serving.engine.name)
        return serving

    def close(self) -> None:
        """Stop answering, and free the model."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.engine.close()

    def _inspect(self, version: int) -> Entry:
        try:
            release = open_servable(self._folder / str(version))
        except ReleaseError as error:
            _log.warning("Version %d is refused. %s", version, error)
            return Entry(version, State.REFUSED, reason=f"{error.code}: {error.title}")
        return Entry(version, State.AVAILABLE, release=release)


def open_servable(path: Path) -> Release:
    """Open a release, and check that this service makes the input that it expects.

    Raises:
        ReleaseNotFound: There is no release.
        ReleaseInvalid: It is broken, in another model's folder, or expects another input.
    """
    path = path.resolve()
    release = open_release(path)
    manifest = release.manifest
    if manifest.name != path.parent.name:
        raise ReleaseInvalid(f"model {path.parent.name} in the manifest at {path}", manifest.name)
    if manifest.input.resize != RESIZE_RULE:
        raise ReleaseInvalid(
            f"the resize rule {RESIZE_RULE} in the manifest at {path}", manifest.input.resize
        )
    return release


def check_golden(release: Release, engine: Engine) -> Predictions:
    """Run a release on the phantom, and compare with the answer that its manifest holds.

    Raises:
        ReleaseInvalid: The answers differ by more than the manifest's tolerance.
        InferenceFailed: The engine gave no answer.
    """
    golden = release.manifest.golden
    answer = engine.predict(phantom()[None])
    found = {
        "probability": (golden.probabilities[0], float(answer.probabilities[0, 0])),
        "second probability": (golden.probabilities[1], float(answer.probabilities[0, 1])),
        "acceptance": (golden.acceptance, float(answer.acceptance[0])),
        "heatmap mean": (golden.heatmap_mean, float(answer.heatmap[0].mean())),
    }
    for name, (expected, received) in found.items():
        if abs(expected - received) > golden.tolerance:
            raise ReleaseInvalid(
                f"{name} {expected:.4f} ± {golden.tolerance:g} for the phantom by {release.path}",
                f"{received:.4f} from {engine.name}",
            )
    return answer


def _start(release: Release, engine: Engine) -> Serving:
    try:
        check_golden(release, engine)
        start = time.monotonic()
        engine.predict(phantom()[None])
    except BaseException:
        engine.close()
        raise
    return Serving(release, engine, time.monotonic() - start)


def _find_versions(folder: Path) -> list[int]:
    names = [path.name for path in folder.glob("[1-9]*") if path.is_dir()]
    return [int(name) for name in names if name.isdecimal() and name.isascii()]
