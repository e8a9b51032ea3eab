"""This machine's own roofline, and how near artifacts come to it (Williams et al. 2009, doi:10.1145/1498765.1498785).

``roofline`` is another matter: it models devices that are not at hand.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from rescompress.artifact import Artifact, Manifest
from rescompress.benchmarking.conditions import on_gpu
from rescompress.errors import WorkerCrashed
from rescompress.spec import BYTES, LayerCost
from rescompress.timing import LatencyRow, Peaks, RoofRow

TIMEOUT_S = 120
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that say how many threads matrix libraries take."""
ELSEWHERE = ("coreml",)
"""Backends that may compute on more than the processor."""


def measured(threads: int) -> Peaks:
    """What this machine does at most, measured in a fresh process within some seconds.

    Args:
        threads: that each matrix product and copy may use.

    Raises:
        WorkerCrashed: the process died, or gave no answer.
    """
    command = [sys.executable, "-m", "rescompress.benchmarking.peak_kernels", str(threads)]
    environment = {**os.environ, **dict.fromkeys(POOLS, str(threads))}
    remedy = "Leave the profile out, or look which matrix library fails on this machine."
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_S, text=True)
    except subprocess.TimeoutExpired:
        raise WorkerCrashed(f"The peaks of this machine took more than {TIMEOUT_S} s.", remedy) from None
    try:
        return TypeAdapter(Peaks).validate_json((done.stdout.splitlines() or [""])[-1])
    except ValidationError:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        fact = f"The process that measured this machine's peaks ended with status {done.returncode}: {said}."
        raise WorkerCrashed(fact, remedy) from None


def roofs(
    artifacts: Sequence[Artifact],
    latencies: Sequence[LatencyRow],
    precisions: Sequence[Mapping[str, str]],
    batch: int,
    peaks: Peaks,
) -> tuple[RoofRow, ...]:
    """What share of its roof each artifact reached, where that can be told.

    It can't of what doesn't run on the processor, of layers in other floats than FP32, and of artifacts whose manifest
    is older than this and doesn't say what its layers cost.

    Args:
        artifacts: as many as there are latencies.
        latencies: of one query.
        precisions: of each artifact's layers, by name, as audited.
        batch: images per query.
        peaks: on as many threads as the artifacts had.
    """
    rows = []
    for artifact, latency, known in zip(artifacts, latencies, precisions, strict=True):
        manifest = artifact.manifest
        told = {known.get(layer.layer, "unknown") for layer in manifest.costs}
        if told and told <= {"fp32", "int8"} and not on_gpu(manifest) and manifest.backend not in ELSEWHERE:
            seconds, bound = roof(manifest.costs, known, _ends_bytes(manifest), batch, peaks)
            macs = batch * sum(layer.macs for layer in manifest.costs)
            taken = latency.p50_ms / 1e3
            rows.append(RoofRow(latency.label, latency.backend, macs / taken / 1e9, bound, seconds / taken))
    return tuple(rows)


def roof(
    costs: Sequence[LayerCost], precisions: Mapping[str, str], ends_bytes: int, batch: int, peaks: Peaks
) -> tuple[float, Literal["compute", "memory"]]:
    """The shortest time that one query could take, in seconds, and what bounds it.

    That is the later of two: when all layers have computed at the peaks of their precisions, one after another; and
    when what no cache can save has been moved: each weight once a query, what goes in, and what comes out. The values
    between the layers are left out, as they may stay in the caches; so may the weights of a small network.

    Args:
        costs: of each convolution and linear layer, for one image.
        precisions: ``fp32`` or ``int8`` of each.
        ends_bytes: of one image as it goes in and what comes out.
        batch: images per query.
        peaks: of the machine.
    """
    rates = {"fp32": peaks.fp32_gmacs * 1e9, "int8": peaks.int8_gmacs * 1e9}
    compute = sum(batch * layer.macs / rates[precisions[layer.layer]] for layer in costs)
    memory = (sum(_weight_bytes(layer, precisions) for layer in costs) + batch * ends_bytes) / peaks.bandwidth_gbs / 1e9
    return max(compute, memory), "compute" if compute >= memory else "memory"


def _weight_bytes(layer: LayerCost, precisions: Mapping[str, str]) -> float:
    """Of a layer's weights as they are read: stored integers, or floats of the width that the layer computes in."""
    wide = layer.weight_bits == 8 * BYTES["fp32"]
    return layer.weight_bytes * BYTES[precisions[layer.layer]] / BYTES["fp32"] if wide else layer.weight_bytes


def _ends_bytes(manifest: Manifest) -> int:
    """What one image takes, and its logits or probabilities; maps aren't counted."""
    pixels = prod(manifest.model.input_shape)
    classes = manifest.model.classes if manifest.model.output == "logits" else 0
    return pixels * (1 if manifest.takes_pixels else BYTES["fp32"]) + classes * BYTES["fp32"]
