"""What a quantized model is made of: fake-quant modules in a captured graph, and their lowering to Q/DQ.

A quantized model is the captured graph with a ``FakeQuantize`` behind every value that a ``Site`` names. It runs and
trains in eager PyTorch. ``lower`` swaps each fake-quant for a quantize/dequantize pair with weights stored as
integers; every backend that goes through ``torch.export`` starts from that one program.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import cast

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from jaxtyping import Float, Int
from torch import Tensor, fx, nn

from rescompress import graph
from rescompress.errors import InputRefused
from rescompress.schemes import QuantScheme
from rescompress.sites import LIMITS, Dtype, Site

_ops = torch.ops.quantized_decomposed
PREFIX, LOWERED = "fakequant.", "_lowered"
"""What the module path of a quantizer starts with, and what that of its lowered form ends with."""


class FakeQuantize(nn.Module):
    """``s (clamp(round(x / s) + z, q_min, q_max) - z)``: a site's grid in float, with a straight-through gradient.

    Args:
        site: dtype and granularity.

    Attributes:
        enabled: whether it rounds; else values pass as they are.
        scale: s; not used where the site is dynamic.
        zero_point: z; not used where the site is dynamic.
    """

    scale: Float[Tensor, " k"]
    zero_point: Int[Tensor, " k"]

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site, self.enabled = site, True
        middle = 128 if site.is_weight and site.dtype == "uint8" else 0
        self.register_buffer("scale", torch.ones(site.channels or 1))
        self.register_buffer("zero_point", torch.full((site.channels or 1,), middle, dtype=torch.int32))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The value rounded to the grid, in float, of the same shape."""
        if not self.enabled:
            return x
        if self.site.dynamic:
            return rounded_at_run_time(x)
        low, high = self.site.limits
        if self.site.channels is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale[0], self.zero_point[0], low, high)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, 0, low, high)


