"""What the numbers of a report mean and what they don't prove, in sentences; and the facts of the machine."""

from rescompress.reporting import wording
from rescompress.reporting.layers import Layers
from rescompress.spec import BenchmarkRow, Environment, RunReport


def meanings(report: RunReport) -> tuple[str, ...]:
    """How each number was come by, a sentence each."""
    said = [
        "Accuracy is top-1: of the results in the artifact's own runtime, of the stages in eager PyTorch. Its brackets "
        "are Wilson score intervals, 95 %.",
        "MACs and parameters are for one image and the whole network. Size is what the artifact takes on disk; weights "
        "are the bytes that they need at their bit-widths.",
        "A rung says how far an artifact is proven: "
        + ", ".join(f"{name} {said}" for name, said in wording.RUNGS.items())
        + ".",
        "SQNR is the signal to quantization noise ratio of the logits, eager PyTorch being the signal; max-abs is the "
        "largest difference of any logit.",
        "“Integers” are what the exported file stores and asks for. "
        "The precision of a layer is read off the graph that the runtime optimized: "
        "weights alone, and weights in 4 bits, are turned into floats again before they are multiplied.",
    ]
    if report.benchmark:
        timing = report.benchmark
        said += [
            f"Latency is wall time of one batch of {timing.batch}. p50 is the median; p90, p95 and p99 are upper "
            "bounds, as MLPerf LoadGen's early stopping has them, and need 64, 130 and 662 queries.",
            "A latency ratio is the artifact's latency over the baseline's "
            f"({timing.latencies[0].label if timing.latencies else 'none'}): below 1 is faster. Where artifacts took "
            "turns it is that of neighbouring blocks, so it is near the quotient of the two medians, not equal to it.",
            "Brackets beside latencies and ratios are 95 % block-bootstrap intervals; the blocks are the "
            f"{timing.launches} process launches. Nothing was removed as an outlier.",
            "“No difference” means that the interval holds 1, or that the ratio is within 1 % or within the noise "
            f"floor of {100 * timing.noise_floor:.1f} %, which two copies of the baseline showed against each other.",
        ]
    return tuple(said)


def limits(report: RunReport) -> tuple[str, ...]:
    """What this report does not prove, a sentence each."""
    seen = f"Accuracy holds on the test split of {report.data}; other images, and single classes, may lose more."
    unseen = "Accuracy was not measured: no labelled data was given."
    device = report.benchmark.device if report.benchmark else ""
    timed = (
        f"Latency holds on {device or 'this machine'}, with this batch size and number of threads, and carries over to "
        "no other."
    )
    return (
        seen if report.data else unseen,
        f"{timed} Decoding and preprocessing are not part of it." if report.benchmark else "Nothing was timed.",
        f"{_unmeasured(report.benchmark)} under load from other programs were not measured.",
    )


def layers(found: Layers) -> str:
    """What the picture of an artifact's layers shows."""
    said = ["A column for each layer, in the order of execution."]
    if found.timed_by:
        said.append(f"Times are those of {found.timed_by}, which slows everything down: compare shares.")
        if found.elsewhere_ms:
            said.append(f"Another {wording.real(found.elsewhere_ms)} ms belong to none of these layers.")
    if any(row.precision for row in found.rows):
        said.append("Bits are what the runtime computes in.")
    if found.sensitivity:
        said.append(f"Sensitivity is the SQNR of {found.sensitivity}: the fewer decibels, the higher the bar.")
    missing = [] if found.timed_by else ["the time"]
    missing += [] if found.sensitivity else ["the sensitivity"]
    if missing:
        said.append(f"Nobody measured {' or '.join(missing)} of these layers.")
    return " ".join(said)


def _unmeasured(timing: BenchmarkRow | None) -> str:
    rows = timing.latencies if timing else ()
    energy = any(row.energy_mj is not None for row in rows)
    memory = any(row.cold.peak_rss_bytes is not None for row in rows)
    left = [name for name, known in (("Energy", energy), ("memory in use", memory)) if not known]
    words = ", ".join([*left, "and behaviour" if left else "Behaviour"])
    return words[0].upper() + words[1:]


def machine(environment: Environment) -> tuple[tuple[str, str], ...]:
    """Name and value of each fact of the machine."""
    return (
        ("Machine", environment.machine),
        ("Processor", environment.cpu),
        ("Cores", str(environment.cores)),
        ("Memory", f"{environment.memory_bytes / 2**30:.1f} GiB"),
        ("Instruction sets", ", ".join(environment.isa) or "not listed"),
        ("System", environment.system),
        ("Python", environment.python),
        ("Packages", ", ".join(f"{name} {release}" for name, release in sorted(environment.packages.items()))),
    )
