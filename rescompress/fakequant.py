"""What a quantized model is made of: fake-quant modules in a captured graph, and their lowering to Q/DQ.

A quantized model is the captured graph with a ``FakeQuantize`` behind every value that a ``Site`` names. It runs and
trains in eager PyTorch. ``lower`` swaps each fake-quant for a quantize/dequantize pair with INT8 weights stored as
integers; every backend that goes through ``torch.export`` starts from that one program.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from jaxtyping import Float, Int
from torch import Tensor, fx, nn

from rescompress import graph

_ops = torch.ops.quantized_decomposed
Dtype = Literal["uint8", "int8", "int4", "int32"]
LIMITS: dict[Dtype, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "int4": (-8, 7),
    "int32": (-(2**31), 2**31 - 1),
}
PREFIX, LOWERED = "fakequant.", "_lowered"
"""What the module path of a quantizer starts with, and what that of its lowered form ends with."""
WEIGHT_LIMITS = (-127, 127)
"""INT8 weights leave -128 out, so that a symmetric scale reaches both ends alike."""
WEIGHT_GRIDS: dict[Dtype, tuple[int, int]] = {"int8": WEIGHT_LIMITS, "int4": (-7, 7), "uint8": (1, 255)}
"""Integers of a weight; with ``uint8`` and zero-point 128 it has the very values that it has with ``int8``."""


@dataclass(frozen=True)
class Site:
    """One value that becomes an integer.

    A backend tells the kinds apart by these fields: a weight (``is_weight``) is stored in ``dtype``; an activation
    is quantized to ``dtype`` with the fake-quant's scale and zero-point, or, where ``dynamic``, with those that it has
    at run time. A layer whose weight has a site and whose input has none is weight-only: it computes in float.

    Attributes:
        value: stable name of the value in the captured graph, such as ``layer1.0.relu`` or ``conv1.weight``.
        quantizer: name of the fake-quant; sites that must keep one scale share one quantizer.
        dtype: integer type of the value.
        channels: scales along axis 0 of a weight; None for one scale.
        symmetric: real 0 is integer 0 (128 in a ``uint8`` weight), so the zero-point is not free.
        dynamic: scale and zero-point are those of the whole tensor at run time (ONNX ``DynamicQuantizeLinear``).
    """

    value: str
    quantizer: str
    dtype: Dtype
    channels: int | None = None
    symmetric: bool = False
    dynamic: bool = False

    def __post_init__(self) -> None:
        """Refuse what no runtime has.

        Raises:
            ValueError: an activation in INT4 or with several scales, or a dynamic weight.
        """
        if self.dtype == "int32" or (self.dtype == "int4" and not self.is_weight):
            raise ValueError(f"{self.value} can't be {self.dtype}")
        if self.channels is not None and not self.is_weight:
            raise ValueError(f"{self.value} is an activation, which has one scale")
        if self.dynamic and (self.is_weight or self.dtype != "uint8" or self.symmetric):
            raise ValueError(f"{self.value} can't be quantized at run time, which makes asymmetric uint8")

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        return (WEIGHT_GRIDS if self.is_weight else LIMITS)[self.dtype]

    @property
    def bits(self) -> int:
        """Bits that one integer takes in a file."""
        low, high = LIMITS[self.dtype]
        return (high - low).bit_length()

    @property
    def is_weight(self) -> bool:
        """Whether the value is a layer's weight, not an activation."""
        return self.value.endswith(".weight")


class FakeQuantize(nn.Module):
    """``s (clamp(round(x / s) + z, q_min, q_max) - z)``: INT8's grid in float, with a straight-through gradient.

    Args:
        site: dtype and granularity.

    Attributes:
        enabled: whether it rounds; else values pass as they are.
    """

    scale: Float[Tensor, " k"]
    zero_point: Int[Tensor, " k"]

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site, self.enabled = site, True
        size = site.channels or 1
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("zero_point", torch.zeros(size, dtype=torch.int32))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The value rounded to the grid, in float, of the same shape."""
        if not self.enabled:
            return x
        low, high = self.site.limits
        if self.site.channels is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale[0], self.zero_point[0], low, high)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, 0, low, high)


class QuantizeDequantize(nn.Module):
    """A fake-quant as the pair of ops that exporters know."""

    def __init__(self, quantizer: FakeQuantize) -> None:
        super().__init__()
        dtype = getattr(torch, quantizer.site.dtype)
        self.arguments = (float(quantizer.scale[0]), int(quantizer.zero_point[0]), *quantizer.site.limits, dtype)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Quantize, then dequantize."""
        q = _ops.quantize_per_tensor.default(x, *self.arguments)
        return cast(Tensor, _ops.dequantize_per_tensor.default(q, *self.arguments))


