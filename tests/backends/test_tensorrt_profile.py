"""TensorRT's profiler on a fake GPU: the names that it tells become ours. A real one has not been asked."""

import json
from pathlib import Path

import numpy as np
import pytest

from rescompress.backends import tensorrt
from rescompress.errors import BackendMissing
from tests.fakes.gpu import Machine
from tests.fakes.gpu_engines import COMPUTE_MS
from tests.fakes.gpu_story import artifact, export_once, network
from tests.fakes.vendor import API, violation
from tests.networks import noise

pytest.importorskip("onnxruntime", reason="The fake engine computes in ONNX Runtime.")

pytestmark = pytest.mark.xdist_group("tensorrt")  # they share an export
NAMES = {
    "Reformatting CopyNode for Input Tensor 0 to conv1": "Reformat",
    "conv1 + relu": "CaskConvolution",
    "layer1.0.conv2 + layer1.0.add + layer1.0.relu_1": "CaskConvolution",
    "linear": "CaskGemm",
}


@pytest.mark.parametrize("release", ["t10", "t11"])
def test_layers_are_booked_under_our_names(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "cache"))
    export_once(monkeypatch)
    machine = Machine(release).install(monkeypatch)
    machine.information = json.dumps({"Layers": [{"Name": name, "LayerType": kind} for name, kind in NAMES.items()]})
    made = artifact(tmp_path / "artifact", floats="fp32", max_batch=4)
    found = tensorrt.profile(made, noise(network(), 4).numpy(), threads=1)
    assert [(each.layer, each.op, each.fused) for each in found.layers] == [
        ("conv1", "conv", ()),
        ("layer1.0.conv2", "conv", ("layer1.0.add",)),
        ("linear", "linear", ()),
        ("Reformatting CopyNode for Input Tensor 0 to conv1", "Reformat", ()),
    ]
    assert [each.kernels[0] for each in found.layers] == [*list(NAMES)[1:], next(iter(NAMES))]
    assert {each.ms for each in found.layers} == {COMPUTE_MS / 4}
    assert found.total_ms > 0
    assert (machine.launches, machine.graphs_alive, machine.memory) == (0, 0, {})
    wrong = [said for use in machine.trt.used if (said := violation(API[release], use))]
    assert wrong == []


def test_a_query_of_several_runs_adds_them_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "cache"))
    export_once(monkeypatch)
    machine = Machine().install(monkeypatch)
    machine.information = json.dumps({"Layers": [{"Name": "conv1 + relu"}]})
    made = artifact(tmp_path / "artifact", floats="fp32", max_batch=4)
    (layer,) = tensorrt.profile(made, noise(network(), 9).numpy(), threads=1).layers
    assert (layer.layer, layer.ms) == ("conv1", 3 * COMPUTE_MS)


def test_nothing_stands_in_for_the_profiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt.running, "_devices", lambda: 0)
    export_once(monkeypatch)
    with pytest.raises(BackendMissing, match="can't be profiled here"):
        tensorrt.profile(artifact(tmp_path / "artifact"), np.zeros((1, 3, 32, 32), np.float32), threads=1)
