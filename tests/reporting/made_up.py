"""Likely numbers for what a benchmark, a profiler and an inspection add to a report, seeded by names."""

import random
from collections.abc import Sequence
from dataclasses import replace

from rescompress.agreement import Proportion
from rescompress.spec import ArtifactRow, LatencyRow, LayerPrecision, PrecisionReport, RunReport
from rescompress.timing import BenchmarkRow, ColdRow, LayerTime, Peaks, ProfileRow, RoofRow
from rescompress.views import INSPECTION_SCHEMA, BlockView, Finding, Inspection, LayerView, Totals

BACKENDS = ("onnxruntime", "openvino", "litert", "tensorrt", "coreml", "inductor")


def bottlenecks(counts: Sequence[int] = (3, 4, 6, 3), int8: bool = False) -> tuple[LayerPrecision, ...]:
    """The layers of a network like ResNet-50, as an audit names them."""
    kind = "int8" if int8 else "fp32"
    found = [LayerPrecision("conv1", "conv", kind), LayerPrecision("maxpool", "pool", kind)]
    for stage, blocks in enumerate(counts, 1):
        for block in range(blocks):
            inside = ["conv1", "conv2", "conv3", *(["downsample.0"] if block == 0 else [])]
            found += [LayerPrecision(f"layer{stage}.{block}.{name}", "conv", kind) for name in inside]
            found.append(LayerPrecision(f"layer{stage}.{block}.add", "add", kind))
    return (*found, LayerPrecision("avgpool", "pool", kind), LayerPrecision("fc", "linear", "fp32"))


def looked_at(layers: Sequence[LayerPrecision], model: str) -> Inspection:
    """An inspection of a network with these layers."""
    rng, views, blocks = random.Random(model), [], {}
    for row in layers:
        if row.op in ("conv", "linear"):
            block = row.layer.rpartition(".conv")[0] or row.layer.partition(".downsample")[0]
            block = block if "." in row.layer else ""
            views.append(_view(row, block, rng))
            if block:
                blocks.setdefault(block, []).append(row.layer)
    found = Finding("odd channel counts", "warning", (views[3].layer,), "1 layer has 44 channels.", "Prune to 16.")
    return Inspection(
        schema=INSPECTION_SCHEMA,
        model=model,
        input_shape=(3, 224, 224),
        total=Totals(25_557_032, sum(view.macs for view in views), 102_228_128, 44_000_000),
        layers=tuple(views),
        blocks=tuple(_block(name, inside, views) for name, inside in blocks.items()),
        groups=(),
        uncut=(),
        ops={"conv": len(views)},
        findings=(found,),
        images="8 images of digits",
    )


def _view(row: LayerPrecision, block: str, rng: random.Random) -> LayerView:
    return LayerView(
        layer=row.layer,
        op=row.op,
        output_shape=(256, 28, 28) if row.op == "conv" else (1000,),
        params=rng.randrange(10_000, 2_000_000),
        macs=rng.randrange(12_000_000, 231_000_000) if row.op == "conv" else 2_048_000,
        weight_bits=8,
        weight_bytes=64_000,
        kernel=(3, 3) if row.op == "conv" else (),
        groups=1,
        stride=4.0 if row.op == "conv" else None,
        activation_bytes=200_000,
        block=block,
        group="",
        sqnr_db=max(12.0, rng.gauss(42, 8)),
    )


def _block(name: str, inside: Sequence[str], views: Sequence[LayerView]) -> BlockView:
    aside = tuple(layer for layer in inside if "downsample" in layer)
    return BlockView(
        name=name,
        add=f"{name}.add",
        kind="basic" if len(inside) - len(aside) == 2 else "bottleneck",
        layers=tuple(inside),
        shortcut="projection" if aside else "identity",
        shortcut_layers=aside,
        stride=1.0,
        output_shape=(256, 28, 28),
        macs=sum(view.macs for view in views if view.block == name),
    )


