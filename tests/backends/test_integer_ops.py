"""Each op in integers, on small tensors: eager fake-quant, ONNX's reference evaluator and ONNX Runtime say the same.

Where all scales are powers of two, nothing that is computed needs rounding but the steps themselves, so that all of
them agree to the bit, halves included, as long as zero-points are even: ``QuantizeLinear`` rounds a half to even and
then adds the zero-point, which ONNX Runtime's fused kernels add before they round. With other scales, a value that
lies on the border of two steps may fall on either side, because each sums in another order. Then they differ by a step.
"""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from rescompress import fakequant, graph, models, onnx_writing
from rescompress.placement import place
from rescompress.schemes import ONNXRUNTIME, ONNXRUNTIME_ARM
from tests.networks import cached, custom

pytestmark = pytest.mark.xdist_group("semantics")

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

OPS = ("conv", "conv + relu", "grouped", "add", "add + relu", "pools", "avg_pool", "global", "excited", "linear")
SIDE = 8
Kind = Literal["even", "odd", "any"]
"""Scales that are powers of two, with even or odd zero-points, or any scales."""
ROUNDS_LATE = ("grouped", "add", "pools", "avg_pool", "global", "excited")
"""Outputs with a zero-point inside the range, which an odd one moves by a step where a half was rounded."""
SCHEMES = {"unsigned": ONNXRUNTIME, "signed": ONNXRUNTIME_ARM}


class Ops(nn.Module):
    """Every op that ONNX Runtime has in INT8, each with an output of its own; behind a max-pool comes another op."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.plain = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.squeeze = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of ``OPS``."""
        plain = self.plain(images)
        x = torch.relu(self.conv(images))
        grouped = self.grouped(x)
        total = grouped + x
        active = torch.relu(plain + x)
        means = x.mean((2, 3), keepdim=True)
        excited = active * torch.sigmoid(self.squeeze(means))
        pooled = (nn.functional.avg_pool2d(nn.functional.max_pool2d(x, 2), 2), nn.functional.avg_pool2d(x, 2))
        return (plain, x, grouped, total, active, *pooled, means, excited, self.linear(means.flatten(1)))


@cached
def quantized(scheme: str, kind: Kind) -> fx.GraphModule:
    """The ops with random weights, scales and zero-points."""
    facts, odd = SCHEMES[scheme], kind != "even"
    generator = torch.Generator().manual_seed(len(scheme) + len(kind))
    torch.manual_seed(0)
    model = custom(Ops(), SIDE)
    traced = graph.capture(model, (3, SIDE, SIDE))
    models.describe(traced, models.spec_of(model))
    values = graph.values(traced)
    sites = place(traced, facts)
    fakequant.insert(traced, sites)
    for site in sites:
        quantizer = fakequant.quantizer_of(traced, site)
        shape = quantizer.scale.shape
        powers = torch.randint(-8, -5, shape, generator=generator) if site.is_weight else torch.tensor([-4])
        factors = 1.0 if kind != "any" else 0.5 + torch.rand(shape, generator=generator)
        quantizer.scale.copy_(2.0**powers * factors)
        if not site.is_weight:
            low, high = site.limits
            positive = graph.op_of(values[site.value]) in ("relu", "sigmoid")
            middle = 2 * int(torch.randint((low + 64) // 2, (high - 64) // 2, (), generator=generator)) + odd
            quantizer.zero_point.fill_(low if positive else middle)
    fakequant.round_biases(traced)
    return traced


def answers(scheme: str, kind: Kind, images: NDArray[np.float32]) -> dict[str, list[NDArray[np.float32]]]:
    """By evaluator, the integers' distance from eager's for each op, in steps; of the linear layer, in float."""
    model = quantized(scheme, kind)
    with torch.no_grad():
        expected = [output.numpy() for output in model(torch.from_numpy(images))]
    steps = [1.0 if op == "linear" else step_behind(model, place) for place, op in enumerate(OPS)]
    found = {name: run(None, {"images": images}) for name, run in evaluators(scheme, kind).items()}
    return {
        name: [np.abs(ours - theirs) / step for ours, theirs, step in zip(expected, outputs, steps, strict=True)]
        for name, outputs in found.items()
    }


def step_behind(model: fx.GraphModule, place: int) -> float:
    """The scale of an output."""
    (outputs,) = next(node for node in model.graph.nodes if node.op == "output").args
    quantizer = fakequant.quantizer_behind(model, outputs[place])
    assert quantizer is not None
    return float(quantizer.scale)


@cached
def evaluators(scheme: str, kind: Kind) -> dict[str, Any]:
    """The same file, three times: by the standard, and with ONNX Runtime's optimizations on and off."""
    from onnx.reference import ReferenceEvaluator

    model = quantized(scheme, kind)
    content = onnx_writing.proto_of(model, models.spec_of(model), 21).SerializeToString()
    made: dict[str, Any] = {"reference": ReferenceEvaluator(onnx.load_from_string(content)).run}
    for name in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, name)
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        made[name] = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run
    return made


images = st.builds(
    lambda seed, count, size: (size * np.random.default_rng(seed).standard_normal((count, 3, SIDE, SIDE))).astype(
        np.float32
    ),
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.sampled_from([0.5, 2.0, 8.0]),
)


@pytest.mark.parametrize("scheme", ["unsigned", pytest.param("signed", marks=pytest.mark.slow)])
@given(images=images)
@settings(max_examples=8)
def test_all_agree_to_the_bit_where_only_steps_are_rounded(scheme: str, images: NDArray[np.float32]) -> None:
    for name, distances in answers(scheme, "even", images).items():
        for op, distance in zip(OPS, distances, strict=True):
            assert distance.max() == 0, (name, op)


def test_fused_kernels_round_halves_otherwise_where_a_zero_point_is_odd() -> None:
    found = answers("unsigned", "odd", np.random.default_rng(0).standard_normal((8, 3, SIDE, SIDE), np.float32))
    for name, distances in found.items():
        for op, distance in zip(OPS, distances, strict=True):
            late = name == "ORT_ENABLE_ALL" and op in ROUNDS_LATE
            assert distance.max() <= (1 if late else 0), (name, op)
    assert found["ORT_ENABLE_ALL"][OPS.index("avg_pool")].max() == 1


@given(images=images)
@settings(max_examples=8)
def test_with_any_scales_all_agree_within_a_step(images: NDArray[np.float32]) -> None:
    for name, distances in answers("unsigned", "any", images).items():
        for op, distance in zip(OPS[:-1], distances, strict=False):
            assert distance.max() < 1.01, (name, op)
            assert (distance > 0.01).mean() <= 0.02, (name, op)
