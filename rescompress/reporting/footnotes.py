"""What the numbers of a report mean and what they don't prove, in sentences; and the facts of the machine."""

from rescompress.spec import Environment, RunReport


def meanings(report: RunReport) -> tuple[str, ...]:
    """How each number was come by, a sentence each."""
    said = [
        "Accuracy is top-1. Its brackets are Wilson score intervals, 95 %. "
        "“Eager” is the stage's checkpoint in PyTorch; “runtime” is the exported artifact in its own runtime.",
        "MACs and parameters are for one image and the whole network. “Weights” are the bytes that the weights need at "
        "their bit-widths; “File” is what the artifact takes on disk.",
        "SQNR is the signal to quantization noise ratio of the logits, eager PyTorch being the signal; max-abs is the "
        "largest difference of any logit.",
        "“Integers” are what the exported file stores and asks for. "
        "The precision of a layer is read off the graph that the runtime optimized: "
        "weights alone, and weights in 4 bits, are turned into floats again before they are multiplied.",
    ]
    if report.benchmark:
        timing = report.benchmark
        said += [
            f"Latency is wall time of one batch of {timing.batch}. p50 is the median. A latency ratio is the "
            f"artifact's median over the baseline's ({timing.latencies[0].label if timing.latencies else 'none'}): "
            "below 1 is faster.",
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
    timed = "Latency holds on this machine, with this batch size and number of threads, and carries over to no other."
    return (
        seen if report.data else unseen,
        f"{timed} Decoding and preprocessing are not part of it." if report.benchmark else "Nothing was timed.",
        "Energy, memory in use, and behaviour under load from other programs were not measured.",
    )


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
