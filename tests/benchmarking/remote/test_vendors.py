"""The vendors' tools: what they are asked, and what is read off documented output. Only benchmark_app is executed."""

import json
import shlex

import pytest

from rescompress.artifact import open_artifact
from rescompress.benchmarking import benchmark
from rescompress.benchmarking.remote import vendors
from rescompress.errors import InputRefused
from rescompress.pipeline.proof import export_artifact
from tests.benchmarking.remote.conftest import artifact_of, network
from tests.networks import fused

PYTHON_APP = """\
[Step 10/11] Measuring performance (Start inference synchronously, limits: 1000 ms duration)
[ INFO ] First inference took 7.77 ms
[ INFO ] Latency:
[ INFO ]    Median:        0.31 ms
[ INFO ]    Average:       1.61 ms
"""
CPP_APP = "[ INFO ] Latency:\n[ INFO ] \tMedian:     12.50 ms\n[ INFO ] \tAverage:    12.61 ms\n"
OLD_MODEL = """\
count=2 first=339304 curr=266325 min=266325 max=339304 avg=302814 std=36489
count=50 first=266601 curr=266931 min=265837 max=268116 avg=266473 std=419
Inference timings in us: Init: 20283, First inference: 339304, Warmup (avg): 302814, Inference (avg): 266473
"""
NEW_MODEL = """\
INFO: count=1000 first=52162 curr=49785 min=49088 max=686105 avg=63743.2 std=60716 p5=49620 median=51891 p95=68628
INFO: Inference timings in us: Init: 119515, First inference: 87112, Warmup (avg): 58147.4, Inference (avg): 63743.2
"""
TIMES = json.dumps([{"h2dMs": 0.1, "computeMs": 1.25, "d2hMs": 0.1}, {"h2dMs": 0.1, "computeMs": 1.5, "d2hMs": 0.1}])


@pytest.mark.parametrize(
    ("backend", "said", "ns"),
    [
        ("openvino", PYTHON_APP, [310_000]),
        ("openvino", CPP_APP, [12_500_000]),
        ("litert", OLD_MODEL, [266_473_000]),
        ("litert", NEW_MODEL, [51_891_000]),
        ("litert", OLD_MODEL.splitlines()[-1], [266_473_000]),
        ("tensorrt", TIMES, [1_250_000, 1_500_000]),
    ],
)
def test_what_a_tool_prints_is_read(backend, said, ns):
    text = f"\nrescompress-candidate 0\n{said}\nrescompress-ended 0\n"
    assert vendors.read(text, (backend,)) == [ns]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "incomplete"),
        ("\nrescompress-candidate 0\nNo such model\n\nrescompress-ended 1\n", "failed on the device: No such model"),
        ("\nrescompress-candidate 0\nAll good\n\nrescompress-ended 0\n", "told no latency: All good"),
        ("\nrescompress-candidate 7\nMedian: 1 ms\n\nrescompress-ended 0\n", "incomplete"),
        ("\nrescompress-candidate 0\nMedian: 0.00 ms\n\nrescompress-ended 0\n", "told no latency"),
        ("\nrescompress-candidate 0\nMedian: 1.2.3 ms\n\nrescompress-ended 0\n", "told no latency"),
    ],
)
def test_what_no_tool_prints_is_refused(text, fact):
    with pytest.raises(InputRefused, match=fact):
        vendors.read(text, ("openvino",))


def tflite(folder, name):
    def fill(empty):
        (empty / "model.tflite").write_bytes(name.encode())
        return "model.tflite"

    return artifact_of(folder / name, "litert", name, fill)


def test_benchmark_model_is_asked_for_threads_and_time(tmp_path):
    artifact = open_artifact(tflite(tmp_path, "a"))
    line = shlex.split(vendors.TOOLS["litert"].time("/x y/benchmark_model", artifact, 1, 4))
    assert line[:3] == ["/x y/benchmark_model", "--graph=model.tflite", "--num_threads=4"]
    assert "--min_secs=3" in line
    with pytest.raises(InputRefused, match="batch"):
        vendors.TOOLS["litert"].time("b", artifact, 2, 1)


def test_trtexec_builds_here_once_and_is_asked_the_same_of_both_releases(tmp_path):
    pytest.importorskip("onnx")
    artifact = open_artifact(network(tmp_path / "a", "a", 1))
    tool = vendors.TOOLS["tensorrt"]
    assert "--onnx=model.onnx" in tool.prepare("trtexec", artifact, 4)
    assert "--stronglyTyped" in tool.prepare("trtexec", artifact, 4)
    script = tool.time("trtexec", artifact, 4, 1)
    assert script.count("--loadEngine=built.engine --shapes=images:4x3x16x16") == 2
    assert script.index("--noCudaGraph") < script.index("--useCudaGraph")  # the second is for 10
    assert "cat times.json" in script


TOOL = """#!/bin/sh
[ -f "${1#--graph=}" ] || { echo "no such file: $1"; exit 1; }
echo "count=50 first=9 curr=9 min=9 max=9 avg=$(( 1000 + $(wc -c < "${1#--graph=}") )) std=4"
"""


@pytest.mark.xdist_group("sshd")
def test_a_device_without_python_is_timed_by_the_vendors_tool(reached, pictures, tmp_path, monkeypatch):
    """A stand-in prints what benchmark_model prints: contract-tested, not executed."""
    tool = reached.home / "bin" / "benchmark_model"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("RESCOMPRESS_DEVICE_PYTHON", "/nowhere/python3")
    folders = [tflite(tmp_path, name) for name in ("one", "eleven letters")]
    row, raw = benchmark(folders, pictures, launches=2, device=reached.address)
    tool.unlink()
    assert [latency.p50_ms for latency in row.latencies] == pytest.approx([1.003, 1.014])
    assert [len(launches) for launches in raw.values()] == [2, 2, 2]
    assert row.verdict == "INDICATIVE"
    assert any("benchmark_model told one number a launch" in reason for reason in row.reasons)
    assert not any("mismatch" in reason for reason in row.reasons)
    assert reached.left() == set()


@pytest.mark.slow
@pytest.mark.xdist_group("sshd")
def test_benchmark_app_times_a_network(reached, pictures, tmp_path, monkeypatch):
    pytest.importorskip("openvino.tools.benchmark")
    monkeypatch.setattr(vendors, "SECONDS", 1)
    monkeypatch.setenv("RESCOMPRESS_DEVICE_PYTHON", "/nowhere/python3")
    folder = export_artifact(
        fused("cifar", "resnet8"), "openvino", {}, tmp_path / "a", label="a", source="", source_sha256="", key=""
    ).folder
    row, _ = benchmark([folder], pictures, launches=2, device=reached.address)
    assert 0 < row.latencies[0].p50_ms < 1000
    assert row.verdict == "INDICATIVE"
    assert row.device.startswith("ssh: ")
