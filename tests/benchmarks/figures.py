"""The statistics that benchmarks report."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float | None:
    """Find the smallest value that a share of all values does not exceed (nearest rank).

    Args:
        values: In any order.
        share: In (0, 1].

    Returns:
        One of the values; None where there is none.
    """
    if not values:
        return None
    return sorted(values)[math.ceil(share * len(values)) - 1]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Sum up the rounds that have a value; None where no round has."""
        known = [value for value in values if value is not None]
        return cls(statistics.median(known), min(known), max(known)) if known else None

    def text(self, digits: int = 1) -> str:
        """Write the median with minimum and maximum, or alone where there was one round."""
        middle = f"{self.median:.{digits}f}"
        if self.low == self.high:
            return middle
        return f"{middle} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def ratio(above: float | None, below: float | None) -> float | None:
    """Divide; None where there is nothing to divide, or to divide by."""
    return above / below if above is not None and below else None


def table(rows: Sequence[Sequence[str]]) -> str:
    """Set rows of cells in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def cell(spread: Spread | None, digits: int = 1) -> str:
    """Write a spread for a table; a dash where there is none."""
    return spread.text(digits) if spread else "-"
