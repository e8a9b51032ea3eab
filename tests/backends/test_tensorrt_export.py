"""What is written, what the builder is told, what it refuses, and which engines are ever loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rescompress import models, progress
from rescompress.artifact import Artifact
from rescompress.backends import _tensorrt_log as log
from rescompress.backends import tensorrt
from rescompress.errors import InputRefused, RecipeError
from rescompress.progress import gathered
from tests.fakes.gpu import Machine
from tests.fakes.gpu_story import GROUPED, artifact, export_once
from tests.networks import placed

onnx = pytest.importorskip("onnx", reason="The file is written with onnx.")
FP16, FP32, INT8, INT32 = (getattr(onnx.TensorProto, name) for name in ("FLOAT16", "FLOAT", "INT8", "INT32"))

pytestmark = pytest.mark.xdist_group("tensorrt")  # they share an export


@pytest.fixture(autouse=True)
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "cache"))
    export_once(monkeypatch)


@pytest.fixture(params=["t10", "t11"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(request.param).install(monkeypatch)


def types_in(made: Artifact) -> tuple[Any, dict[str, int]]:
    """The graph, and the type of each value of it."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(made.entry)), strict_mode=True).graph
    told = (*graph.value_info, *graph.input, *graph.output)
    values = {value.name: value.type.tensor_type.elem_type for value in told}
    return graph, values | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_file_says_fp16_everywhere_but_at_its_ends(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, types = types_in(artifact(tmp_path / "artifact", kind))
    working = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "Add", "Relu", "GlobalAveragePool")]
    assert len(working) > 15
    assert {types[node.output[0]] for node in working} == {FP16}
    assert {types[value.name] for value in (*graph.input, *graph.output)} == {FP32}


def test_scales_are_fp16_zero_points_are_zero_and_no_bias_is_an_integer(tmp_path: Path) -> None:
    graph, types = types_in(artifact(tmp_path / "artifact", "int8"))
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 20
    assert {types[node.input[1]] for node in pairs} == {FP16}
    assert all(len(node.input) < 3 or not stored[node.input[2]].any() for node in pairs)
    assert {types[node.input[0]] for node in pairs if node.op_type == "DequantizeLinear"} == {INT8}
    assert INT32 not in types.values()


def test_pixels_become_floats_before_anything_else(tmp_path: Path) -> None:
    made = artifact(tmp_path / "artifact", preprocess=True)
    graph, types = types_in(made)
    readers = [node.op_type for node in graph.node if graph.input[0].name in node.input]
    assert readers == ["Cast"]
    assert [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim][1:] == [32, 32, 3]
    assert types["images"] == FP32


def test_without_a_gpu_only_the_file_is_written_and_the_note_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt.running, "_devices", lambda: 0)
    with gathered() as notes:
        made = artifact(tmp_path / "artifact")
    assert [path.name for path in made.folder.iterdir()] == ["model.onnx"]
    assert any(note.startswith("No engine is built: ") and "a CUDA device" in note for note in notes)
    assert tensorrt.missing() is None


