"""What an IR's ops are, and which of them a compiled layer was made of."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = {
    "Convolution": "conv",
    "GroupConvolution": "conv",
    "MatMul": "linear",
    "Add": "add",
    "MaxPool": "pool",
    "AvgPool": "pool",
    "ReduceMean": "pool",
}
"""Ops of the IR whose precision is reported."""


@dataclass(frozen=True)
class Layers:
    """The convolutions, linear layers, adds and pools of an IR.

    Attributes:
        kinds: ``conv``, ``linear``, ``add`` or ``pool`` by name, in order of execution.
        biases: layers by the name of the op that adds their bias, where that is another.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)

    def made_of(self, compiled: dict[str, str]) -> tuple[str, ...]:
        """Our names of what a compiled layer was made of."""
        names = (stem(name) for name in compiled["originalLayersNames"].split(",") if name)
        return tuple(dict.fromkeys(self.biases.get(name, name) for name in names))


def layers_of(path: Path) -> Layers:
    """The layers of an IR; an add of a constant is a bias and none of them."""
    import openvino

    found = Layers()
    for op in openvino.Core().read_model(path).get_ordered_ops():
        kind, name = KINDS.get(op.get_type_name()), stem(op.get_friendly_name())
        sources = [value.get_node() for value in op.input_values()]
        if kind == "add" and any(map(is_constant, sources)):
            for layer in {stem(source.get_friendly_name()) for source in sources} & set(found.kinds) - {name}:
                found.biases[name] = layer
        elif kind:
            found.kinds[name] = kind
    return found


def info(op: Any, half: bool) -> dict[str, str]:
    """What a compiled layer is, its precision, and the names of what it was made of, by OpenVINO's own keys.

    Of a layer whose weights are stored in FP16 OpenVINO says ``f16``, whatever it computes in.

    Args:
        op: of the compiled model.
        half: whether it does compute in FP16.
    """
    found = op.get_rt_info()
    said = {key: str(found[key].astype(str)) for key in ("layerType", "runtimePrecision", "originalLayersNames")}
    return said if half or said["runtimePrecision"] != "f16" else {**said, "runtimePrecision": "f32"}


def stem(name: str) -> str:
    """The name that we gave a layer, in a name that OpenVINO derived from it."""
    return name.partition("/WithoutBiases")[0]


def is_constant(op: Any) -> bool:
    """Whether an op only computes from constants: a bias is added by an op of its own."""
    sources = [value.get_node() for value in op.input_values()]
    return op.get_type_name() == "Constant" or (bool(sources) and all(map(is_constant, sources)))
