"""The plots of a release, as PNG files."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix, roc_auc_score, roc_curve

from training.evaluate import Measured, Rules
from training.fit import History
from training.metrics import BINS

mpl.rcParams.update({"figure.figsize": (5, 4.2), "figure.dpi": 120, "axes.grid": True})


def draw(measured: Measured, rules: Rules, folder: Path) -> None:
    """Draw what can be drawn of images of both labels."""
    folder.mkdir(parents=True, exist_ok=True)
    threshold = rules.decision.threshold
    roc(measured, threshold, folder / "roc.png")
    confusion(measured, rules.labels, threshold, folder / "confusion.png")
    reliability(measured, rules.labels[0], folder / "reliability.png")


def roc(measured: Measured, threshold: float, path: Path) -> None:
    """Draw the receiver operating characteristic and the decision threshold's point on it."""
    false_positive, true_positive, _ = roc_curve(measured.positive, measured.scores)
    called = measured.scores >= threshold
    auc = roc_auc_score(measured.positive, measured.scores)
    figure, axes = _axes("1 - specificity", "sensitivity", f"ROC, AUC {auc:.3f}")
    axes.plot(false_positive, true_positive)
    axes.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    axes.plot(
        called[~measured.positive].mean(),
        called[measured.positive].mean(),
        "o",
        label=f"threshold {threshold:.3f}",
    )
    axes.legend(loc="lower right")
    figure.savefig(path)


def confusion(measured: Measured, labels: tuple[str, str], threshold: float, path: Path) -> None:
    """Draw the confusion matrix at the decision threshold."""
    matrix = confusion_matrix(~measured.positive, measured.scores < threshold, labels=[0, 1])
    figure, axes = _axes("", "", f"At threshold {threshold:.3f}")
    ConfusionMatrixDisplay(matrix, display_labels=labels).plot(ax=axes, cmap="Blues")
    axes.grid(visible=False)
    figure.savefig(path)


def reliability(measured: Measured, label: str, path: Path) -> None:
    """Draw how often the label is right against how probable it was said to be."""
    seen, said = calibration_curve(measured.positive, measured.scores, n_bins=BINS)
    figure, axes = _axes(f"probability of {label}", f"share that is {label}", "Reliability")
    axes.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    axes.plot(said, seen, "o-")
    counts = axes.twinx()
    counts.hist(measured.scores, bins=BINS, range=(0, 1), alpha=0.2, color="gray")
    counts.set_ylabel("images")
    counts.grid(visible=False)
    figure.savefig(path)


def training_curves(histories: dict[str, History], path: Path) -> None:
    """Draw the loss of every epoch, stage after stage."""
    figure, axes = _axes("epoch", "loss (cross-entropy)", "Training")
    for key, name in (("loss", "training"), ("val_loss", "validation")):
        values = [epoch[key] for history in histories.values() for epoch in history]
        axes.plot(np.arange(1, len(values) + 1), values, "o-", markersize=3, label=name)
    end = 0.5
    for stage, history in histories.items():
        axes.text(end + 0.1, 0.97, stage, transform=axes.get_xaxis_transform(), va="top", size=8)
        end += len(history)
        axes.axvline(end, color="gray", linewidth=0.8)
    axes.set_xlim(0.5, end)  # so that the first stage's name is inside
    axes.legend()
    figure.savefig(path)


def _axes(x: str, y: str, title: str) -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(layout="constrained")  # no window, no global state
    axes = figure.add_subplot(xlabel=x, ylabel=y, title=title)
    return figure, axes
