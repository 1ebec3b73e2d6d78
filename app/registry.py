"""Find releases, verify them, load one, swap it for another, and know the state of each."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from threading import Lock

from app.engines import Engine, Predictions
from app.errors import CovidXrayError, NotReady, ReleaseInvalid, ReleaseNotFound
from app.imaging import RESIZE_RULE, phantom
from app.release import Release, open_release, read_card
from app.versions import Signature, find_versions, read_pin, sign

_log = logging.getLogger(__name__)


class State(StrEnum):
    """What the service does with a release."""

    SERVING = "serving"
    LOADING = "loading"
    AVAILABLE = "available"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version in the model store.

    Attributes:
        version: The number that names its folder.
        state: What the service does with it.
        reason: Why it was refused, without the store's place on the disk.
        release: What was opened; none where it was refused.
        signature: Of the files that this is about.
    """

    version: int
    state: State
    reason: str | None = None
    release: Release | None = None
    signature: Signature = frozenset()


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


class _Lent:
    """A release that may be in use by several threads; its engine is closed by the last of them."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._users = 1  # the registry itself
        self._lock = Lock()

    def take(self) -> bool:
        """Count a user in; False where the release is retired and its last user has gone."""
        with self._lock:
            self._users += 1 if self._users else 0
            return self._users > 0

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.serving.engine.close()


class Registry:
    """The versions of one model.

    Args:
        store: Folder of models; a model's versions are in `<store>/<name>/<version>/`.
        name: The model.
        load_engine: Makes an engine for a release.
        version: The one to serve; where not given, the one that the file `pin` beside the versions
            names, and without it the newest that can be served.
    """

    def __init__(
        self,
        store: Path,
        name: str,
        load_engine: Callable[[Release], Engine],
        version: int | None = None,
    ) -> None:
        self._folder = store / name
        self._load_engine = load_engine
        self._version = version
        self._lent: _Lent | None = None
        self._entries: dict[int, Entry] = {}
        self._passed_over = 0
        self._pin_fault: str | None = None
        self._changing = Lock()

    @property
    def serving(self) -> Serving:
        """The release that answers; to run its engine, take `lease`.

        Raises:
            NotReady: There is none yet, or no more.
        """
        if self._lent is None:
            raise NotReady("a loaded release", "a service that is starting or stopping")
        return self._lent.serving

    @property
    def passed_over(self) -> int:
        """How many versions would be served if they were not refused; a pin that is none counts."""
        return self._passed_over

    @property
    def entries(self) -> list[Entry]:
        """All versions, the newest first."""
        entries = self._entries
        return [entries[version] for version in sorted(entries, reverse=True)]

    def entry(self, version: int) -> Entry:
        """Look up a version.

        Raises:
            ReleaseNotFound: The store has no such version.
        """
        entry = self._entries.get(version)
        if entry is None:
            raise ReleaseNotFound("a version that the service lists", f"{version}")
        return entry

    def read_card(self, version: int) -> bytes:
        """Read a version's model card, Markdown in UTF-8.

        Raises:
            ReleaseNotFound: The store has no such version, or it was refused.
            CardNotFound: The version has none.
        """
        release = self.entry(version).release
        if release is None:
            raise ReleaseNotFound("a version that can be served", f"{version}, which was refused")
        return read_card(release)

    @contextmanager
    def lease(self) -> Iterator[Serving]:
        """Use the release that answers now; its engine stays open until the block is left.

        Raises:
            NotReady: There is none yet, or no more.
        """
        lent = self._lent
        while lent is not None and not lent.take():
            lent = self._lent  # another has taken its place in between
        if lent is None:
            raise NotReady("a loaded release", "a service that is starting or stopping")
        try:
            yield lent.serving
        finally:
            lent.leave()

    def choose(self) -> int:
        """Name the version that is to be served, without a look into it.

        Raises:
            ReleaseNotFound: The store has none, or its pin names none.
        """
        versions = find_versions(self._folder)
        if not versions:
            raise ReleaseNotFound(f"a release in {self._folder.resolve()}", "none")
        wanted = self._wanted()
        return max(versions) if wanted is None else wanted

    def load(self) -> Serving:
        """Verify all versions, and load the one to serve.

        Without a pin that is the newest that can be served: a bad one must not keep the service
        from starting again that goes on beside it. What is raised is about the newest, then.

        Raises:
            ReleaseNotFound: The store has no such version.
            ReleaseInvalid: Its files, its manifest or its golden answer are not what they must be.
            EngineUnavailable: Its engine is not installed.
        """
        with self._changing:
            chosen = self.choose()
            others = (each for each in find_versions(self._folder) if each != chosen)
            self._entries = {each: self._inspect(each) for each in others}
            entry = self._new_entry(chosen)
            try:
                return self._serve(*self._open(entry))
            except CovidXrayError as error:
                if self._wanted() is not None:
                    raise
                refused = self._advance(self.entries)
                if self._lent is None:
                    raise
                self._entries = self._entries | {chosen: self._refuse(entry, error)}
                self._passed_over = 1 + refused
            serving = self.serving
            answers = serving.release.manifest.version
            _log.error("Version %d answers instead of %d, which is refused.", answers, chosen)
            return serving

    def refresh(self) -> None:
        """Look at the store again, and serve what should be served now.

        A version is loaded, verified and warmed beside the one that answers, and then takes its
        place; requests that run end on the engine that they began on. A version that is refused
        changes nothing but its own state, and is tried again when its files change. The one that
        answers goes on if its own files are spoiled.

        Raises:
            NotReady: Nothing is served yet, or no more.
        """
        with self._changing:
            answering = self.serving.release.manifest.version
            wanted = self._follow_pin(answering)
            # A version that is pinned and not there is told of like one that is refused.
            versions = {*find_versions(self._folder), *([] if wanted is None else [wanted])}
            known = self._entries
            self._entries = {
                each: known[each] if self._is_known(each) else self._inspect(each)
                for each in versions
            }
            candidates = [each for each in self.entries if wanted in (None, each.version)]
            refused = self._advance(candidates, answering)
            self._passed_over = refused + (self._pin_fault is not None)

    def close(self) -> None:
        """Stop answering, and free the model when nobody uses it any more."""
        with self._changing:
            lent, self._lent = self._lent, None
        if lent is not None:
            lent.leave()

    def _wanted(self) -> int | None:
        """Read which version is pinned; raises as `read_pin`."""
        return read_pin(self._folder) if self._version is None else self._version

    def _follow_pin(self, answering: int) -> int | None:
        """Read which version is pinned: what answers, where the pin names none, which is told."""
        try:
            wanted, fault = self._wanted(), None
        except ReleaseNotFound as error:
            wanted, fault = answering, str(error)
        if fault and fault != self._pin_fault:
            _log.error("The pin is passed over. %s", fault)
        self._pin_fault = fault
        return wanted

    def _advance(self, candidates: list[Entry], answering: int | None = None) -> int:
        """Serve the first that can be served.

        Args:
            candidates: What should be served, the best first.
            answering: The version that answers; it goes on although its files are spoiled.

        Returns:
            How many were refused on the way.
        """
        for refused, entry in enumerate(candidates):
            if entry.state is State.SERVING or self._try(entry):
                return refused
            if entry.version == answering:
                return refused + 1
        return len(candidates)

    def _is_known(self, version: int) -> bool:
        entry = self._entries.get(version)
        return entry is not None and entry.signature == sign(self._folder / str(version))

    def _try(self, entry: Entry) -> bool:
        """Serve a version, or refuse it."""
        if entry.release is None:
            return False
        self._entries = self._entries | {entry.version: replace(entry, state=State.LOADING)}
        try:
            self._serve(entry, entry.release)
        except CovidXrayError as error:
            self._entries = self._entries | {entry.version: self._refuse(entry, error)}
            return False
        return True

    def _serve(self, entry: Entry, release: Release) -> Serving:
        serving = _start(release, self._load_engine(release))
        before, self._lent = self._lent, _Lent(serving)
        self._entries = {
            each.version: replace(each, state=State.AVAILABLE)
            if each.state is State.SERVING
            else each
            for each in self._entries.values()
        } | {entry.version: replace(entry, state=State.SERVING)}
        engine = serving.engine
        _log.info(
            "Serving %s version %d with %s in %s.",
            self._folder.name,
            entry.version,
            engine.name,
            engine.precision,
        )
        if before is not None:
            before.leave()
        return serving

    def _inspect(self, version: int) -> Entry:
        entry = self._new_entry(version)
        try:
            return self._open(entry)[0]
        except CovidXrayError as error:
            return self._refuse(entry, error)

    def _new_entry(self, version: int) -> Entry:
        """Sign a version before it is read: what changes meanwhile is looked at again."""
        return Entry(version, State.LOADING, signature=sign(self._folder / str(version)))

    def _open(self, entry: Entry) -> tuple[Entry, Release]:
        release = open_servable(self._folder / str(entry.version))
        return replace(entry, state=State.AVAILABLE, release=release), release

    def _refuse(self, entry: Entry, error: CovidXrayError) -> Entry:
        reason = f"{error.code}: {error}".replace(f"{self._folder.resolve()}/", "")
        known = self._entries.get(entry.version)
        if known is None or known.reason != reason:
            _log.warning("Version %d is refused. %s", entry.version, error)
        return replace(entry, state=State.REFUSED, reason=reason, release=None)


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
        ReleaseInvalid: The answers differ by more than the manifest's tolerance for the precision.
        InferenceFailed: The engine gave no answer.
    """
    golden = release.manifest.golden
    exact = engine.precision == "f32"
    tolerance = golden.tolerance if exact else golden.reduced_tolerance
    wanted = golden.int8 if golden.int8 and engine.precision == "int8" else golden
    answer = engine.predict(phantom()[None])
    found = {
        "probability": (wanted.probabilities[0], float(answer.probabilities[0, 0])),
        "second probability": (wanted.probabilities[1], float(answer.probabilities[0, 1])),
        "acceptance": (wanted.acceptance, float(answer.acceptance[0])),
        "heatmap mean": (wanted.heatmap_mean, float(answer.heatmap[0].mean())),
    }
    for name, (expected, received) in found.items():
        if abs(expected - received) > tolerance:
            raise ReleaseInvalid(
                f"{name} {expected:.4f} ± {tolerance:g} for the phantom by {release.path}",
                f"{received:.4f} from {engine.name} in {engine.precision}",
            )
    return answer


def _start(release: Release, engine: Engine) -> Serving:
    try:
        check_golden(release, engine)
        engine.predict(phantom()[None], alone=False)  # warms what answers under load
        start = time.monotonic()
        engine.predict(phantom()[None])
    except BaseException:
        engine.close()
        raise
    return Serving(release, engine, time.monotonic() - start)
