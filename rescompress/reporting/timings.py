"""What a benchmark tells beside the headline: tails, cold starts, memory, energy, the roof, and what it ran under."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rescompress.reporting import wording
from rescompress.reporting.tables import Cell, Kind, Table, missing, starts
from rescompress.reporting.verdict import stage_of, timed_names
from rescompress.spec import BenchmarkRow, LatencyRow
from rescompress.timing import ColdRow

SCENARIOS = {
    "interleaved": "interleaved blocks, one query at a time",
    "single-stream": "MLPerf LoadGen, SingleStream: the next query when the last is answered",
    "multi-stream": "MLPerf LoadGen, MultiStream: several images a query",
    "offline": "MLPerf LoadGen, Offline: everything at once",
    "server": "MLPerf LoadGen, Server: queries at random moments, under a limit of latency",
}
BOUNDS = {"compute": "arithmetic", "memory": "memory bandwidth"}
DASH = "\N{EN DASH}"
NEEDED = {"p95": 130, "p99": 662}
"""Queries that a percentile needs."""


@dataclass(frozen=True)
class Meter:
    """A share from 0 to 1 with its name, and what it is made of."""

    name: str
    share: float
    told: str


def latency_table(timing: BenchmarkRow) -> Table | None:
    """A row per candidate with what the first table has no room for; None where nothing of it was measured."""
    told = [column for column in _columns(timing) if column.always or any(map(column.known, timing.latencies))]
    if all(column.always for column in told):
        return None
    kind: Kind = "void" if timing.verdict == "INVALID" else ""
    rows = []
    for row in timing.latencies:
        cells = [column.cell(row) for column in told]
        rows.append(
            (Cell(stage_of(row), row.backend), *(Cell(cell.text, cell.detail, cell.kind or kind) for cell in cells))
        )
    columns = ("Artifact", *(column.name for column in told))
    return Table(columns, tuple(rows), starts([row.backend for row in timing.latencies]))


def facts(timing: BenchmarkRow) -> tuple[tuple[str, str], ...]:
    """How it was timed: name and value each."""
    first = timing.latencies[0] if timing.latencies else None
    target = ", ".join(f"{name} {value:g}" for name, value in timing.target.items())
    said = (
        ("Scenario", SCENARIOS[timing.scenario]),
        ("Target", target),
        ("Device", timing.device or "this machine"),
        ("Batch", f"{timing.batch} on {timing.threads} {'thread' if timing.threads == 1 else 'threads'}"),
        ("Launches", f"{timing.launches}, each with a fresh process for every artifact"),
        ("Baseline", f"{first.label} in {first.backend}" if first else ""),
        ("Noise floor", f"{100 * timing.noise_floor:.1f} %, between two copies of the baseline"),
    )
    return tuple((name, value) for name, value in said if value)


def meters(timing: BenchmarkRow) -> tuple[Meter, ...]:
    """What share of its roof each artifact reaches."""
    names = {(row.label, row.backend): name for name, row in zip(timed_names(timing), timing.latencies, strict=True)}
    found = []
    for roof in timing.roofs:
        name = names.get((roof.label, roof.backend), f"{roof.label} ({roof.backend})")
        share = f"{wording.real(100 * roof.fraction, 2)} % of what {BOUNDS[roof.bound]} allows"
        found.append(Meter(name, roof.fraction, f"{wording.real(roof.gmacs)} GMAC/s, {share}"))
    return tuple(found)


def peaks(timing: BenchmarkRow) -> str:
    """What this machine was seen to do at most, in a sentence; empty where nobody measured it."""
    found = timing.peaks
    if found is None:
        return ""
    threads = "1 thread" if timing.threads == 1 else f"{timing.threads} threads"
    rates = f"{wording.real(found.fp32_gmacs)} GMAC/s in FP32 and {wording.real(found.int8_gmacs)} GMAC/s in INT8"
    moved = f"{wording.real(found.bandwidth_gbs)} GB/s"
    return f"On {threads} this machine was seen to multiply large matrices at {rates}, and to move {moved}."


@dataclass(frozen=True)
class _Column:
    """One number of each candidate.

    Attributes:
        known: whether a candidate has it.
        always: it is shown even where nobody has it, because its absence is news too.
    """

    name: str
    known: Callable[[LatencyRow], bool]
    cell: Callable[[LatencyRow], Cell]
    always: bool = False


def _columns(timing: BenchmarkRow) -> Sequence[_Column]:
    return (
        _Column("p95", lambda row: row.p95_ms is not None, lambda row: _tail(row, "p95", row.p95_ms)),
        _Column("p99", lambda row: row.p99_ms is not None, lambda row: _tail(row, "p99", row.p99_ms)),
        _Column("Extremes", lambda row: row.max_ms is not None, _range),
        _Column("Spread", lambda row: row.mad_ms is not None, _spread),
        _Column("On the device", lambda row: row.compute_p50_ms is not None, lambda row: _ms(row.compute_p50_ms)),
        _Column("Throughput", lambda row: row.images_per_s is not None, _throughput),
        _Column("Within the limit", lambda row: row.within_slo is not None, _within),
        _Column("Load", lambda row: row.cold.load_ms is not None, lambda row: _ms(row.cold.load_ms)),
        _Column("First query", lambda row: row.cold.first_ms is not None, _first),
        _Column("Peak memory", lambda row: row.cold.peak_rss_bytes is not None, lambda row: _memory(row.cold)),
        _Column("On the accelerator", lambda row: row.cold.peak_device_bytes is not None, _device_memory),
        _Column("Energy", lambda row: row.energy_mj is not None, _energy, always=True),
    )


def _ms(value: float | None) -> Cell:
    return missing() if value is None else Cell(f"{wording.real(value)} ms")


def _tail(row: LatencyRow, name: str, value: float | None) -> Cell:
    few = value is None and row.queries < NEEDED[name]
    return missing("too few queries") if few else _ms(value)


def _range(row: LatencyRow) -> Cell:
    if row.max_ms is None:
        return missing()
    slow = f"{row.slow_queries} of {row.queries} over 3{wording.TIMES} p50"
    return Cell(f"{wording.real(row.min_ms)}{DASH}{wording.real(row.max_ms)} ms", slow)


def _spread(row: LatencyRow) -> Cell:
    if row.mad_ms is None:
        return missing()
    return Cell(f"± {wording.real(row.mad_ms, 2)} ms", f"blocks ± {100 * row.cov:.1f} %")


def _throughput(row: LatencyRow) -> Cell:
    return missing() if row.images_per_s is None else Cell(f"{wording.real(row.images_per_s)} images/s")


def _within(row: LatencyRow) -> Cell:
    return missing() if row.within_slo is None else Cell("yes" if row.within_slo else "no")


def _first(row: LatencyRow) -> Cell:
    if row.cold.first_ms is None:
        return missing()
    times = f"{wording.real(row.cold.first_ms / row.p50_ms, 2)}{wording.TIMES} p50"
    return Cell(f"{wording.real(row.cold.first_ms)} ms", times)


def _memory(cold: ColdRow) -> Cell:
    return missing() if cold.peak_rss_bytes is None else Cell(wording.size(cold.peak_rss_bytes))


def _device_memory(row: LatencyRow) -> Cell:
    found = row.cold.peak_device_bytes
    return missing() if found is None else Cell(wording.size(found))


def _energy(row: LatencyRow) -> Cell:
    return missing("unavailable") if row.energy_mj is None else Cell(f"{wording.real(row.energy_mj)} mJ", "per query")
