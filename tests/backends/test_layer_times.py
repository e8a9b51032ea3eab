"""From kernels to layers: what is booked where, and what ONNX Runtime's and OpenVINO's numbers mean."""

import json
from typing import Any

import pytest

from rescompress.backends import _layer_times as times
from rescompress.backends import _openvino_profile
from rescompress.backends._layer_times import LEAST_RUNS, MOST_RUNS, WARM_UP, Kernel, booked, repeated

KINDS = {"conv1": "conv", "conv2": "conv", "add": "add", "pool": "pool", "fc": "linear"}


def test_a_kernel_is_booked_under_its_weights_and_conversions_stand_at_the_end() -> None:
    found = booked(
        [
            Kernel("quantize", "Quantize", 0.5),
            Kernel("one", "Conv", 1.0, ("relu", "conv1")),
            Kernel("two", "Conv", 2.0, ("add", "conv2")),
            Kernel("reorder", "Reorder", 0.25, ("move", "turn")),
            Kernel("mean", "Pool", 3.0, ("pool",)),
            Kernel("product", "MatMul", 4.0, ("fc",)),
            Kernel("bias", "Add", 0.125, ("fc",)),
        ],
        KINDS,
    )
    assert [(each.layer, each.op, each.ms) for each in found] == [
        ("conv1", "conv", 1.0),
        ("conv2", "conv", 2.0),
        ("pool", "pool", 3.0),
        ("fc", "linear", 4.125),
        ("quantize", "Quantize", 0.5),
        ("move", "Reorder", 0.25),
    ]
    assert [each.fused for each in found] == [(), ("add",), (), (), (), ()]
    assert found[3].kernels == ("product", "bias")


def test_a_query_is_repeated_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(times.time, "monotonic", lambda: next(seconds))
    ran: list[int] = []
    assert repeated(lambda: ran.append(1)) == LEAST_RUNS
    assert len(ran) == WARM_UP + LEAST_RUNS
    monkeypatch.setattr(times.time, "monotonic", lambda: 0.0)
    assert repeated(lambda: None) == MOST_RUNS


def test_openvinos_counters_are_freed_of_the_warm_up() -> None:
    """A layer that takes 700 us while it warms up and 90 us then; the counters tell the mean of all runs."""
    spent: list[float] = []

    def counters() -> dict[str, float]:
        return {"conv1/WithoutBiases": sum(spent) // len(spent), "turn": 3.0}

    found, total = _openvino_profile.read(
        lambda: spent.append(700.0 if len(spent) < WARM_UP else 90.0),
        counters,
        1,
        {"conv1/WithoutBiases": ("conv1", "relu"), "turn": ()},
        {"conv1/WithoutBiases": "Convolution", "turn": "Reorder"},
        KINDS,
    )
    assert [(each.layer, each.op) for each in found] == [("conv1", "conv"), ("turn", "Reorder")]
    assert found[0].ms == pytest.approx(0.090, abs=0.002)
    assert found[1].ms == pytest.approx(0.003, abs=0.002)
    assert total > 0


def events(runs: list[list[tuple[str, str, int]]]) -> str:
    """A file as ONNX Runtime's profiler writes it: each run's kernels, then the run."""
    said: list[dict[str, Any]] = [{"name": "model_loading_uri", "cat": "Session", "dur": 999, "args": {}}]
    for run in runs:
        for place, (name, op, dur) in enumerate(run):
            args = {"op_name": op, "node_index": str(place)}
            said.append({"name": f"{name}_kernel_time", "cat": "Node", "dur": dur, "args": args})
        said.append({"name": "SequentialExecutor::Execute", "cat": "Session", "dur": 7, "args": {}})
        said.append({"name": "model_run", "cat": "Session", "dur": sum(dur for *_, dur in run) + 10, "args": {}})
    return json.dumps(said)


def test_onnx_runtimes_events_become_layers_fused_ones_too() -> None:
    onnx = pytest.importorskip("onnx")
    from rescompress.backends import _onnxruntime_profile

    def graph_of(*nodes: tuple[str, str, list[str], list[str]]) -> Any:
        made = [onnx.helper.make_node(op, come, go, name) for op, name, come, go in nodes]
        return onnx.helper.make_graph(made, "g", [], [])

    exported = graph_of(
        ("Conv", "conv1", ["x", "w1"], ["a"]),
        ("Relu", "relu", ["a"], ["b"]),
        ("Conv", "conv2", ["b", "w2"], ["c"]),
        ("Conv", "shortcut", ["b", "w3"], ["d"]),
        ("Add", "add", ["c", "d"], ["e"]),
        ("Relu", "relu_1", ["e"], ["f"]),
        ("Flatten", "reshape", ["f"], ["g"]),
        ("Gemm", "linear", ["g", "w4"], ["y"]),
    )
    built = graph_of(
        ("Conv", "relu_nchwc", ["x", "w"], ["t0"]),
        ("Conv", "shortcut_nchwc", ["t0", "w"], ["t1"]),
        ("Conv", "conv2_nchwc", ["t0", "w", "", "t1"], ["t2"]),
        ("ReorderOutput", "ReorderOutput", ["t2"], ["f"]),
        ("Flatten", "reshape", ["f"], ["g"]),
        ("FusedGemm", "fused", ["g", "w4"], ["linear/out"]),
    )
    names = [(node.name, node.op_type) for node in built.node]
    usual = [(name, op, 10 * place + 10) for place, (name, op) in enumerate(names)]
    slow = [(name, op, 9000) for name, op in names]
    found, total = _onnxruntime_profile.read(events([slow] * WARM_UP + [usual, slow, usual]), exported, built, 3)
    assert [(each.layer, each.op, each.ms, each.fused) for each in found] == [
        ("conv1", "conv", 0.01, ()),
        ("shortcut", "conv", 0.02, ()),
        ("conv2", "conv", 0.03, ("add",)),
        ("linear", "linear", 0.06, ()),
        ("ReorderOutput", "ReorderOutput", 0.04, ()),
        ("reshape", "Flatten", 0.05, ()),
    ]
    assert total == pytest.approx(0.22)
    twice, total = _onnxruntime_profile.read(events([usual] * 2 * (WARM_UP + 4)), exported, built, 4)
    assert twice[0].ms == 0.02
    assert total == pytest.approx(0.44)
