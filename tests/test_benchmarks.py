"""The published comparison: its page is what the results say, and nobody is called first who isn't."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import front
import gpu
import numpy as np
import pipeline
import published
import pytest
import readme
import torch
from hypothesis import given
from hypothesis import strategies as st
from peers import table
from sections import calibration_cost, harness_honesty

import rescompress
from rescompress import models, recipe
from rescompress.artifact import digest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def parts(found: Any) -> Any:
    """Every mapping inside."""
    if isinstance(found, dict):
        yield found
        found = list(found.values())
    for inner in found if isinstance(found, list) else []:
        yield from parts(inner)


def test_the_page_is_what_the_results_say() -> None:
    assert readme.PAGE.read_text("utf-8") == readme.page(), "Run: python benchmarks/readme.py"


def test_every_result_is_on_the_page_and_every_script_has_a_docstring_with_its_command() -> None:
    assert {file.stem for file in RESULTS} <= set(readme.ORDER)
    for name in readme.ORDER:
        if (ROOT / "benchmarks" / f"{name}.py").is_file():
            assert f"    python benchmarks/{name}.py" in (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_results_have_their_schema_and_the_machine_s_fingerprint(file: Path) -> None:
    found = json.loads(file.read_text("utf-8"))
    assert found["schema"] == published.SCHEMA
    for mark, machine in found["machines"].items():
        assert mark == digest(machine)[:16]
    assert set(published.marks(found)) == set(found["machines"])
    assert not any("environment" in part for part in parts(found))


def test_a_machine_is_kept_once_and_as_long_as_a_row_is_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    assert published.read("one") == {}
    old = {"environment": {"cpu": "old"}, "fingerprint": "f"}
    published.write("one", {"rows": [{"a": 1, **old}, {"a": 2, **old}]})
    kept = published.read("one")
    assert kept == {
        "schema": published.SCHEMA,
        "rows": [{"a": 1, "fingerprint": "f"}, {"a": 2, "fingerprint": "f"}],
        "machines": {"f": {"cpu": "old"}},
    }
    here = published.here()
    for again in ([{"a": 2, **here}], [{"a": 1, **here}]):
        published.write("one", {"rows": published.replaced(published.read("one")["rows"], again, "a")})
        machines = published.read("one")["machines"]
        assert machines[here["fingerprint"]]["cores"] >= 1
        assert ("f" in machines) == (again[0]["a"] == 2)


def test_rows_that_were_measured_again_take_the_place_of_the_old() -> None:
    before = [{"a": 1, "b": 1, "x": "old"}, {"a": 1, "b": 2, "x": "old"}]
    assert published.replaced(before, [{"a": 1, "b": 1, "x": "new"}], "a", "b") == [
        before[1],
        {**before[0], "x": "new"},
    ]


def entry(**peer: Any) -> dict[str, Any]:
    """A network with one peer in ONNX Runtime."""
    timed = {"artifact": "peer", "runtime": "onnxruntime", "ours": peer.get("ours")}
    judged = [
        {"artifact": "ours", "runtime": "onnxruntime", "drop": 0.5},
        {"artifact": "peer", "runtime": "onnxruntime", "drop": peer.get("drop", 0.5), "p": peer.get("p", 1.0)},
    ]
    costs = {"ours": peer.get("mine", {}), "peer": peer.get("theirs", {}), "fp32": peer.get("fp32", {})}
    latency = {"rows": [timed], "noise_floor": peer.get("floor", 0.0)}
    return {"accuracy": {"rows": judged}, "latency": latency, "artifacts": costs}


@pytest.mark.parametrize(
    ("ours", "floor", "word"),
    [
        ([0.9, 0.85, 0.95], 0.02, "first"),
        ([1.1, 1.05, 1.15], 0.02, "not first"),
        ([0.9, 0.79, 1.01], 0.02, "tied"),
        ([1.03, 1.01, 1.05], 0.04, "tied"),  # two copies of FP32 differed by more
        ([0.995, 0.991, 0.999], 0.0, "tied"),  # less than 1 % is no difference
        (None, 0.0, "-"),
    ],
)
def test_latency_is_told_apart_by_interval_and_noise_floor(ours: Any, floor: float, word: str) -> None:
    assert table.WORDS[table.latency(entry(ours=ours, floor=floor), "peer", "onnxruntime")] == word


@pytest.mark.parametrize(("drop", "p", "word"), [(0.2, 0.3, "tied"), (0.2, 0.01, "not first"), (0.9, 0.01, "first")])
def test_accuracy_is_told_apart_by_mcnemar(drop: float, p: float, word: str) -> None:
    assert table.WORDS[table.accuracy(entry(drop=drop, p=p), "peer", "onnxruntime")] == word


def test_costs_are_compared_with_the_export_of_fp32_on_the_peers_side() -> None:
    cost = entry(mine={"cpu_s": 10.0, "bytes": 101}, theirs={"cpu_s": 4.0, "bytes": 100}, fp32={"cpu_s": 8.0})
    assert table.cpu_seconds(cost, "peer", "onnxruntime") == 1
    assert table.size(cost, "peer", "onnxruntime") == -1
    assert table.memory(cost, "peer", "onnxruntime") is None


def test_nobody_is_called_first_while_a_peer_is_ahead() -> None:
    for network in published.read("int8_cpu")["networks"].values():
        for sentence in table.standing(network):
            ahead = [
                name
                for name, runtime in table.keys(network)
                for column, told in table.COMPARED.items()
                if sentence.startswith(f"{runtime}, {column}:") and table.is_peer(name)
                if told(network, name, runtime) == -1
            ]
            if sentence.split(", ")[1].split(":")[0] in table.COMPARED:
                assert ("not first" in sentence) == bool(ahead), sentence


def test_a_calibration_that_died_stands_in_its_row() -> None:
    alike = {"images": 8, "cpus": 1}
    ours = {"tool": calibration_cost.OURS, **alike, "seconds": 3.0, "cpu_s": 3.0, "peak_mb": 100}
    slower = {"tool": "slower", **alike, "seconds": 4.0, "cpu_s": 4.0, "peak_mb": 50}
    dead = {"tool": "dead", **alike, "died": "MemoryError", "seconds": 1.0}
    lines = "\n".join(calibration_cost.lines({"rows": [ours, slower, dead]}))
    assert "| slower | 8 | 1 | 4.0 | 4.0 | 50 | first, not first |" in lines
    assert "died after 1.0 s: MemoryError" in lines


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


README = (ROOT / "README.md").read_text("utf-8")


def section(title: str) -> str:
    """One section of the main README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_main_readme_s_changes_by_pruning_are_the_measured_ones() -> None:
    measured = {
        f"{part['change']:+.2f} [{part['low']:+.2f}, {part['high']:+.2f}]"
        for part in parts(published.read("pruning"))
        if "high" in part and "change" in part
    }
    claimed = re.findall(r"[+-]\d+\.\d\d \[[+-]\d+\.\d\d, [+-]\d+\.\d\d\]", section("What pruning costs"))
    assert claimed
    assert set(claimed) <= measured


