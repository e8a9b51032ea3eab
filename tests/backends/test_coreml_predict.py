"""What macOS runs, beside the real names of coremltools, with a stand-in for what only macOS has."""

import inspect
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from rescompress import backends
from tests.backends.test_coreml import LABELS, answer, expected, made, noise, tiny

pytest.importorskip("coremltools", reason="coremltools is not installed")
pytestmark = pytest.mark.xdist_group("contract")

coreml: Any = backends.get("coreml")


@dataclass
class Model:
    """Answers as ``MLModel.predict`` does: arrays by name, or the likeliest label and a dictionary."""

    path: str
    compute_units: Any

    def get_spec(self) -> Any:
        from rescompress.backends._coreml_interpreter_file import read_spec

        return read_spec(Path(self.path))[0]

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        from rescompress.backends._coreml_interpreter import Program

        pixels = {name: np.asarray(value)[None] for name, value in data.items() if isinstance(value, Image.Image)}
        answers = Program(Path(self.path)).run(pixels or data)
        if not pixels:
            return dict(answers)
        (probabilities,) = answers.values()
        rows = dict(zip(LABELS, map(float, probabilities[0]), strict=True))
        return {"classLabel": max(rows, key=lambda label: rows[label]), "classLabel_probs": rows}


def move_to_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    import coremltools as ct

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(ct.models, "MLModel", Model)


def test_core_ml_itself_predicts_on_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = made(tiny(), tmp_path, floats="fp32")
    move_to_macos(monkeypatch)
    images = noise(tiny(), 3)
    np.testing.assert_allclose(answer(artifact, images), expected(tiny(), images), atol=1e-5)


def test_a_classifier_answers_in_the_order_of_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = made(tiny(), tmp_path, floats="fp32", preprocess=True, softmax=True, labels=LABELS)
    move_to_macos(monkeypatch)
    pixels = torch.randint(0, 256, (2, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    normalized = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    wanted = torch.from_numpy(expected(tiny(), normalized)).softmax(1).numpy()
    given: NDArray[Any] = answer(artifact, pixels)
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_the_audit_says_which_unit_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import coremltools as ct
    from coremltools.models import compute_device, compute_plan

    class Plan:
        def __init__(self) -> None:
            block = SimpleNamespace(operations=["const", "conv", "conv", "linear"])
            program = SimpleNamespace(functions={"main": SimpleNamespace(block=block)})
            self.model_structure = SimpleNamespace(program=program)

        def get_compute_device_usage_for_mlprogram_operation(self, operation: str) -> Any:
            kinds = {"conv": compute_device.MLNeuralEngineComputeDevice, "linear": compute_device.MLCPUComputeDevice}
            if operation not in kinds:
                return None
            return SimpleNamespace(preferred_compute_device=kinds[operation].__new__(kinds[operation]))

    artifact = made(tiny(), tmp_path)
    move_to_macos(monkeypatch)
    monkeypatch.setattr(ct.models.utils, "compile_model", lambda path: f"{path}c")
    monkeypatch.setattr(compute_plan.MLComputePlan, "load_from_path", lambda path, compute_units: Plan())
    report = coreml.audit(artifact)
    said = "On this machine Core ML plans 2 operations for the Neural Engine, 1 operations for the CPU."
    assert report.notes[-1] == said


def test_coremltools_has_what_macos_needs() -> None:
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan, MLComputePlanDeviceUsage, MLModelStructureProgramBlock

    def parameters(function: Callable[..., Any]) -> set[str]:
        return set(inspect.signature(function).parameters)

    assert parameters(ct.models.MLModel.__init__) >= {"model", "compute_units"}
    assert parameters(ct.models.MLModel.predict) >= {"data"}
    assert parameters(ct.models.utils.compile_model) >= {"model"}
    assert parameters(MLComputePlan.load_from_path) == {"path", "compute_units"}
    assert hasattr(MLComputePlan, "model_structure")
    assert parameters(MLComputePlan.get_compute_device_usage_for_mlprogram_operation) == {"self", "operation"}
    assert "preferred_compute_device" in MLComputePlanDeviceUsage.__dataclass_fields__
    assert "operations" in MLModelStructureProgramBlock.__dataclass_fields__
    assert ct.ComputeUnit.ALL
