"""Core ML itself, on macOS: predictions, and the unit that each operation is planned for."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompress.backends._coreml_write import quietly

UNITS = {
    "MLCPUComputeDevice": "the CPU",
    "MLGPUComputeDevice": "the GPU",
    "MLNeuralEngineComputeDevice": "the Neural Engine",
}


class Predictor:
    """A package that Core ML has compiled for all units of this machine.

    Args:
        package: the ``.mlpackage``.
    """

    def __init__(self, package: Path) -> None:
        with quietly():
            import coremltools as ct

            self._model: Any = ct.models.MLModel(str(package), compute_units=ct.ComputeUnit.ALL)
        description = self._model.get_spec().description
        self._pixels = description.input[0].type.WhichOneof("Type") == "imageType"

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """All outputs for these inputs; images one after the other.

        Args:
            inputs: by name; float32 ``[n, 3, h, w]``, or pixels ``[n, h, w, 3]`` where the package takes an image.

        Returns:
            float32, by name; probabilities are ``[n, labels]`` in the order of the labels.
        """
        if not self._pixels:
            return {name: _array(value) for name, value in self._model.predict(dict(inputs)).items()}
        from PIL import Image

        counts = {len(array) for array in inputs.values()}
        turns = [
            self._model.predict({name: Image.fromarray(array[turn]) for name, array in inputs.items()})
            for turn in range(counts.pop())
        ]
        names = [name for name, value in turns[0].items() if not isinstance(value, str)]
        return {name: np.concatenate([_array(turn[name]) for turn in turns]) for name in names}


def units(package: Path) -> str:
    """A sentence on how many operations Core ML plans for which unit of this machine."""
    with quietly():
        import coremltools as ct
        from coremltools.models.compute_plan import MLComputePlan

        compiled = ct.models.utils.compile_model(str(package))
        plan = MLComputePlan.load_from_path(path=compiled, compute_units=ct.ComputeUnit.ALL)
        counts = Counter[str]()
        for operation in plan.model_structure.program.functions["main"].block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:  # constants are planned for no unit
                kind = type(usage.preferred_compute_device).__name__
                counts[UNITS.get(kind, kind)] += 1
    parts = [f"{count} operations for {unit}" for unit, count in counts.most_common()]
    return f"On this machine Core ML plans {', '.join(parts) or 'no operation for any unit'}."


def _array(value: Any) -> NDArray[np.float32]:
    """An output as an array; a classifier's dictionary keeps the order of its labels."""
    if isinstance(value, dict):
        value = np.array([list(value.values())])
    return np.asarray(value, np.float32)
