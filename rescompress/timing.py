"""How long artifacts took: the frozen numbers that the harness writes and every report reads."""

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["VALID", "INDICATIVE", "INVALID"]
Scenario = Literal["interleaved", "single-stream", "multi-stream", "offline", "server"]
"""Who asks: our own interleaved blocks, one query at a time; or MLPerf LoadGen in one of its four scenarios."""

Outcome = Literal["kept", "broken", "unsure", "unknown"]


@dataclass(frozen=True)
class ColdRow:
    """What a fresh process pays before it is warm, the median of all launches. None where nobody could tell.

    Attributes:
        load_ms: from a started interpreter to a session that can run.
        first_ms: the first query.
        peak_rss_bytes: largest resident memory of the process, runtime included.
        peak_device_bytes: largest memory taken on the accelerator.
    """

    load_ms: float | None = None
    first_ms: float | None = None
    peak_rss_bytes: int | None = None
    peak_device_bytes: int | None = None


@dataclass(frozen=True)
class LatencyRow:
    """Latency of one artifact, in milliseconds per query; ratios are against the benchmark's baseline.

    Percentiles are the upper bounds of LoadGen's early stopping, None where the queries are too few for them: 64 for
    p90, 130 for p95, 662 for p99. Intervals are 95 % block-bootstrap intervals; the blocks are process launches. Ratios
    are those of neighbouring blocks where candidates took turns, so they are near the quotient of two p50, not equal.

    Attributes:
        queries: measured, none of them dropped.
        cov: coefficient of variation of the blocks' medians.
        ecdf_ms: the 0th to 100th percentile.
        mad_ms: median absolute deviation from the median.
        slow_queries: queries that took more than three times the median.
        blocks: ``(seconds since the first block of all, median in milliseconds)`` of each, in order of measurement.
        images_per_s: throughput.
        compute_p50_ms: the median by the device's own clock, transfers excluded; None where it has none.
        energy_mj: millijoules per query; None where no counter exists.
        within_slo: the scenario's own verdict where it has a limit of latency; None elsewhere.
    """

    label: str
    backend: str
    queries: int
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p90_ms: float | None
    min_ms: float
    cov: float
    ratio: float
    ratio_low: float
    ratio_high: float
    ecdf_ms: tuple[float, ...]
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    mad_ms: float | None = None
    slow_queries: int = 0
    blocks: tuple[tuple[float, float], ...] = ()
    images_per_s: float | None = None
    compute_p50_ms: float | None = None
    energy_mj: float | None = None
    within_slo: bool | None = None
    cold: ColdRow = field(default_factory=ColdRow)


@dataclass(frozen=True)
class LayerTime:
    """What one layer takes inside the runtime.

    Attributes:
        layer: module path, as in the audit; a fused kernel is booked under its convolution or linear layer.
        op: ``conv``, ``linear``, ``add``, ``pool``, or the runtime's own name of what is no layer of the model.
        ms: median of one query.
        kernels: the runtime's own names of what was run.
        fused: further layers that these kernels compute along the way, such as a residual sum.
    """

    layer: str
    op: str
    ms: float
    kernels: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProfileRow:
    """Where one artifact's time goes, as its runtime tells.

    Attributes:
        source: who told, and how, such as ``onnxruntime's profiler``.
        layers: in the order of execution; conversions that belong to no layer come last.
        total_ms: of one query under the profiler, which slows it down: compare shares. What the layers' sum lacks is
            the runtime's own time between the kernels.
    """

    label: str
    backend: str
    source: str
    layers: tuple[LayerTime, ...]
    total_ms: float


@dataclass(frozen=True)
class Peaks:
    """The most that this machine was seen to do, on as many threads as the artifacts had.

    Attributes:
        fp32_gmacs: billions of FP32 multiply-accumulates a second, of a large matrix product.
        int8_gmacs: the same in INT8.
        bandwidth_gbs: billions of bytes a second, read and written, of a copy that no cache holds.
    """

    fp32_gmacs: float
    int8_gmacs: float
    bandwidth_gbs: float


@dataclass(frozen=True)
class RoofRow:
    """How near an artifact comes to the machine's own roofline (Williams et al. 2009).

    Attributes:
        gmacs: billions of multiply-accumulates a second that it reached.
        bound: what limits it at best.
        fraction: of the roof that it reached; above 1 only if the weights stay in the caches from query to query, or
            something disturbed the machine while its peaks were measured.
    """

    label: str
    backend: str
    gmacs: float
    bound: Literal["compute", "memory"]
    fraction: float


@dataclass(frozen=True)
class BenchmarkRow:
    """Candidates timed in one run; ``latencies[0]`` is the baseline.

    Attributes:
        noise_floor: half-width of the ratio that two copies of the baseline showed against each other.
        verdict: whether the numbers can be trusted; the reasons say why not.
        raw: file with every measured latency in nanoseconds, relative to the row.
        scenario: who asked the queries.
        target: the scenario's own numbers, such as ``{"qps": 100, "slo_ms": 15}``.
        device: where it was timed: empty for this machine, else how the device is reached and its processor.
        conditions: what may disturb or explain the numbers (governor, turbo, quota, load, clocks, temperatures, …) in
            words; what the system doesn't tell is ``unavailable``.
        profiles: where the time goes, of artifacts whose runtime tells.
        peaks: of this machine; None where they weren't measured.
        roofs: what share of them was reached.
    """

    batch: int
    threads: int
    launches: int
    latencies: tuple[LatencyRow, ...]
    noise_floor: float
    verdict: Verdict
    reasons: tuple[str, ...]
    raw: str
    scenario: Scenario = "interleaved"
    target: dict[str, float] = field(default_factory=dict)
    device: str = ""
    conditions: dict[str, str] = field(default_factory=dict)
    profiles: tuple[ProfileRow, ...] = ()
    peaks: Peaks | None = None
    roofs: tuple[RoofRow, ...] = ()


@dataclass(frozen=True)
class RuleRow:
    """What one rule of a gate, such as ``p50>+5%``, found of one artifact.

    Attributes:
        rule: as it was asked for.
        outcome: ``kept``, also where a change may be noise; ``broken``; ``unsure``, where it would be broken but was
            timed on another machine; ``unknown``, where there is nothing to judge by.
        fact: a sentence.
    """

    rule: str
    label: str
    backend: str
    outcome: Outcome
    fact: str