def test_the_builder_is_told_every_knob(machine: Machine, tmp_path: Path) -> None:
    artifact(
        tmp_path / "artifact", min_batch=2, opt_batch=3, max_batch=5, workspace_mb=7, optimization_level=5,
        hardware_compatible=True, version_compatible=True, refit=True, dla=machine.trt.release.startswith("10"),
    )  # fmt: skip
    (config,) = (config.state for config in machine.configs)
    dla = {"GPU_FALLBACK"} if machine.trt.release.startswith("10") else set()
    assert config["flags"] == {"VERSION_COMPATIBLE", "REFIT"} | dla
    assert config["pools"] == {"WORKSPACE": 7 << 20}
    assert config["builder_optimization_level"] == 5
    assert config["profiling_verbosity"].name == "DETAILED"
    assert config["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert config["profiles"] == [{"images": ((2, 3, 32, 32), (3, 3, 32, 32), (5, 3, 32, 32))}]
    assert ("default_device_type" in config) == bool(dla)


def test_fp32_means_fp32_unless_tf32_is_asked_for(machine: Machine, tmp_path: Path) -> None:
    artifact(tmp_path / "exact", floats="fp32")
    artifact(tmp_path / "rounded", floats="fp32", tf32=True)
    assert [config.state["flags"] for config in machine.configs] == [set(), {"TF32"}]


def test_kernel_timings_are_kept_for_the_next_build(machine: Machine, tmp_path: Path) -> None:
    artifact(tmp_path / "one")
    made = artifact(tmp_path / "two")
    assert (made.folder / "timing.cache").read_bytes() == b"timings" * 2
    (kept,) = (tmp_path / "cache" / "tensorrt").iterdir()
    kept.write_bytes(b"of another release")
    assert (artifact(tmp_path / "three").folder / "timing.cache").read_bytes() == b"timings"


def test_a_layer_without_a_kernel_goes_to_fp32_and_the_build_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(no_kernel=(GROUPED, "layer3.0.conv2")).install(monkeypatch)
    with gathered() as notes:
        made = artifact(tmp_path / "artifact")
    assert machine.builds == 3
    said = [note for note in notes if "FP32" in note]
    assert said == [
        f"{name} is computed in FP32: TensorRT 11.4.0.106 has no FP16 kernel for it."
        for name in (GROUPED, "layer3.0.conv2")
    ]
    graph, types = types_in(made)
    single = {node.name for node in graph.node if node.op_type == "Conv" and types[node.output[0]] == FP32}
    assert single == {GROUPED, "layer3.0.conv2"}


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_layers_that_want_the_same_kernel_go_along(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a network with sixteen grouped convolutions would be built seventeen times."""
    machine = Machine(no_kernel=("layer1.0.conv1",)).install(monkeypatch)
    with gathered() as notes:
        graph, types = types_in(artifact(tmp_path / "artifact", kind))
    assert machine.builds == 2
    assert "layer1.0.conv2 is computed in FP32 too: it wants the same kernel as layer1.0.conv1." in notes
    single = {node.name for node in graph.node if node.op_type == "Conv" and types[node.output[0]] == FP32}
    assert single == {"layer1.0.conv1", "layer1.0.conv2"}


def test_a_layer_without_a_kernel_in_fp32_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine().install(monkeypatch)
    text = f"Could not find any implementation for node {GROUPED}."

    def fail(builder: Any, network: Any, config: Any) -> None:
        builder.state["logger"].log(machine.tensorrt.ILogger.ERROR, text)

    monkeypatch.setitem(machine.trt.behaviours, "Builder.build_serialized_network", fail)
    with pytest.raises(InputRefused, match=f"can't build the engine: Could not find .* node {GROUPED}\\. ") as caught:
        artifact(tmp_path / "artifact", floats="fp32")
    assert caught.value.remedy == "Export with more workspace_mb."


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Failing node: layer1.0.conv1", ["layer1.0.conv1"]),
        ("(Could not find any implementation for node layer1.0.conv1. In computeCosts at x.cpp:1)", ["layer1.0.conv1"]),
        ("Could not find any implementation for node conv1.weight + conv1_q + conv1 + relu.", ["conv1"]),
        ("Could not find any implementation for node {ForeignNode[layer1.0.conv1...fc]}.", ["layer1.0.conv1", "fc"]),
        ("Could not find any implementation for node layer1.0.add + relu.", ["layer1.0.add", "relu"]),
        ("Could not find any implementation for node a.layer1.0.conv1x.", []),
        ("Skipping tactic 0x0 of conv1 due to exception out of memory", []),
    ],
)
def test_the_node_is_found_in_what_the_logger_got(text: str, names: list[str]) -> None:
    ops = {"conv1": "Conv", "layer1.0.conv1": "Conv", "layer1.0.add": "Add", "relu": "Relu", "fc": "Gemm"}
    nodes = [onnx.helper.make_node(op, ["x"], ["y"], name) for name, op in ops.items()]
    nodes.append(onnx.helper.make_node("QuantizeLinear", ["x"], ["y"], "conv1_q"))
    assert sorted(log.blamed([text], nodes)) == sorted(names)


def test_each_node_that_the_parser_refuses_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = (("conv1", "Conv", "Weights must be static.\nMore."), ("", "", "no domain"))
    Machine(refuse=refused).install(monkeypatch)
    with pytest.raises(InputRefused) as caught:
        artifact(tmp_path / "artifact")
    assert caught.value.fact == (
        "TensorRT refuses node conv1 (Conv): Weights must be static [UNSUPPORTED_NODE]."
        " TensorRT refuses the file: no domain [UNSUPPORTED_NODE]."
    )


def test_an_interrupted_build_stops(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def track(items: range, *_: Any) -> Any:
        yield from items[:1]
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "track", track)
    with pytest.raises(KeyboardInterrupt):
        artifact(tmp_path / "artifact")
    assert list((tmp_path / "artifact").iterdir()) == []


def test_each_phase_of_the_build_is_a_bar(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, list[int]] = {}

    def track(items: range, doing: str, total: int, begun: int) -> Any:
        for item in items:
            shown.setdefault(doing, []).append(item)
            yield item

    monkeypatch.setattr(progress, "track", track)
    artifact(tmp_path / "artifact")
    assert shown["Timing kernels"] == [0, 1, 2]
    assert shown["Building engine"] == [0, 0, 1]  # shown again when its own step is done


@pytest.mark.parametrize(
    ("knobs", "match"), [({"opt_batch": 9, "max_batch": 8}, "don't grow"), ({"dla": True}, "builds nothing for DLA")]
)
def test_what_contradicts_itself_is_refused(
    knobs: dict[str, Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine("t11").install(monkeypatch)
    with pytest.raises(RecipeError, match=match):
        artifact(tmp_path / "artifact", **knobs)


def test_ranges_found_at_run_time_are_refused(tmp_path: Path) -> None:
    model = placed("dynamic")
    with pytest.raises(InputRefused, match="run time"):
        tensorrt.export(model, models.spec_of(model), tmp_path)


def test_an_engine_of_our_own_is_loaded(machine: Machine, tmp_path: Path) -> None:
    made = artifact(tmp_path / "artifact")
    with tensorrt.load(made, threads=1) as session:
        assert session.run(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)
    assert set(made.manifest.files) == {"model.onnx", "model.engine", "timing.cache", "seal.json"}


def test_a_version_compatible_engine_may_bring_its_own_code(machine: Machine, tmp_path: Path) -> None:
    tensorrt.load(artifact(tmp_path / "plain"), threads=1).__exit__(None, None, None)
    assert "Runtime.engine_host_code_allowed=" not in machine.trt.used
    tensorrt.load(artifact(tmp_path / "portable", version_compatible=True), threads=1).__exit__(None, None, None)
    assert "Runtime.engine_host_code_allowed=" in machine.trt.used


def spoil_engine(made: Artifact, machine: Machine, cache: Path) -> None:
    path = made.folder / "model.engine"
    path.write_bytes(path.read_bytes() + b"\0")


def remove_seal(made: Artifact, machine: Machine, cache: Path) -> None:
    (made.folder / "seal.json").unlink()


def forge_seal(made: Artifact, machine: Machine, cache: Path) -> None:
    path = made.folder / "seal.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hmac": "0" * 64}))


def be_another_user(made: Artifact, machine: Machine, cache: Path) -> None:
    (cache / "key").unlink()


def change_gpu(made: Artifact, machine: Machine, cache: Path) -> None:
    machine.gpu = "GPU 2"


@pytest.mark.parametrize("spoil", [spoil_engine, remove_seal, forge_seal, be_another_user, change_gpu])
def test_any_other_engine_is_never_deserialized(spoil: Any, machine: Machine, tmp_path: Path) -> None:
    made = artifact(tmp_path / "artifact")
    spoil(made, machine, tmp_path / "cache")
    for use in (
        lambda: tensorrt.load(made, threads=1),
        lambda: tensorrt.audit(made),
    ):
        with pytest.raises(InputRefused, match=r"can't load .*\.$") as caught:
            use()
        assert caught.value.remedy == "Export the model again."
    assert not any(use.startswith("Runtime") for use in machine.trt.used)


def test_a_file_without_an_engine_is_refused_where_one_could_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = artifact(tmp_path / "artifact")
    Machine().install(monkeypatch)
    with pytest.raises(InputRefused, match="it holds no engine"):
        tensorrt.load(made, threads=1)


def test_the_audit_of_an_engine_reads_the_engine(machine: Machine, tmp_path: Path) -> None:
    made = artifact(tmp_path / "artifact")
    conv = {"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Row major FP16"}]}
    machine.information = json.dumps({"Layers": [conv]})
    report = tensorrt.audit(made)
    assert {layer.layer: layer.precision for layer in report.layers}["conv1"] == "fp16"
    assert not any("redicted" in note for note in report.notes)


def test_the_audit_without_an_engine_is_a_prediction_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt.running, "_devices", lambda: 0)
    report = tensorrt.audit(artifact(tmp_path / "artifact", "int8"))
    assert report.notes[0].startswith("Predicted from the file, not read off an engine: ")
    assert report.int8_share("conv").percent == 100