def timed(row: LatencyRow, number: int = 0, launches: int = 5, blocks: int = 30) -> LatencyRow:
    """The row with tails, blocks in which a burst and a drift hide, throughput and a cold start."""
    rng, points, second = random.Random(f"{row.label} {row.backend}"), [], 0.0
    for launch in range(launches):
        second += 2.2
        for block in range(blocks):
            second += 0.9
            slow = 1.17 if launch == 2 and 11 <= block <= 13 else 1.0
            drift = 1 + 0.0006 * (launch * blocks + block) * (number == 3)
            points.append((second + 0.02 * number, row.p50_ms * slow * drift * (1 + 0.008 * rng.gauss(0, 1))))
    return replace(
        row,
        ecdf_ms=tuple(sorted(row.ecdf_ms)[:: max(1, len(row.ecdf_ms) // 100)][:101]),
        p95_ms=row.p50_ms * 1.12,
        p99_ms=row.p50_ms * 1.31,
        max_ms=row.p50_ms * 4.1,
        mad_ms=row.p50_ms * 0.011,
        slow_queries=3,
        blocks=tuple(points),
        images_per_s=1000 / row.p50_ms,
        cold=ColdRow(812.4 + 10 * number, row.p50_ms * 3.3, 241_000_000 + 7_000_000 * number, None),
    )


def profile(artifact: ArtifactRow, p50_ms: float) -> ProfileRow:
    """Where an artifact's time goes: adds are computed with the convolution before them."""
    rng, times, before = random.Random(artifact.label), [], ""
    for row in artifact.precision.layers:
        if row.op == "add":
            times[-1] = replace(times[-1], fused=(row.layer,))
            continue
        before = row.layer
        times.append(LayerTime(before, row.op, rng.uniform(0.2, 1.8) * (0.1 if row.op == "pool" else 1), ("k",)))
    scale = 0.93 * p50_ms / sum(one.ms for one in times)
    times = [replace(one, ms=one.ms * scale) for one in times]
    times.append(LayerTime("", "ReorderOutput", 0.04 * p50_ms, ("ReorderOutput",)))
    return ProfileRow(artifact.label, artifact.backend, "onnxruntime's profiler", tuple(times), p50_ms)


def enriched(report: RunReport) -> RunReport:
    """The report with everything that this release measures."""
    timing = report.benchmark
    assert timing
    rows = tuple(timed(row, number) for number, row in enumerate(timing.latencies))
    p50 = {(row.label, row.backend): row.p50_ms for row in rows}
    final = {row.backend: row for row in report.artifacts}.values()
    profiles = tuple(profile(row, p50[row.label, row.backend]) for row in final if (row.label, row.backend) in p50)
    roofs = tuple(
        RoofRow(
            row.label,
            row.backend,
            1800 / row.p50_ms / (2 + n % 3),
            "compute" if n % 5 else "memory",
            0.71 - 0.06 * (n % 9),
        )
        for n, row in enumerate(rows)
    )
    more = replace(timing, latencies=rows, profiles=profiles, roofs=roofs, **conditions())
    layers = report.artifacts[0].precision.layers
    seen = tuple(replace(row, verification=replace(row.verification, rung="L2")) for row in report.artifacts)
    return replace(report, artifacts=seen, benchmark=more, network=looked_at(layers, report.model))


def conditions() -> dict[str, object]:
    """The machine's peaks and conditions."""
    return {
        "peaks": Peaks(fp32_gmacs=86.4, int8_gmacs=312.7, bandwidth_gbs=14.2),
        "conditions": {
            "governor": "performance",
            "turbo": "unavailable",
            "processor quota": "2.0 of 4 cores",
            "load before": "0.31",
            "clock": "2.69 to 2.70 GHz",
            "temperature": "unavailable",
            "swapped": "0 B",
        },
    }


def biggest(report: RunReport) -> RunReport:
    """ResNet-50 in six backends, every stage exported and timed, everything measured."""
    assert report.benchmark
    artifacts, latencies = [], []
    for number, backend in enumerate(BACKENDS):
        for row, latency in zip(report.artifacts, report.benchmark.latencies, strict=True):
            layers = bottlenecks(int8=row.label.endswith("quantize"))
            ops = {"QLinearConv": 53, "QLinearAdd": 16, "MaxPool": 1, "Gemm": 1}
            correct = 38_100 - 37 * number - 90 * int(row.label[:2])
            verification = replace(row.verification, backend=backend, accuracy=Proportion(correct, 50_000))
            precision = PrecisionReport(layers, ops)
            artifacts.append(replace(row, backend=backend, precision=precision, verification=verification))
            factor = 1 + 0.35 * number
            p50 = [latency.p50_ms * factor, latency.p50_low_ms * factor, latency.p50_high_ms * factor]
            ecdf = tuple(factor * value for value in latency.ecdf_ms)
            ratio = [latency.ratio * factor, latency.ratio_low * factor, latency.ratio_high * factor]
            latencies.append(
                replace(
                    latency,
                    backend=backend,
                    **dict(zip(("p50_ms", "p50_low_ms", "p50_high_ms"), p50, strict=True)),
                    **dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True)),
                    p90_ms=p50[0] * 1.08,
                    ecdf_ms=ecdf,
                )
            )
    timing: BenchmarkRow = replace(report.benchmark, latencies=tuple(latencies))
    whole = replace(report, name="imagenet-resnet50", artifacts=tuple(artifacts), benchmark=timing)
    return enriched(replace(whole, model="torchvision resnet50, 1000 classes", data="imagenet"))
