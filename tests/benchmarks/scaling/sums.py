"""Arithmetic from measured figures and from assumptions, each of which has a name here."""

from dataclasses import dataclass

from tests.benchmarks.scaling.fleet import Work


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What nobody measured; change it, and write the document again.

    Attributes:
        price: Of a core for an hour, in dollars.
        serving_utilisation: Of the cores that are paid for, the share that works, over a day.
        bulk_efficiency: Of bulk scoring against decoding and inference alone.
        upload_mb: Megabytes of a request.
        node_cores: Of a machine.
        node_overhead_cores: Of them, what the system and its agents take.
        node_gbit_per_s: What its network card takes.
        node_memory_gb_per_s: What its memory gives to all cores together.
        answer_kb: Kilobytes of an answer with its headers.
        balancer_gbit_per_s: What one balancer takes.
        store_stream_mb_per_s: What one connection reads of an object store.
        store_first_byte_s: Until it begins.
        archive_mb: Megabytes of an archived X-ray, as DICOM.
        pacs_per_s: X-rays that a PACS gives in a second beside its daily work.
    """

    price: float = 0.04
    serving_utilisation: float = 0.5
    bulk_efficiency: float = 0.9
    upload_mb: float = 1.0
    node_cores: int = 64
    node_overhead_cores: float = 1.0
    node_gbit_per_s: float = 25.0
    node_memory_gb_per_s: float = 200.0
    answer_kb: float = 1.5
    balancer_gbit_per_s: float = 25.0
    store_stream_mb_per_s: float = 50.0
    store_first_byte_s: float = 0.05
    archive_mb: float = 10.0
    pacs_per_s: float = 10.0


def bulk_hours(images: float, work: Work, cores: float, efficiency: float) -> float:
    """Give the hours in which cores score images; there is no HTTP in it."""
    return images * work.image_ms / 1000 / cores / efficiency / 3600


def cost_per_million(core_ms: float, price: float, share: float) -> float:
    """Give the dollars of a million X-rays.

    Args:
        core_ms: Of a core for one.
        price: Of a core for an hour.
        share: Of the paid time, what is worked in.
    """
    return 1e6 * core_ms / 1000 / 3600 * price / share


def nodes(rate: float, work: Work, assumed: Assumptions, utilisation: float) -> float:
    """Give how many machines a rate needs."""
    usable = assumed.node_cores - assumed.node_overhead_cores
    return rate * work.core_s / utilisation / usable


def gbit_per_s(rate: float, megabytes: float) -> float:
    """Give the gigabits in a second of a rate of bodies."""
    return rate * megabytes * 8 / 1000


def streams(rate: float, megabytes: float, assumed: Assumptions) -> float:
    """Give how many reads have to be under way (Little's law: rate times time)."""
    seconds = assumed.store_first_byte_s + megabytes / assumed.store_stream_mb_per_s
    return rate * seconds
