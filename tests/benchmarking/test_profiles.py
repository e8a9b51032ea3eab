"""Profiles beside a benchmark: each artifact in one more process, roofs from what was timed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rescompress.artifact import SCHEMA, Manifest, write_artifact
from rescompress.benchmarking import benchmark, candidates, peaks, profiles
from rescompress.spec import LayerCost
from rescompress.timing import BenchmarkRow, LatencyRow, Peaks
from tests.benchmarking.conftest import MODEL

COSTS = (
    LayerCost("conv1", "conv", (4, 8, 8), 0, 20_000_000, 8, 4),
    LayerCost("fc", "linear", (10,), 0, 5_000_000, 32, 4),
)


@pytest.fixture
def made(fake_backends: None, tmp_path: Path) -> Callable[[str], Path]:
    def make(backend: str) -> Path:
        def fill(folder: Path) -> str:
            (folder / "entry").touch()
            return "entry"

        def describe(entry: str, files: dict[str, str]) -> Manifest:
            known = (SCHEMA, "0", backend, backend, "fp32", entry, files, MODEL, "none", "0" * 64, "key")
            return Manifest(*known, {}, (), COSTS)

        return write_artifact(tmp_path / backend, fill, describe).folder

    return make


def test_what_is_told_is_added_and_what_is_not_is_left_out(
    made: Callable[[str], Path], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SimpleNamespace(threads=0)
    monkeypatch.setattr(peaks, "measured", lambda threads: vars(asked).update(threads=threads) or Peaks(50, 200, 1e9))
    taking_part = candidates.gathered([made("telling"), made("mute")], images, batch=2)
    latencies = tuple(
        LatencyRow(name, name, 9, 1.0, 1.0, 1.0, None, 1.0, 0.0, 1.0, 1.0, 1.0, ()) for name in ("telling", "mute")
    )
    plain = BenchmarkRow(2, 3, 5, latencies, 0.01, "VALID", (), "")
    row = profiles.explained(plain, taking_part)
    (profile,) = row.profiles
    assert (profile.label, profile.backend, profile.total_ms) == ("telling", "telling", 100.0)
    assert [(layer.layer, layer.op, layer.ms, layer.fused) for layer in profile.layers] == [
        ("conv1", "conv", 3.0, ("add",)),
        ("fc", "linear", 2.0, ()),
    ]
    assert asked.threads == 3
    assert [(roof.label, roof.bound) for roof in row.roofs] == [("telling", "compute"), ("mute", "compute")]
    assert row.roofs[0].gmacs == pytest.approx(50.0)
    assert row.roofs[0].fraction == pytest.approx((2 * 20 / 200 + 2 * 5 / 50) / 1000 / 1e-3)
    assert replace(row, profiles=(), peaks=None, roofs=()) == plain
    queued = profiles.explained(replace(plain, scenario="server"), taking_part)
    assert (len(queued.profiles), queued.peaks, queued.roofs) == (1, None, ())


@pytest.mark.slow
def test_a_benchmark_profiles_if_asked(
    made: Callable[[str], Path], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peaks, "measured", lambda threads: Peaks(50, 200, 1e9))
    few = {"launches": 2, "max_launches": 2, "blocks": 1, "block_seconds": 0.001}
    row, _ = benchmark([made("telling")], images, **few, batch=2, profile=True)
    assert [profile.layers[1].ms for profile in row.profiles] == [2.0]
    assert row.roofs[0].gmacs == pytest.approx(2 * 25e6 / row.latencies[0].p50_ms / 1e6)
    plain, _ = benchmark([made("telling")], images, **few)
    assert (plain.profiles, plain.peaks, plain.roofs) == ((), None, ())
