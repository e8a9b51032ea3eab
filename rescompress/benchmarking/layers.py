"""What decides how long a layer takes, and who can tell it: the nouns of predicted latency."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, cast, runtime_checkable

from pydantic import ConfigDict, Field
from torch import fx, nn

from rescompress import fakequant, graph, models
from rescompress.knobs import Named

Pair = tuple[int, int]


@dataclass(frozen=True)
class LayerShape:
    """One run of a layer, without its weights: equal shapes take equally long.

    Attributes:
        op: convolution or linear layer.
        in_channels: of the input.
        out_channels: of the output.
        kernel: height and width; (1, 1) of a linear layer, as are stride and dilation.
        stride: down and right.
        padding: zeros at top and bottom, and at left and right.
        dilation: down and right.
        groups: of channels that see each other.
        height: of the input, in pixels; 1 for a linear layer of vectors.
        width: of the input, in pixels.
        added: its output goes into a residual sum, whose time counts as the layer's.
    """

    op: Literal["conv", "linear"]
    in_channels: int
    out_channels: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    height: int = 1
    width: int = 1
    added: bool = False

    @property
    def output_size(self) -> Pair:
        """Height and width of the output, in pixels."""
        sizes = zip((self.height, self.width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes)
        return height, width

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        height, width = self.output_size
        kernel = self.kernel[0] * self.kernel[1]
        return self.in_channels // self.groups * self.out_channels * kernel * height * width


@dataclass(frozen=True)
class Target:
    """Where and how a model will run.

    Attributes:
        backend: the runtime that is measured on this machine.
        precision: of the layers; fp16 only together with a device.
        threads: that the runtime may use.
        batch: images per query.
        device: name of a device in recipes/devices whose roofline stands in for measuring; None measures here.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    backend: Annotated[str, Named("rescompress.backends")] = "onnxruntime"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    batch: Annotated[int, Field(ge=1, le=4096)] = 1
    device: str | None = None


@runtime_checkable
class Estimator(Protocol):
    """Tells how long layers take.

    Attributes:
        name: what the numbers belong to, for reports.
        modelled: the numbers come from a formula, not from measuring.
    """

    name: str
    modelled: bool

    def prepare(self, shapes: Iterable[LayerShape]) -> None:
        """Measure what is missing to tell of all these shapes, behind a progress bar."""
        ...

    def seconds(self, shape: LayerShape) -> float:
        """Time of one run of the layer on one batch, in seconds."""
        ...


def shapes_of(model: nn.Module) -> dict[str, LayerShape]:
    """The shape of each convolution and linear layer by its name, in order of execution.

    A layer that runs twice stands there twice; its second run is named ``layer_1``, as in the captured graph.
    """
    traced = graph.capture(model, models.spec_of(model).input_shape, functional=False)
    layers = [node for node in traced.graph.nodes if graph.op_of(node) in ("conv", "linear")]
    summed = {_last_layer(node) for node in traced.graph.nodes if graph.op_of(node) == "add"}
    return {graph.name_of(node): _shape(traced, node, node in summed) for node in layers}


def _shape(traced: fx.GraphModule, node: fx.Node, added: bool) -> LayerShape:
    source, out = cast(fx.Node, node.args[0]), node.meta["val"].shape
    size = source.meta["val"].shape if "val" in source.meta else graph.inputs_of(source)[0].meta["val"].shape
    if graph.op_of(node) == "linear":
        rows = 1 if len(size) == 2 else int(size[1:-1].numel())
        return LayerShape("linear", int(size[-1]), int(out[-1]), height=rows, added=added)
    quantizer = fakequant.quantizer_behind(traced, node.args[1])
    weight = graph.tensor_of(traced, cast(fx.Node, cast(fx.Node, node.args[1]).args[0] if quantizer else node.args[1]))
    defaults: list[object] = [(1, 1), (0, 0), (1, 1), 1]
    given: list[object] = list(node.args[3:])
    stride, padding, dilation, groups = given + defaults[len(given) :]
    return LayerShape(
        "conv",
        in_channels=int(size[1]),
        out_channels=int(out[1]),
        kernel=_pair(weight.shape[2:]),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=cast(int, groups),
        height=int(size[2]),
        width=int(size[3]),
        added=added,
    )


def _pair(value: object) -> Pair:
    """ATen takes one number for both sides."""
    numbers = (value,) if isinstance(value, int) else tuple(cast(Iterable[int], value))
    return int(numbers[0]), int(numbers[-1])


def _last_layer(add: fx.Node) -> fx.Node | None:
    """The layer that runs last of those whose outputs meet in a sum."""
    found = [layer for source in graph.inputs_of(add) if (layer := _layer_behind(source)) is not None]
    return max(found) if found else None


def _layer_behind(node: fx.Node) -> fx.Node | None:
    """The layer whose output this is, normalized or quantized at most."""
    while node.op == "call_module" or graph.op_of(node) == "batch_norm":
        node = graph.inputs_of(node)[0]
    return node if graph.op_of(node) in ("conv", "linear") else None
