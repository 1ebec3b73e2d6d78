"""Measure a release anew: the same network, byte for byte, with another evaluation and card.

For a release whose network is good and whose card is not, since measures or words were mended. What
was chosen for it stays (scaling, thresholds, prediction sets), and what is told of how it was made.
"""

import hashlib
import shutil

from app.release import CARD, MANIFEST, Manifest, Network, Precision, Release
from training.card import same_recipe
from training.continuation import take_histories
from training.dataset import fingerprint
from training.errors import ContinuationImpossible
from training.files import write_whole
from training.run import Run, environment

NOTE = "remeasured.json"
"""Of a work folder: the manifest of the release whose network is in it, byte for byte."""
BESIDE = "evaluation/beside.json"
"""Of a release's folder: what its card tells of other runs, see `publish.Beside`."""


def take_over(release: Release, run: Run) -> None:
    """Leave a release's network where `export` would leave it.

    Args:
        release: The release.
        run: Of the release's recipe, scanned.

    Raises:
        ContinuationImpossible: The recipe, or the images or their splits, are other ones.
    """
    made = release.manifest.training
    if not same_recipe(run.config, made.config):
        raise ContinuationImpossible("the release's own recipe, but for its words", "another")
    if (found := fingerprint(run.records())) != made.dataset.fingerprint:
        raise ContinuationImpossible(
            f"images and splits with the release's fingerprint, {made.dataset.fingerprint}", found
        )
    folder = run.folder / "release"
    shutil.rmtree(folder, ignore_errors=True)
    for name in release.manifest.files:
        if name == BESIDE or (name != CARD and not name.startswith("evaluation/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(release.path / name, folder / name)
    take_histories(release, run.folder / "fit", run.config)
    write_whole(run.folder / NOTE, lambda note: shutil.copyfile(release.path / MANIFEST, note))


def origin(run: Run) -> Manifest | None:
    """Give the manifest of the release whose network was taken over, if one was."""
    file = run.folder / NOTE
    return Manifest.model_validate_json(file.read_bytes()) if file.exists() else None


def network_of(run: Run) -> Network | None:
    """Tell whose network was taken over, and what measures it now."""
    if (whose := origin(run)) is None:
        return None
    return Network(
        name=whose.name,
        version=whose.version,
        digest=hashlib.sha256((run.folder / NOTE).read_bytes()).hexdigest(),
        hardware=environment()["hardware"],
    )


def passed_before(run: Run) -> tuple[Precision, ...]:
    """Name the precisions in which OpenVINO gave TensorFlow's answers with this very network."""
    whose = origin(run)
    return whose.precisions.get("openvino", ()) if whose else ()
