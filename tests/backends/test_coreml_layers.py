"""What the saved Core ML program computes inside is what eager computes, value by value, and a wrong layer shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from rescompress import backends, graph, models
from rescompress.backends import OUTPUT, ROUNDED
from tests.backends.test_coreml import expected, integers, made, noise, tiny

pytest.importorskip("coremltools", reason="coremltools is not installed")
pytestmark = pytest.mark.xdist_group("contract")

coreml: Any = backends.get("coreml")


def inside(model: torch.nn.Module, images: torch.Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def seen(node: fx.Node, value: Any) -> None:
        if node.op == "call_module":
            found.setdefault(graph.name_of(node.all_input_nodes[0]) + ROUNDED, value.numpy())
        elif node.op == "call_function":
            found[graph.name_of(node)] = value.numpy()

    traced = graph.capture(model, models.spec_of(model).input_shape)
    with torch.no_grad():
        graph.watch(traced, images, seen)
    return found


def test_every_step_of_a_float_network_is_shown_in_batches_too(tmp_path: Path) -> None:
    images = noise(tiny(), 5)
    shown = coreml.written_layers(made(tiny(), tmp_path, floats="fp32", batch=2), images.numpy())
    wanted = inside(tiny(), images)
    np.testing.assert_allclose(shown.pop(OUTPUT), expected(tiny(), images), atol=1e-5)
    assert set(shown) == set(wanted)
    for name, value in shown.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-5)


def test_rounded_values_have_the_scales_of_the_network_behind_divided_adds_too(tmp_path: Path) -> None:
    model = integers("calibrated")
    images = noise(model, 3)
    shown = coreml.written_layers(made(model, tmp_path, floats="fp32"), images.numpy())
    wanted = inside(model, images)
    assert {"images.rounded", "layer2.0.relu_1.rounded", "layer2.0.conv1", "avg_pool.rounded", "linear"} <= set(shown)
    for name in set(shown) & set(wanted):
        np.testing.assert_allclose(shown[name], wanted[name], atol=1e-5)
    left_out = {"layer1.0.add", "layer1.0.relu_1"}  # in another scale
    assert not left_out & set(shown)
