"""The machine's own roofline: what it was seen to do, and what a network could take at best, by hand."""

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.artifact import SCHEMA, Artifact, Manifest
from rescompress.benchmarking import peak_kernels, peaks
from rescompress.errors import WorkerCrashed
from rescompress.spec import LayerCost, ModelSpec, Preprocessing
from rescompress.timing import LatencyRow, Peaks

PEAKS = Peaks(fp32_gmacs=50.0, int8_gmacs=200.0, bandwidth_gbs=10.0)
MODEL = ModelSpec("fake", "none", 10, Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
CONV = LayerCost("conv1", "conv", (4, 8, 8), 1_000, macs=2_000_000, weight_bits=32, weight_bytes=4_000)
FC = LayerCost("fc", "linear", (10,), 1_000_000, macs=1_000_000, weight_bits=32, weight_bytes=4_000_000)
STORED = replace(FC, weight_bits=8, weight_bytes=1_000_400)
ENDS = 3 * 8 * 8 * 4 + 10 * 4


def latency(p50_ms: float) -> LatencyRow:
    return LatencyRow("a", "onnxruntime", 9, p50_ms, p50_ms, p50_ms, None, p50_ms, 0.0, 1.0, 1.0, 1.0, ())


def artifact(*costs: LayerCost, backend: str = "onnxruntime", **knobs: object) -> Artifact:
    known = (SCHEMA, "0", backend, "a", "fp32", "entry", {}, MODEL, "none", "0" * 64, "key", knobs, (), costs)
    return Artifact(Path("nowhere"), Manifest(*known))


def test_a_layer_computes_at_the_peak_of_its_precision() -> None:
    assert peaks.roof([CONV], {"conv1": "fp32"}, 0, 1, PEAKS) == (pytest.approx(40e-6), "compute")
    assert peaks.roof([CONV], {"conv1": "int8"}, 0, 1, PEAKS) == (pytest.approx(10e-6), "compute")


def test_mixed_precision_adds_times_up() -> None:
    """Two thirds of the MACs at 200 and a third at 50 make 100 GMAC/s, the harmonic mean; not 150."""
    small = replace(FC, weight_bytes=0)
    seconds, _ = peaks.roof([CONV, small], {"conv1": "int8", "fc": "fp32"}, 0, 1, PEAKS)
    assert 3e6 / seconds / 1e9 == pytest.approx(1 / (2 / 3 / 200 + 1 / 3 / 50)) == pytest.approx(100)


def test_weights_move_once_a_query_and_images_each() -> None:
    assert peaks.roof([FC], {"fc": "fp32"}, 0, 1, PEAKS) == (pytest.approx(400e-6), "memory")
    assert peaks.roof([FC], {"fc": "fp32"}, 5_000, 4, PEAKS) == (pytest.approx(402e-6), "memory")
    assert peaks.roof([FC], {"fc": "fp32"}, 5_000, 64, PEAKS) == (pytest.approx(1280e-6), "compute")
    assert peaks.roof([STORED], {"fc": "fp32"}, 0, 1, PEAKS) == (pytest.approx(100.04e-6), "memory")
    assert peaks.roof([FC], {"fc": "int8"}, 0, 1, PEAKS) == (pytest.approx(100e-6), "memory")


@given(st.integers(1, 10**12), st.integers(0, 10**9), st.integers(1, 64), st.floats(0.1, 1e4), st.floats(0.1, 1e4))
def test_the_roof_is_the_lower_of_peak_and_intensity_times_bandwidth(
    macs: int, weight_bytes: int, batch: int, peak: float, bandwidth: float
) -> None:
    machine = Peaks(peak, 1.0, bandwidth)
    layer = replace(CONV, macs=macs, weight_bytes=weight_bytes)
    seconds, bound = peaks.roof([layer], {"conv1": "fp32"}, 100, batch, machine)
    intensity = batch * macs / (weight_bytes + batch * 100)
    assert batch * macs / seconds / 1e9 == pytest.approx(min(peak, intensity * bandwidth))
    assert bound == ("compute" if peak <= intensity * bandwidth else "memory") or seconds == pytest.approx(
        batch * macs / peak / 1e9
    )


def test_a_row_says_what_was_reached() -> None:
    (row,) = peaks.roofs([artifact(CONV, FC)], [latency(2.0)], [{"conv1": "int8", "fc": "fp32"}], 1, PEAKS)
    assert (row.label, row.backend, row.bound) == ("a", "onnxruntime", "memory")
    assert row.gmacs == pytest.approx(3e6 / 2e-3 / 1e9)
    assert row.fraction == pytest.approx((4_000 / 4 + 4_000_000 + ENDS) / 10e9 / 2e-3)
    pixels = artifact(CONV, FC, preprocess=True)
    (row,) = peaks.roofs([pixels], [latency(2.0)], [{"conv1": "int8", "fc": "fp32"}], 1, PEAKS)
    assert row.fraction == pytest.approx((1_000 + 4_000_000 + 3 * 8 * 8 + 40) / 10e9 / 2e-3)


@pytest.mark.parametrize(
    ("one", "precisions"),
    [
        (artifact(), {}),
        (artifact(CONV), {}),
        (artifact(CONV), {"conv1": "fp16"}),
        (artifact(CONV, FC), {"conv1": "fp32"}),
        (artifact(CONV, backend="tensorrt"), {"conv1": "fp32"}),
        (artifact(CONV, backend="eager", device="cuda"), {"conv1": "fp32"}),
        (artifact(CONV, backend="coreml"), {"conv1": "fp32"}),
    ],
)
def test_what_cannot_be_told_has_no_roof(one: Artifact, precisions: dict[str, str]) -> None:
    assert peaks.roofs([one], [latency(1.0)], [precisions], 1, PEAKS) == ()


def test_the_best_of_several_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_kernels, "SECONDS", 0.0)
    naps = iter([0.02, 0.001, 0.02])
    assert 0.001 <= peak_kernels.best(lambda: time.sleep(next(naps))) < 0.02
    with pytest.raises(StopIteration):
        next(naps)