NUMBER = re.compile(r"[+-]?\d+\.\d+")


def test_the_main_readme_s_int8_table_is_the_measured_one() -> None:
    networks = published.read("int8_cpu")["networks"]
    columns = ("drop", "high", "low", "agreement")
    measured = [
        [sign * row[column] for sign, column in zip((-1, -1, -1, 1), columns, strict=True)]
        for network in networks.values()
        for row in network["accuracy"]["rows"]
    ]
    rows = [line for line in section("What INT8 costs").splitlines() if " dB" in line and line.startswith("|")]
    assert rows
    for row in rows:
        claimed = [float(number) for cell in row.split("|")[3:5] for number in NUMBER.findall(cell)]
        assert any(np.allclose(claimed, one, rtol=0, atol=0.0051) for one in measured), row


def test_what_the_harness_missed_is_said() -> None:
    counts = {"false_alarms": 1, "found_5_percent": 44, "found_10_percent": 50, "equal_interval_holds_1": 48}
    detection = {name: {"count": count, "of": 50, "percent": [0.1, 99.9]} for name, count in counts.items()}
    runs = [{"verdict": "VALID"}, {"verdict": "INDICATIVE"}, {"verdict": "VALID"}]
    overhead = {"harness_by_plain_loop": [1.012, 1.003, 1.02], "outside_the_clock": 0.0123}
    found = {"detection": {**detection, "launches": [5, 9], "seconds": 90, "runs": runs}, "overhead": overhead}
    lines = "\n".join(harness_honesty.lines(found))
    assert "| 1 of 50 | 2.0% [0.1, 99.9] | at most 2%: reached |" in lines
    assert "| 44 of 50 | 88.0% [0.1, 99.9] | at least 90%: **not reached** |" in lines
    assert "| 50 of 50 | 100.0% [0.1, 99.9] | at least 99%: reached |" in lines
    assert "verdicts: 2 VALID, 1 INDICATIVE" in lines
    assert "+1.20% [+0.30%, +2.00%]; below 1%: **not reached**" in lines


def test_the_front_s_section_shows_every_recipe_and_what_failed() -> None:
    common = {"stages": [], "macs": 4.1e7, "ratio": [0.5, 0.4, 0.6], "rung": "L2"}
    rows = [{**point(90.0, 1.0, 2000), **common, "front": True, "failures": []}]
    rows += [{**point(80.0, 2.0, 3000), **common, "front": False, "failures": ["SQNR is 3 dB."]}]
    timing = {"verdict": "VALID", "reasons": []}
    found = {"rows": rows, "timing": timing, "epochs": 1, "test_images": 1000}
    lines = "\n".join(readme.section("pipeline", found))
    assert "| 1 | r | 90.00 [87.98, 91.71] | 41.0 M | 2 | 1.000 ms | 0.50 [0.40, 0.60] | L2 | yes |" in lines
    assert "| 2 | r | 80.00" in lines
    assert "Verification failed: r: SQNR is 3 dB." in lines


def test_every_recipe_of_the_front_is_one(tmp_path: Path) -> None:
    chains = {**pipeline.on_cifar10("a.th", str(tmp_path / "b.safetensors"), 1), **pipeline.on_digits()}
    for model, stages in chains.values():
        assert recipe.parse({"name": "one", "model": model, "data": "digits", "stages": stages, "export": "onnx"})
    assert len({pipeline.slug(name) for name in chains}) == len(chains)
