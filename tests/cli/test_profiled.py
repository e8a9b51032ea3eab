"""What people see of a profile: the longest layers first, shares of all layers, roofs and peaks."""

from rescompress.cli import profiled
from rescompress.timing import BenchmarkRow, LayerTime, Peaks, ProfileRow, RoofRow

LAYERS = (
    *(LayerTime(f"conv{place}", "conv", ms) for place, ms in enumerate((1.0, 3.0, 0.5, 0.5, 0.5, 0.25))),
    LayerTime("images.q", "QuantizeLinear", 0.25),
    LayerTime("conv9", "conv", 4.0, ("kernel",), ("add",)),
)
ROW = BenchmarkRow(
    1, 1, 5, (), 0.01, "VALID", (), "",
    profiles=(ProfileRow("04-quantize", "onnxruntime", "ONNX Runtime's profiler, medians", LAYERS, 12.0),),
    peaks=Peaks(54.4, 220.0, 7.05),
    roofs=(RoofRow("04-quantize", "onnxruntime", 110.0, "compute", 0.5),),
)  # fmt: skip


def test_the_longest_layers_come_first(capsys):
    profiled.show(ROW)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "04-quantize (onnxruntime) op ms share"
    assert lines[2:8] == [
        "conv9 + add conv 4.000 40%",
        "conv1 conv 3.000 30%",
        "conv0 conv 1.000 10%",
        "conv2 conv 0.500 5%",
        "conv3 conv 0.500 5%",
        "3 more 1.000 10%",
    ]
    assert lines[8].startswith("12.000 ms a query under ONNX Runtime's profiler, medians")
    assert lines[9:] == [
        "04-quantize (onnxruntime): 110.0 GMAC/s, 50% of what this machine's arithmetic allows",
        "peaks: 54 GMAC/s in FP32, 220 in INT8, 7.0 GB/s",
    ]


def test_nothing_is_said_where_nobody_profiled(capsys):
    profiled.show(BenchmarkRow(1, 1, 5, (), 0.01, "VALID", (), ""))
    assert capsys.readouterr().out == ""