@pytest.mark.parametrize(("said", "size"), [("512K\n", 2 << 20), ("1048576K", 256 << 20), ("?", 128 << 20)])
def test_arrays_exceed_the_last_cache(said: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "size").write_text(said)
    monkeypatch.setattr(peak_kernels, "LAST_CACHE", tmp_path / "size")
    monkeypatch.setattr(peak_kernels.os, "sysconf", lambda name: 1 << 18)
    assert peak_kernels._array_bytes() == size


@pytest.mark.parametrize("answer", ["", "no JSON"])
def test_a_process_that_dies_is_told_of(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 3, stdout=answer, stderr="first\nIllegal instruction")
    monkeypatch.setattr(peaks.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(WorkerCrashed, match="ended with status 3: Illegal instruction"):
        peaks.measured(1)


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "TIMEOUT_S", 0.01)
    with pytest.raises(WorkerCrashed, match=r"more than 0\.01 s"):
        peaks.measured(1)


@pytest.mark.slow
def test_this_machine_does_what_it_was_seen_to_do() -> None:
    """Half of what NumPy reaches is a loose bound, for a machine that is busy with other things."""
    found = peaks.measured(os.cpu_count() or 1)  # as many as NumPy may take here
    a = np.random.default_rng(0).standard_normal((256, 256), np.float32)
    naive = 256**3 / min(_seconds(a) for _ in range(20)) / 1e9
    assert found.fp32_gmacs > 0.5 * naive
    assert found.int8_gmacs > 0
    assert 0.1 < found.bandwidth_gbs < 10_000


def _seconds(a: np.ndarray) -> float:
    begin = time.perf_counter()
    a @ a
    return time.perf_counter() - begin
