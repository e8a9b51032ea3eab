"""The front of the whole chain and the GPU's script: what they compute, and that they run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import front
import gpu
import numpy as np
import pipeline
import pytest
import readme
import torch
from hypothesis import given
from hypothesis import strategies as st

import rescompress
from rescompress import models, recipe

ROOT = Path(__file__).resolve().parents[1]


def point(percent: float, ms: float, size: int) -> dict[str, Any]:
    accuracy = {"correct": int(10 * percent), "total": 1000}
    return {"recipe": "r", "accuracy": accuracy, "p50_ms": [ms, ms, ms], "size_bytes": size}


COORDINATE = st.integers(1, 6)


@given(st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE), min_size=1, max_size=8))
def test_the_front_holds_what_nothing_beats(points: list[tuple[int, int, int]]) -> None:
    rows = [point(10.0 * good, float(ms), size) for good, ms, size in points]
    for (good, ms, size), on_it in zip(points, front.pareto(rows), strict=True):
        better = [
            (g, m, s) for g, m, s in points if g >= good and m <= ms and s <= size and (g > good or m < ms or s < size)
        ]
        assert on_it == (not better)


def test_the_picture_is_the_same_each_time_and_shows_every_row(tmp_path: Path) -> None:
    rows = [{**point(90.0, 1.0, 100), "front": True}, {**point(80.0, 2.0, 300), "front": False}]
    rows += [{**point(95.0, 4.0, 900), "front": True}]
    for name in ("a.svg", "b.svg"):
        front.draw(rows, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text("utf-8")
    assert drawn == (tmp_path / "b.svg").read_text("utf-8")
    assert drawn.count('id="PathCollection_') == len(rows)


@pytest.mark.slow
def test_the_front_runs_on_the_shipped_network(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    brief = {"launches": 2, "blocks": 2, "block_seconds": 0.01}
    chains = dict(list(pipeline.on_digits().items())[:2])
    found = pipeline.measured(chains, {"digits": {}}, tmp_path, **brief)
    fp32, int8 = found["rows"]
    assert [row["recipe"] for row in found["rows"]] == list(chains)
    assert all(row["rung"] == "L2" and not row["failures"] for row in found["rows"])
    assert int8["size_bytes"] < 0.4 * fp32["size_bytes"]
    assert any(row["front"] for row in found["rows"])


def test_where_there_is_no_gpu_its_script_says_so_in_a_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("There is a GPU here.")
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, gpu.NO_GPU)


def test_the_roof_is_each_layer_s_slower_half() -> None:
    model = models.build(models.spec("cifar", "resnet8", 10), 0)
    costs, of = rescompress.layer_costs(model), {"gmacs": {"fp16": 50.0}, "bandwidth_gbs": 4.0}
    moved = [2 * (cost.params + 6 * int(np.prod(cost.output_shape))) / 4e9 for cost in costs]
    multiplied = [3 * cost.macs / 50e9 for cost in costs]
    assert gpu.roof_ms(model, 3, "fp16", of) == pytest.approx(1e3 * sum(map(max, moved, multiplied)))
    assert any(a > b for a, b in zip(moved, multiplied, strict=True))
    assert any(a < b for a, b in zip(moved, multiplied, strict=True))


def test_peaks_are_measured_in_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.SIDE, "cpu", 64)
    monkeypatch.setitem(gpu.COPIED, "cpu", 2**20)
    found = gpu.peaks("cpu", ("fp32", "bf16"))
    assert set(found["gmacs"]) == {"fp32", "bf16"}
    assert min(found["bandwidth_gbs"], *found["gmacs"].values()) > 0


TINY = {"launches": 2, "blocks": 1, "block_seconds": 0.01}


def shown(plan: gpu.Plan) -> list[dict[str, Any]]:
    """What a plan gives, checked, and rendered once."""
    found = gpu.measured(plan)
    asked = [(name, batch) for name in plan.networks for batch in plan.batches]
    assert [(run["network"], run["batch"]) for run in found["runs"]] == asked
    assert len(found["rows"]) == len(asked) * len(plan.modes) * len(plan.floats)
    text = "\n".join(readme.section("gpu", {**found, "fingerprint": "f"}))
    assert text.count("of the roof") == 1
    return list(found["rows"])


@pytest.mark.slow
def test_the_gpu_s_script_runs_on_the_cpu_too() -> None:
    rows = shown(gpu.Plan("cpu", {"tiny": ("cifar", "resnet8")}, (2,), ("fp32", "bf16"), ("eager",), TINY))
    assert [row["compute_ms"] for row in rows] == [None, None]
    assert all(row["of_roof"] > 0 and row["ratio"][1] <= row["ratio"][0] <= row["ratio"][2] for row in rows)


@pytest.mark.gpu
def test_all_modes_run_on_a_gpu() -> None:
    networks = {"tiny": ("cifar", "resnet8")}
    rows = shown(gpu.Plan("cuda", networks, (1, 8), tuple(gpu.FLOATS), tuple(gpu.MODES), TINY))
    assert all(0 < row["compute_ms"] <= row["end_to_end_ms"][0] for row in rows)


def test_the_front_s_section_shows_every_recipe_and_what_failed() -> None:
    common = {"stages": [], "macs": 4.1e7, "ratio": [0.5, 0.4, 0.6], "rung": "L2"}
    rows = [{**point(90.0, 1.0, 2000), **common, "front": True, "failures": []}]
    rows += [{**point(80.0, 2.0, 3000), **common, "front": False, "failures": ["SQNR is 3 dB."]}]
    trusted = {"verdict": "VALID", "reasons": []}
    found = {"rows": rows, "timing": trusted, "epochs": 1, "test_images": 1000}
    lines = "\n".join(readme.section("pipeline", found))
    assert "| 1 | r | 90.00 [87.98, 91.71] | 41.0 M | 2 | 1.000 ms | 0.50 [0.40, 0.60] | L2 | yes |" in lines
    assert "| 2 | r | 80.00" in lines
    assert "Verification failed: r: SQNR is 3 dB." in lines


def test_every_recipe_of_the_front_is_one(tmp_path: Path) -> None:
    chains = {**pipeline.on_cifar10("a.th", str(tmp_path / "b.safetensors"), 1), **pipeline.on_digits()}
    for model, stages in chains.values():
        assert recipe.parse({"name": "one", "model": model, "data": "digits", "stages": stages, "export": "onnx"})
    assert len({pipeline.slug(name) for name in chains}) == len(chains)
