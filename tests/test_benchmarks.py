"""The published comparison: its page is what the results say, and nobody is called first who isn't."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import photos
import published
import pytest
import readme
from peers import table, timing
from sections import calibration_cost, harness_honesty

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
    assert "| slower | 8 | 1 | 4.0 | - | 4.0 | 50 | -, first, not first |" in lines
    assert "died after 1.0 s: MemoryError" in lines


def test_who_starts_from_a_made_graph_is_charged_for_it() -> None:
    alike = {"images": 8, "cpus": 1}
    ours = {"tool": calibration_cost.OURS, **alike, "seconds": 3.0, "cpu_s": 3.0, "peak_mb": 100}
    other = {"tool": "other", **alike, "seconds": 2.0, "cpu_s": 2.0, "peak_mb": 50}
    export = {"tool": calibration_cost.EXPORT, **alike, "seconds": 2.5, "cpu_s": 2.5, "peak_mb": 50}
    lines = "\n".join(calibration_cost.lines({"rows": [ours, other, export]}))
    assert "| other | 8 | 1 | 2.0 | 4.5 | 2.0 | 50 | first, not first, not first |" in lines
    assert f"| {calibration_cost.OURS} | 8 | 1 | 3.0 | 3.0 | 3.0 | 100 | - |" in lines


def test_each_photo_counts_where_it_did_not_calibrate() -> None:
    """FP32 tells all four images right; what calibrated on the first two is wrong on the first and on the third."""
    labels, split = np.zeros(4, int), np.array([0, 0, 1, 1])
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    reference = np.array([right] * 4)
    found = [np.array([wrong, right, wrong, right]), reference]
    row = photos.judged(reference, found, labels, split)
    assert row["each"] == [50.0, 0.0]
    assert (row["accuracy"], row["drop"], row["agreement"]) == (100.0, 25.0, 75.0)
    assert row["low"] < 25.0 < row["high"]
    assert row["high"] - 25.0 == pytest.approx(1.96 * 50 / 2, abs=1e-3)


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


def test_foreign_artifacts_are_judged_by_the_harness_s_own_rules() -> None:
    rng = np.random.default_rng(0)

    def blocks(ms: float) -> list[Any]:
        return [(1e6 * ms * (1 + 0.001 * rng.standard_normal(20))).astype(np.int64) for _ in range(4)]

    asked = [timing.Candidate(name, "onnxruntime", Path("model.onnx")) for name in ("fp32", "ours", "peer")]
    done = [[blocks(ms) for ms in (2.0, 1.0, 1.25, 2.0)] for _ in range(5)]
    fp32, ours, peer = timing.rows(asked, done)
    assert (fp32["ratio"][0], ours["ratio"][0], peer["ours"][0]) == pytest.approx((1, 0.5, 0.8), abs=0.01)
    assert peer["ours"][1] <= peer["ours"][0] <= peer["ours"][2]
    said = timing.verdict([*asked, asked[0]], done, None)
    assert said["verdict"] == "VALID", said["reasons"]
    assert said["noise_floor"] < 0.01
