"""What this process may compute with: how many CPUs, and which of their instructions."""

import os
from contextlib import suppress
from pathlib import Path

from app.release import Precision

FASTEST_FIRST: tuple[Precision, ...] = ("int8", "bf16", "f32")
_INSTRUCTIONS: dict[Precision, frozenset[str]] = {
    # AVX2 needs more steps for it than the others, and is still half again as fast as in f32.
    "int8": frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "avx2", "i8mm", "asimddp"}),
    "bf16": frozenset({"amx_bf16", "avx512_bf16", "bf16"}),
}
"""Linux' names of the instructions, any of which multiplies and adds in a precision."""


def native_precisions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[Precision, ...]:
    """Name the precisions that this processor has instructions for, the fastest first.

    Args:
        cpuinfo: Where Linux tells of the processor.
    """
    flags: set[str] = set()
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                flags.update(line.split(":", 1)[1].split())
    return tuple(each for each in FASTEST_FIRST if each == "f32" or flags & _INSTRUCTIONS[each])


def beside_int8() -> Precision:
    """What the part of a quantised network that is not in integers is computed in."""
    return "bf16" if "bf16" in native_precisions() else "f32"


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the CPUs that this process may use: its affinity, cut to its cgroup's quota.

    Args:
        cgroup: Where the control groups are mounted, version 2 (`cpu.max`) or 1.
    """
    cpus = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # `max`, or no such file: there is no quota
        quota, period = map(int, (cgroup / "cpu.max").read_text().split())
        cpus = min(cpus, -(-quota // period))
    with suppress(OSError, ValueError):
        quota = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
        cpus = min(cpus, -(-quota // period)) if quota > 0 else cpus
    return max(1, cpus)
