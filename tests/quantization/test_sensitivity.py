"""Mixed precision: the layer that breaks is found, as few layers as possible go back to float, and they are float."""

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import rescompress
from rescompress import data, fakequant, graph, models
from rescompress.context import Context
from rescompress.fakequant import FakeQuantize, sites_of
from rescompress.fusion import fuse
from rescompress.placement import place
from rescompress.quantization import quantize
from rescompress.quantization.sensitivity import fewest_in_float, in_float, sensitivities, to_float, told
from rescompress.schemes import scheme_for

SCHEME = scheme_for("onnxruntime", "vnni")


@pytest.fixture(scope="module")
def digits() -> tuple[fx.GraphModule, Context]:
    model = rescompress.load("digits_resnet20")
    ctx = Context.of(model, "digits")
    made = quantize(fuse(model, ctx), ctx)
    assert isinstance(made, fx.GraphModule)
    return made, ctx


def held_out(ctx: Context, model: fx.GraphModule) -> Iterator[tuple[Tensor, Tensor]]:
    return data.batches(ctx.images("test").test, models.spec_of(model).preprocessing, 40, 120)


def spoilt(model: fx.GraphModule, *layers: str) -> fx.GraphModule:
    """The same network with three steps left for the weights of some layers."""
    made = graph.clone(model)
    for module in made.modules():
        if isinstance(module, FakeQuantize) and module.site.value in [f"{layer}.weight" for layer in layers]:
            module.scale *= 127
    models.describe(made, models.spec_of(model))
    return made


def placed(model: fx.GraphModule, layers: Any) -> Any:
    bare = graph.clone(model)
    to_float(bare, (), {})
    return place(bare, SCHEME, float_layers=layers)


def test_the_spoilt_layer_is_the_most_sensitive(digits: tuple[fx.GraphModule, Context]) -> None:
    model, ctx = digits
    images = next(held_out(ctx, model))[0]
    found = sensitivities(spoilt(model, "layer2.1.conv1"), images)
    assert found[0].layer == "layer2.1.conv1"
    assert len(found) == sum(site.is_weight for site in sites_of(model)) + 10  # nine adds and the pool
    assert [each.sqnr_db for each in found] == sorted(each.sqnr_db for each in found)


def test_just_the_spoilt_layers_go_back(digits: tuple[fx.GraphModule, Context]) -> None:
    model, ctx = digits
    bad = ("layer1.0.conv2", "layer3.1.conv1")
    broken = spoilt(model, *bad)
    layers, trials = fewest_in_float(
        broken, functools.partial(placed, model), lambda: held_out(ctx, model), most_lost=0.5
    )
    assert 1 <= len(layers) <= 2
    assert set(layers) <= set(bad)
    assert trials[0].layers == ()
    assert trials[0].accuracy.percent < 99
    assert next(trial for trial in trials if trial.layers == layers).accuracy.percent >= 99
    searched, found = told(trials, layers)
    assert searched.startswith("quantize: top-1 on 120 held-out images by the number of layers in float: 0: ")
    assert searched.count(" %") == len(trials)
    assert found == f"quantize: back in float: {', '.join(layers)}."


def test_nothing_goes_back_where_nothing_is_lost(digits: tuple[fx.GraphModule, Context]) -> None:
    model, ctx = digits
    layers, trials = fewest_in_float(
        model, functools.partial(placed, model), lambda: held_out(ctx, model), most_lost=1.0
    )
    assert layers == ()
    assert len(trials) == 1


def test_what_went_back_is_float_again(digits: tuple[fx.GraphModule, Context]) -> None:
    model, ctx = digits
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    made = graph.clone(model)
    with torch.no_grad():
        made.get_submodule("layer2.1.conv1").weight.mul_(0.5)
    to_float(made, placed(model, ["layer2.1.conv1"]), weights)
    assert not any(site.value == "layer2.1.conv1.weight" for site in sites_of(made))
    assert torch.equal(made.get_submodule("layer2.1.conv1").weight, weights["layer2.1.conv1.weight"])
    images = next(held_out(ctx, model))[0]
    names = {site.quantizer for site in sites_of(made)}
    with torch.no_grad(), fakequant.passing(model, names):
        assert torch.equal(made(images), model(images))
    assert len({site.quantizer for site in sites_of(made)}) == sum(isinstance(m, FakeQuantize) for m in made.modules())


def test_all_back_is_the_float_network(digits: tuple[fx.GraphModule, Context]) -> None:
    model, ctx = digits
    made = graph.clone(model)
    to_float(made, (), {})
    images = next(held_out(ctx, model))[0]
    with torch.no_grad(), fakequant.passing(model):
        assert torch.equal(made(images), model(images))
    assert sites_of(made) == ()


def test_what_rounding_moved_is_judged_against_the_float_network(digits: tuple[fx.GraphModule, Context]) -> None:
    """Rounding that was learned badly is no part of the goal, and a layer in float has its float weights."""
    model, ctx = digits
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    moved = graph.clone(model)
    with torch.no_grad():
        moved.get_submodule("layer2.1.conv1").weight.neg_()
    before = {name: tensor.detach().clone() for name, tensor in moved.named_parameters()}
    layers, trials = fewest_in_float(
        moved, functools.partial(placed, model), lambda: held_out(ctx, model), 1.0, weights
    )
    assert layers == ("layer2.1.conv1",)
    assert trials[0].accuracy.percent < trials[-1].accuracy.percent
    assert all(torch.equal(tensor, before[name]) for name, tensor in moved.named_parameters())
    images = next(held_out(ctx, model))[0]
    with torch.no_grad(), fakequant.passing(model):
        truth = model(images)
    with torch.no_grad(), in_float(moved, weights):
        assert torch.equal(moved(images), truth)