class Dequantize(nn.Module):
    """A constant that is stored as integers: ``s q`` along axis 0."""

    integers: Int[Tensor, "..."]

    def __init__(
        self, x: Float[Tensor, "c ..."], scale: Float[Tensor, " c"], dtype: Dtype, limits: tuple[int, int]
    ) -> None:
        super().__init__()
        steps = x.double() / scale.double().view(-1, *[1] * (x.dim() - 1))
        kind = getattr(torch, dtype)
        self.register_buffer("integers", steps.round().clamp(*limits).to(kind))
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros_like(scale, dtype=kind))
        self.arguments = (0, *limits, kind)

    def forward(self) -> Float[Tensor, "c ..."]:
        """The constant in float."""
        q = _ops.dequantize_per_channel.default(self.integers, self.scale, self.zero_point, *self.arguments)
        return cast(Tensor, q)


def insert(traced: fx.GraphModule, sites: Sequence[Site]) -> None:
    """Put a fake-quant behind every site of a captured graph, in place. Scales start at 1."""
    values = graph.values(traced)
    for site in sites:
        path = _path(site.quantizer)
        if not any(name == path for name, _ in traced.named_modules()):
            traced.add_submodule(path, FakeQuantize(site))
        node = values[site.value]
        with traced.graph.inserting_after(node):
            quantized = traced.graph.call_module(path, (node,))
        node.replace_all_uses_with(quantized, delete_user_cb=lambda user, own=quantized: user is not own)  # type: ignore[misc]
    traced.meta["sites"] = tuple(sites)
    traced.recompile()


def sites_of(model: nn.Module) -> tuple[Site, ...]:
    """The sites of a quantized model; empty for any other."""
    return tuple(getattr(model, "meta", {}).get("sites", ()))


def quantizer_of(traced: fx.GraphModule, site: Site) -> FakeQuantize:
    """The fake-quant module of a site."""
    return cast(FakeQuantize, traced.get_submodule(_path(site.quantizer)))


def quantizer_behind(traced: fx.GraphModule, node: object) -> FakeQuantize | None:
    """The fake-quant that a node calls, if it calls one."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = traced.get_submodule(str(node.target))
    return module if isinstance(module, FakeQuantize) else None


@contextlib.contextmanager
def passing(traced: nn.Module, but: Collection[str] = ()) -> Iterator[None]:
    """Let values pass the fake-quants, all but those of some quantizers: the float network in the same graph.

    Args:
        traced: a quantized model.
        but: names of quantizers (``Site.quantizer``) that go on rounding.
    """
    quantizers = [module for module in traced.modules() if isinstance(module, FakeQuantize)]
    before = [quantizer.enabled for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.enabled = quantizer.site.quantizer in but
        yield
    finally:
        for quantizer, enabled in zip(quantizers, before, strict=True):
            quantizer.enabled = enabled


def lower(model: fx.GraphModule) -> fx.GraphModule:
    """A copy whose fake-quants are Q/DQ pairs, with INT8 weights and INT32 biases stored as integers."""
    traced = graph.clone(model)
    for node in list(traced.graph.nodes):
        if graph.op_of(node) in ("conv", "linear"):
            _lower_bias(traced, node)
    for node in list(traced.graph.nodes):
        quantizer = quantizer_behind(traced, node)
        if quantizer is None:
            continue
        if quantizer.site.is_weight:
            weight = graph.tensor_of(traced, node.args[0]).detach()
            scale = quantizer.scale.expand(len(weight)).clone()
            _replace(traced, node, Dequantize(weight, scale, "int8", WEIGHT_LIMITS))
        else:
            _replace(traced, node, QuantizeDequantize(quantizer), *node.args)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _lower_bias(traced: fx.GraphModule, node: fx.Node) -> None:
    """Integer kernels add the bias to the accumulator, so its scale is input scale times weight scale."""
    x = quantizer_behind(traced, node.args[0])
    w = quantizer_behind(traced, node.args[1])
    b = node.args[2] if len(node.args) > 2 else None
    if x is None or w is None or not isinstance(b, fx.Node):
        return
    bias = graph.tensor_of(traced, b).detach()
    module = Dequantize(bias, (x.scale * w.scale).expand(len(bias)).clone(), "int32", LIMITS["int32"])
    path = _path(graph.name_of(b)) + LOWERED
    traced.add_submodule(path, module)
    with traced.graph.inserting_before(node):
        dequantized = traced.graph.call_module(path, ())
    node.update_arg(2, dequantized)


def _replace(traced: fx.GraphModule, node: fx.Node, module: nn.Module, *args: fx.node.Argument) -> None:
    path = f"{node.target}{LOWERED}"
    if not any(name == path for name, _ in traced.named_modules()):
        traced.add_submodule(path, module)
    with traced.graph.inserting_before(node):
        lowered = traced.graph.call_module(path, args)
    node.replace_all_uses_with(lowered)
    traced.graph.erase_node(node)


def _path(quantizer: str) -> str:
    """Where a quantizer lives in the module tree; a module's name can't hold dots, so slashes stand for them."""
    return f"{PREFIX}{quantizer.replace('.', '/')}"
