"""What a person at a terminal sees: how far it is, and a table. Elsewhere there are plain lines."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from app.reading import Reading

NOTICE = "Research software, no medical device."


@contextmanager
def progress(total: int, *, wanted: bool) -> Iterator[Callable[[], None]]:
    """Show on standard error how far it is, where that is a terminal.

    Args:
        total: Files.
        wanted: Whether it would not disturb.

    Yields:
        What is to be called after each file.
    """
    if not wanted or total <= 1 or not sys.stderr.isatty():  # one is there at once
        yield lambda: None
        return
    columns = ("Reading", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as shown:
        task = shown.add_task("", total=total)
        yield lambda: shown.advance(task)


def print_table(readings: Sequence[Reading]) -> None:
    """Print a table of what came of all files."""
    good = sum(each.prediction is not None for each in readings)
    caption = f"{good} of {len(readings)} answered. {NOTICE}"
    table = Table(caption=caption, caption_justify="left")
    table.add_column("File", overflow="fold")
    table.add_column("Answer", no_wrap=True)
    table.add_column(_positive_label(readings), justify="right", no_wrap=True)
    table.add_column("Not ruled out")
    table.add_column("Acceptance", justify="right")
    table.add_column("Remarks")
    for each in readings:
        table.add_row(*map(Text, _cells(each)))
    Console().print(table)


def _positive_label(readings: Sequence[Reading]) -> str:
    """Name the label whose probability is shown."""
    found = (each.prediction["probabilities"] for each in readings if each.prediction)
    return next((next(iter(probabilities)) for probabilities in found), "Probability")


def _cells(reading: Reading) -> tuple[str, ...]:
    answer = reading.prediction
    if answer is None:
        return (str(reading.file), "-", "-", "-", "-", reading.remark)
    sets = [
        f"{confidence}: {', '.join(labels) or 'no answer'}"
        for confidence, labels in answer["prediction_set"].items()
    ]
    return (
        str(reading.file),
        answer["label"],
        f"{reading.positive:.1%}",
        "\n".join(sets),
        f"{answer['acceptance']['score']:.2f}",
        reading.remark,
    )