def rounded_at_run_time(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A tensor rounded to 256 steps over its own range, in float; the gradient passes straight through.

    ``s = (max(x, 0) - min(x, 0)) / 255``, ``z = round(-min(x, 0) / s)``, halves to even, over the whole tensor, so that
    images of one batch share a scale (ONNX ``DynamicQuantizeLinear`` behind ``DequantizeLinear``, operator set 11).
    """
    low, high = x.detach().aminmax()
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    q_min, q_max = LIMITS["uint8"]
    s = torch.where(high == low, 1.0, high - low) / (q_max - q_min)
    z = (-low / s).clamp(q_min, q_max).round()
    rounded = (((x.detach() / s).round() + z).clamp(q_min, q_max) - z) * s
    return rounded + (x - x.detach())


class QuantizeDequantize(nn.Module):
    """A fake-quant as the pair of ops that exporters know.

    Attributes:
        site: of the value; where it is ``dynamic``, an exporter writes ``DynamicQuantizeLinear``.
    """

    def __init__(self, quantizer: FakeQuantize) -> None:
        super().__init__()
        self.site = quantizer.site
        kind = getattr(torch, self.site.dtype)
        self.arguments = (float(quantizer.scale[0]), int(quantizer.zero_point[0]), *self.site.limits, kind)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Quantize, then dequantize."""
        if self.site.dynamic:
            return rounded_at_run_time(x)
        q = _ops.quantize_per_tensor.default(x, *self.arguments)
        return cast(Tensor, _ops.dequantize_per_tensor.default(q, *self.arguments))


class Dequantize(nn.Module):
    """A constant that is stored as integers: ``s (q - z)`` along axis 0.

    Attributes:
        dtype: integer type that a file stores; PyTorch has no INT4 and holds such integers as INT8.
    """

    integers: Int[Tensor, "..."]

    def __init__(
        self,
        x: Float[Tensor, "c ..."],
        scale: Float[Tensor, " c"],
        dtype: Dtype,
        limits: tuple[int, int],
        zero: int = 0,
    ) -> None:
        super().__init__()
        steps = x.double() / scale.double().view(-1, *[1] * (x.dim() - 1))
        self.dtype = dtype
        kind = torch.int8 if dtype == "int4" else getattr(torch, dtype)
        self.register_buffer("integers", (steps.round() + zero).clamp(*limits).to(kind))
        self.register_buffer("scale", scale)
        # uint8 minus uint8 would wrap
        signed = torch.int32 if kind == torch.uint8 else kind
        self.register_buffer("zero_point", torch.full_like(scale, zero, dtype=signed))
        self.arguments = (0, *limits, kind)

    def forward(self) -> Float[Tensor, "c ..."]:
        """The constant in float."""
        q = _ops.dequantize_per_channel.default(self.integers, self.scale, self.zero_point, *self.arguments)
        return cast(Tensor, q)


def insert(traced: fx.GraphModule, sites: Sequence[Site]) -> None:
    """Put a fake-quant behind every site of a captured graph, in place. Scales start at 1."""
    values = graph.values(traced)
    for site in sites:
        path = path_of(site.quantizer)
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
    return cast(FakeQuantize, traced.get_submodule(path_of(site.quantizer)))


def quantizer_behind(traced: fx.GraphModule, node: object) -> FakeQuantize | None:
    """The fake-quant that a node calls, if it calls one."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = traced.get_submodule(str(node.target))
    return module if isinstance(module, FakeQuantize) else None


def check_scheme(model: nn.Module, scheme: QuantScheme) -> None:
    """Refuse a model whose activations have integers that a runtime doesn't take; a float model is fine.

    Raises:
        InputRefused: it was quantized for another runtime.
    """
    static = [site for site in sites_of(model) if not (site.is_weight or site.dynamic)]
    quantizers = [quantizer_of(cast(fx.GraphModule, model), site) for site in static]
    wrong = any(quantizer.site.dtype != scheme.activation_dtype for quantizer in quantizers)
    if wrong or (scheme.symmetric_activations and any(bool(one.zero_point.any()) for one in quantizers)):
        fact = f"The model was quantized for another runtime: its integers are none that {scheme.runtime} takes."
        raise InputRefused(fact, f"Quantize with runtime {scheme.runtime}.")


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


def round_biases(traced: fx.GraphModule) -> None:
    """Put each bias that is exported as INT32 on its grid, in place: the last thing that a quantized model needs.

    A bias moves by half a step of the accumulator at most, yet that alone is 9 dB of ResNet-20's agreement with ONNX
    Runtime (39 dB without, 48 dB with), because some values behind it round to the other side.
    """
    with torch.no_grad():
        for node in traced.graph.nodes:
            if graph.op_of(node) in ("conv", "linear") and (stored := _integer_bias(traced, node)) is not None:
                graph.tensor_of(traced, cast(fx.Node, node.args[2])).copy_(stored())


def lower(model: fx.GraphModule) -> fx.GraphModule:
    """A copy whose fake-quants are Q/DQ pairs, with weights stored as integers.

    Biases become INT32 where the layer's input has a known scale; of layers that compute in float, or whose input is
    quantized at run time, they stay float.
    """
    traced = graph.clone(model)
    for node in list(traced.graph.nodes):
        if graph.op_of(node) in ("conv", "linear"):
            _lower_bias(traced, node)
    for node in list(traced.graph.nodes):
        quantizer = quantizer_behind(traced, node)
        if quantizer is None:
            continue
        if quantizer.site.is_weight:
            _replace(traced, node, in_integers(quantizer, graph.tensor_of(traced, node.args[0])))
        else:
            _replace(traced, node, QuantizeDequantize(quantizer), *node.args)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    _drop_unread(traced)
    traced.recompile()
    return traced


def in_integers(quantizer: FakeQuantize, weight: Float[Tensor, "c ..."]) -> Dequantize:
    """A weight as the integers that its quantizer rounds it to."""
    rounded = quantizer(weight).detach()  # a half rounds as it does there
    scale, zero = quantizer.scale.expand(len(weight)).clone(), int(quantizer.zero_point[0])
    return Dequantize(rounded, scale, quantizer.site.dtype, quantizer.site.limits, zero)


def _drop_unread(traced: fx.GraphModule) -> None:
    """Forget the float weights of layers whose biases stay."""
    read = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    for name, _ in list(traced.named_parameters()):
        if name not in read:
            owner, _, own = name.rpartition(".")
            delattr(traced.get_submodule(owner), own)


def _lower_bias(traced: fx.GraphModule, node: fx.Node) -> None:
    if (module := _integer_bias(traced, node)) is not None:
        path = path_of(graph.name_of(cast(fx.Node, node.args[2]))) + LOWERED
        node.update_arg(2, _called(traced, node, path, module))


def _integer_bias(traced: fx.GraphModule, node: fx.Node) -> Dequantize | None:
    """Integer kernels add the bias to the accumulator, so its scale is input scale times weight scale."""
    x = quantizer_behind(traced, node.args[0])
    w = quantizer_behind(traced, node.args[1])
    b = node.args[2] if len(node.args) > 2 else None
    if x is None or x.site.dynamic or w is None or not isinstance(b, fx.Node):
        return None
    bias = graph.tensor_of(traced, b).detach()
    return Dequantize(bias, (x.scale * w.scale).expand(len(bias)).clone(), "int32", LIMITS["int32"])


def _replace(traced: fx.GraphModule, node: fx.Node, module: nn.Module, *args: fx.node.Argument) -> None:
    node.replace_all_uses_with(_called(traced, node, f"{node.target}{LOWERED}", module, *args))
    traced.graph.erase_node(node)


def _called(traced: fx.GraphModule, before: fx.Node, path: str, module: nn.Module, *args: fx.node.Argument) -> fx.Node:
    """A call of a module, put before a step; a module that stands at the path already is called again."""
    if not any(name == path for name, _ in traced.named_modules()):
        traced.add_submodule(path, module)
    with traced.graph.inserting_before(before):
        return traced.graph.call_module(path, args)


def path_of(quantizer: str) -> str:
    """Where a quantizer lives in the module tree; a module's name can't hold dots, so slashes stand for them."""
    return f"{PREFIX}{quantizer.replace('.', '/')}"
