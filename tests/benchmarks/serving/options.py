"""What is asked of a sitting."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.machine import ROOT, newest_release
from tests.benchmarks.serving.servers import SERVERS
from tests.benchmarks.xrays import KINDS

OUT = ROOT / "build" / "benchmarks"


@dataclass(frozen=True, slots=True)
class Options:
    """A sitting.

    Attributes:
        release: The release's folder.
        servers: Of `SERVERS`.
        precisions: The service's; or `all`, or `auto`.
        kinds: Of `xrays.KINDS`; without effect where there is `images`.
        images: A folder of real files.
        clients: That ask at the same time.
        seconds: Of each case.
        warm_up: Seconds before each case that do not count.
        rounds: How often everything is measured.
        cpus: Cores of servers, limit and load generator; None for all.
        load_cpus: Cores beside them that are the load generator's own; 0 to share.
        out: Folder of the results.
    """

    release: Path
    servers: tuple[str, ...]
    precisions: tuple[str, ...]
    kinds: tuple[str, ...]
    images: Path | None
    clients: int
    seconds: float
    warm_up: float
    rounds: int
    cpus: int | None
    load_cpus: int
    out: Path


def parse(words: Sequence[str] | None = None) -> Options:
    """Read the command line, or other words."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.serving",
        description="The service beside plain servers and the limit, in one sitting.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--release", type=Path, help="release's folder; the newest in model_store if not given")
    add("--servers", type=_Names(SERVERS), default=SERVERS, help=f"of {','.join(SERVERS)}")
    add("--precision", type=_words, default=("all",), help="service's: all, auto, or f32,bf16,int8")
    add("--inputs", type=_Names(tuple(KINDS)), default=tuple(KINDS), help=f"of {','.join(KINDS)}")
    add("--images", type=Path, help="folder of real PNG and JPEG files instead of these")
    add("--clients", type=_positive, default=16, help="that ask at the same time")
    add("--seconds", type=float, default=10.0, help="of each case")
    add("--warm-up", type=float, default=2.0, help="seconds before each case that do not count")
    add("--rounds", type=_positive, default=3, help="how often everything is measured")
    add("--cpus", type=_positive, help="cores that are used; all if not given")
    add("--load-cpus", type=int, default=0, help="further cores for the load alone; 0: it shares")
    add("--out", type=Path, default=OUT, help="folder of the results")
    asked = parser.parse_args(words)
    return Options(
        release=(asked.release or newest_release()).resolve(),
        servers=asked.servers,
        precisions=asked.precision,
        kinds=asked.inputs,
        images=asked.images,
        clients=asked.clients,
        seconds=asked.seconds,
        warm_up=asked.warm_up,
        rounds=asked.rounds,
        cpus=asked.cpus,
        load_cpus=asked.load_cpus,
        out=asked.out,
    )


def split_cpus(
    available: Sequence[int], cpus: int | None, load_cpus: int
) -> tuple[set[int], set[int]]:
    """Choose cores.

    Args:
        available: Numbers of the cores that this process may use.
        cpus: Of servers; None for all that the load has not to itself.
        load_cpus: That the load generator has to itself; 0 where it shares the servers'.

    Returns:
        The servers' cores, and the load generator's.

    Raises:
        ValueError: There are not so many.
    """
    own = len(available) - load_cpus if cpus is None else cpus
    if own < 1 or load_cpus < 0 or own + load_cpus > len(available):
        raise ValueError(
            f"Expected at most {len(available)} cores, at least one of them for the servers; "
            f"received {own} for them and {load_cpus} for the load."
        )
    servers = set(available[:own])
    return servers, set(available[own : own + load_cpus]) or servers


def available_cores() -> list[int]:
    """Number the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


class _Names:
    """Reads a list that is separated by commas, of known words."""

    def __init__(self, known: tuple[str, ...]) -> None:
        self._known = known

    def __call__(self, text: str) -> tuple[str, ...]:
        words = _words(text)
        if unknown := [word for word in words if word not in self._known]:
            raise argparse.ArgumentTypeError(
                f"expected some of {','.join(self._known)}; received {','.join(unknown)}"
            )
        return words


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more; received {text}")
    return number
