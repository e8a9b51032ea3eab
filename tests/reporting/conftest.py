"""A made-up but likely run: digits ResNet-20, pruned, distilled, fused and quantized; and its awkward relatives."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rescompress.reporting import html
from rescompress.spec import (
    REPORT_SCHEMA,
    ArtifactRow,
    BenchmarkRow,
    Cost,
    Environment,
    GateRow,
    LatencyRow,
    LayerPrecision,
    PrecisionReport,
    Proportion,
    RunReport,
    StageRow,
    VerificationRow,
)
from tests.reporting.made_up import biggest, enriched

EVIL = '<script>alert("x")</script> & $x^2$ | `Überprüfung` 剪枝 ✂'

STAGES: tuple[tuple[str, dict[str, Any], int, int, int], ...] = (
    ("baseline", {}, 11_181_642, 1_824_033_792, 44_727_368),
    ("prune", {"ratio": 0.3, "importance": "taylor", "round_to": 8, "epochs": 3}, 5_611_914, 921_534_464, 22_447_656),
    ("distill", {"loss": "kd", "temperature": 4.0, "epochs": 10, "keep": None}, 5_611_914, 921_534_464, 22_447_656),
    ("fuse", {}, 5_604_234, 917_012_480, 22_416_936),
    (
        "quantize",
        {"precision": "int8", "method": "ptq", "observer": "percentile", "float_layers": ["conv1", "fc"], "cle": True},
        5_604_234,
        917_012_480,
        5_629_770,
    ),
)
CORRECT = (1766, 1747, 1762, 1762, 1758)
SIZES = (44_781_203, 22_497_530, 22_497_530, 22_440_116, 5_742_408)
P50 = (11.84, 6.93, 6.95, 6.71, 4.07)


def layers(blocks: int, int8: bool) -> tuple[LayerPrecision, ...]:
    """The layers of a residual network with so many blocks of two convolutions."""
    found = [LayerPrecision("conv1", "conv", "fp32"), LayerPrecision("maxpool", "pool", "int8" if int8 else "fp32")]
    for block in range(blocks):
        for name, op in (("conv1", "conv"), ("conv2", "conv"), ("add", "add")):
            floats = not int8 or (block == 3 and op == "add")
            found.append(LayerPrecision(f"layer{block // 2 + 1}.{block % 2}.{name}", op, "fp32" if floats else "int8"))
    found += [LayerPrecision("avgpool", "pool", "int8" if int8 else "fp32"), LayerPrecision("fc", "linear", "fp32")]
    return tuple(found)


def stage(index: int) -> StageRow:
    name, knobs, params, macs, weight_bytes = STAGES[index]
    notes = ("12 of 20 layers lost channels; the shortest kept 40 of 64.",) if name == "prune" else ()
    return StageRow(
        index=index,
        stage=name,
        knobs=knobs,
        key=f"{index}" * 64,
        checkpoint=f"stages/{index:02d}-{name}.safetensors",
        sha256=f"{index + 1:x}c7f" * 16,
        cost=Cost(params, macs, weight_bytes),
        accuracy=Proportion(CORRECT[index] + (2 if name == "quantize" else 0), 1797),
        notes=notes,
    )


def artifact(index: int, backend: str = "onnxruntime") -> ArtifactRow:
    label, int8 = f"{index:02d}-{STAGES[index][0]}", index == 4
    ops = {"QLinearConv": 19, "Conv": 1, "QLinearAdd": 7, "Add": 1} if int8 else {"Conv": 20, "Add": 8}
    return ArtifactRow(
        label=label,
        backend=backend,
        folder=f"artifacts/{label}-{backend}",
        sha256=f"{index + 9:x}a04" * 16,
        size_bytes=SIZES[index],
        precision=PrecisionReport(layers(8, int8), {**ops, "MaxPool": 1, "Gemm": 1}),
        verification=VerificationRow(
            label=label,
            backend=backend,
            inputs="test split",
            accuracy=Proportion(CORRECT[index], 1797),
            reference_accuracy=Proportion(CORRECT[index], 1797),
            max_abs=0.4137 if int8 else 3.2e-6 * index,
            sqnr_db=31.68 if int8 else math.inf if index == 0 else 118.4,
            agreement=Proportion(1789 if int8 else 1797, 1797),
            precision="int8" if int8 else "fp32",
            failures=(),
        ),
    )


def latency(index: int, backend: str = "onnxruntime") -> LatencyRow:
    rng, p50 = random.Random(index), P50[index]
    ecdf = sorted(p50 * (1 + 0.012 * rng.gauss(0, 1) + 0.03 * rng.expovariate(1)) for _ in range(1000))
    ratio = p50 / P50[0]
    return LatencyRow(
        label=f"{index:02d}-{STAGES[index][0]}",
        backend=backend,
        queries=4096,
        p50_ms=p50,
        p50_low_ms=p50 * 0.985,
        p50_high_ms=p50 * 1.017,
        p90_ms=p50 * 1.08,
        min_ms=ecdf[0],
        cov=0.021,
        ratio=ratio,
        ratio_low=ratio * 0.97 if index else 1.0,
        ratio_high=ratio * 1.03 if index else 1.0,
        ecdf_ms=tuple(ecdf),
    )


def realistic() -> RunReport:
    return RunReport(
        schema=REPORT_SCHEMA,
        name="digits-resnet18-int8",
        tool_version="0.1.0",
        model="torchvision resnet18, 10 classes",
        data="digits",
        command="rescompress run recipes/digits-resnet18-int8.yaml --seed 0",
        recipe_yaml="model: torchvision/resnet18\ndata: digits\nstages:\n  - prune: {ratio: 0.3}\n  - distill: {}\n"
        "  - fuse: {}\n  - quantize: {precision: int8}\nexport: [onnxruntime]\n",
        stages=tuple(map(stage, range(5))),
        artifacts=tuple(map(artifact, range(5))),
        benchmark=BenchmarkRow(
            batch=1,
            threads=4,
            launches=5,
            latencies=tuple(map(latency, range(5))),
            noise_floor=0.008,
            verdict="VALID",
            reasons=(),
            raw="rows/latencies.npz",
        ),
        gate=GateRow(max_accuracy_drop=1.0, accuracy_drop=0.45, passed=True, reasons=()),
        environment=Environment(
            machine="x86_64",
            cpu="Intel(R) Xeon(R) Platinum 8488C",
            cores=4,
            memory_bytes=16 * 2**30,
            system="Linux 6.1.0, glibc 2.36",
            python="3.12.4",
            isa=("avx2", "avx512f", "avx512_vnni"),
            packages={"torch": "2.10.0", "onnxruntime": "1.23.2", "numpy": "2.4.6"},
        ),
    )


def without_data() -> RunReport:
    report = realistic()
    artifacts = tuple(
        replace(
            row,
            verification=replace(row.verification, inputs="noise", accuracy=None, reference_accuracy=None),
        )
        for row in report.artifacts
    )
    stages = tuple(replace(row, accuracy=None) for row in report.stages)
    return replace(report, data=None, gate=None, stages=stages, artifacts=artifacts)


def without_benchmark() -> RunReport:
    return replace(realistic(), benchmark=None)


def failed_gate() -> RunReport:
    report = realistic()
    gate = GateRow(1.0, 3.21, passed=False, reasons=("The final artifact lost 3.21 points.",))
    last = report.artifacts[-1]
    failures = ("The SQNR of 11.2 dB is below 20 dB.", "2 logits are not a number.")
    broken = replace(last.verification, max_abs=math.nan, sqnr_db=math.nan, failures=failures)
    return replace(report, gate=gate, artifacts=(*report.artifacts[:-1], replace(last, verification=broken)))


def invalid_benchmark() -> RunReport:
    report = realistic()
    assert report.benchmark
    reasons = ("The latency drifted by 7.4 % between the first and the last third.", "Foreign load of 1.9 cores.")
    rows = tuple(replace(row, p90_ms=None) for row in report.benchmark.latencies)
    return replace(report, benchmark=replace(report.benchmark, verdict="INVALID", reasons=reasons, latencies=rows))


def evil_names() -> RunReport:
    report = realistic()
    assert report.benchmark
    first = replace(report.stages[1], stage=EVIL, knobs={EVIL: EVIL}, notes=(EVIL,), checkpoint=EVIL)
    row = report.artifacts[1]
    verification = replace(row.verification, label=first.label, failures=(EVIL,), inputs=EVIL)
    named = tuple(replace(layer, layer=f"{EVIL}{layer.layer}") for layer in row.precision.layers)
    precision = PrecisionReport(named, {EVIL: 3})
    evil = replace(row, label=first.label, backend=EVIL, folder=EVIL, precision=precision, verification=verification)
    timed = replace(report.benchmark.latencies[1], label=first.label, backend=EVIL)
    return replace(
        report,
        name=EVIL,
        model=EVIL,
        data=EVIL,
        command=EVIL,
        recipe_yaml=EVIL,
        stages=(report.stages[0], first),
        artifacts=(report.artifacts[0], evil),
        benchmark=replace(
            report.benchmark,
            latencies=(report.benchmark.latencies[0], timed),
            verdict="INDICATIVE",
            reasons=(EVIL,),
        ),
        gate=GateRow(1.0, None, passed=False, reasons=(EVIL,)),
        environment=replace(report.environment, cpu=EVIL, packages={EVIL: EVIL}),
    )


def many_layers() -> RunReport:
    report = realistic()
    last = report.artifacts[-1]
    precision = replace(last.precision, layers=layers(66, int8=True)[:200])
    return replace(report, artifacts=(*report.artifacts[:-1], replace(last, precision=precision)))


def two_backends() -> RunReport:
    report = realistic()
    assert report.benchmark
    others = (artifact(0, "openvino"), artifact(4, "openvino"))
    rows = report.artifacts + others
    # one is timed, one is not: the table must say so
    benchmark = replace(report.benchmark, latencies=(*report.benchmark.latencies, latency(4, "openvino")))
    return replace(report, artifacts=rows, benchmark=benchmark)


def everything() -> RunReport:
    return enriched(realistic())


def every_backend() -> RunReport:
    return biggest(realistic())


def nothing_exported() -> RunReport:
    return replace(realistic(), artifacts=(), benchmark=None, gate=None)


VARIANTS: dict[str, Callable[[], RunReport]] = {
    builder.__name__: builder
    for builder in (
        realistic,
        without_data,
        without_benchmark,
        failed_gate,
        invalid_benchmark,
        evil_names,
        many_layers,
        two_backends,
        everything,
        every_backend,
        nothing_exported,
    )
}


@pytest.fixture
def report() -> RunReport:
    return realistic()


@pytest.fixture
def variants() -> dict[str, RunReport]:
    """Every awkward report by name, for tests that look for one thing in several of them."""
    return {name: build() for name, build in VARIANTS.items()}


@pytest.fixture(params=sorted(VARIANTS.keys() - {"every_backend"}))
def any_report(request: pytest.FixtureRequest) -> RunReport:
    return VARIANTS[request.param]()


@pytest.fixture(scope="session")
def page_of() -> Callable[[RunReport], str]:
    """Give a report's page, drawn once: drawing takes a second, and many tests read the same page."""
    pages: dict[str, str] = {}

    def page(report: RunReport) -> str:
        key = repr(report)
        if key not in pages:
            pages[key] = html.render(report)
        return pages[key]

    return page
