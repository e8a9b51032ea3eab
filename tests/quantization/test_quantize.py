"""The stage: what it refuses, what it leaves alone, and what it makes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from rescompress import fakequant, metrics, models
from rescompress.context import Context
from rescompress.data import InMemory
from rescompress.errors import InputRefused, RecipeError
from rescompress.quantization import quantize
from tests.networks import context, fused, noise, quantized, same, snapshot, stock


def with_images(count: int) -> Context:
    made = context()
    assert made.data is not None
    split = made.data.calibration
    images = InMemory(split.read(range(count)), split.labels[:count])
    return replace(made, data=replace(made.data, calibration=images))


def test_a_network_with_batch_norms_is_refused() -> None:
    with pytest.raises(InputRefused, match=r"BatchNorms.*Run fuse before quantize"):
        quantize(stock("cifar", "resnet8"), context())


def test_a_quantized_network_is_refused() -> None:
    with pytest.raises(InputRefused, match="quantized already"):
        quantize(quantized("cifar", "resnet8"), context())


def test_too_few_images_are_refused() -> None:
    with pytest.raises(InputRefused, match="at least 16 images, but there are 15"):
        quantize(fused("cifar", "resnet8"), with_images(15))


def test_no_images_are_refused() -> None:
    with pytest.raises(RecipeError, match="quantize needs images"):
        quantize(fused("cifar", "resnet8"), Context())


@pytest.mark.parametrize(
    "knobs", [{"calibration_images": 15}, {"runtime": "onnxruntim"}, {"observer": "mean"}, {"precision": "int4"}]
)
def test_a_wrong_knob_is_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        quantize(fused("cifar", "resnet8"), context(), **knobs)  # type: ignore[arg-type]


def test_weights_that_give_no_numbers_name_the_layer() -> None:
    model = copy.deepcopy(fused("cifar", "resnet8"))
    model.layer2[0].conv1.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputRefused, match=r"output of layer2\.0\.relu is not a number"):
        quantize(model, context())


def test_the_argument_is_not_edited() -> None:
    model = copy.deepcopy(fused("cifar", "resnet8"))
    before = snapshot(model)
    made = quantize(model, context(), calibration_batch=4)
    assert same(before, snapshot(model))
    assert not {p.data_ptr() for p in made.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert models.spec_of(made) == models.spec_of(model)


def test_int8_stays_near_float() -> None:
    model = fused("cifar", "resnet8")
    images = noise(model, 32)
    logits, answer = (models.predict(made, [images]).numpy() for made in (model, quantized("cifar", "resnet8")))
    assert metrics.sqnr_db(logits, answer) > 20


def test_a_quantized_network_can_be_trained() -> None:
    model = copy.deepcopy(quantized("cifar", "resnet8").state_dict())
    trainable = quantized("cifar", "resnet8")
    loss = nn.functional.cross_entropy(trainable(noise(trainable, 4)), torch.arange(4))
    gradients = torch.autograd.grad(loss, list(trainable.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) == len(gradients)
    assert all(torch.equal(tensor, model[name]) for name, tensor in trainable.state_dict().items())


def test_every_scale_was_set() -> None:
    model = quantized("cifar", "resnet8")
    for site in fakequant.sites_of(model):
        scale = fakequant.quantizer_of(model, site).scale
        padding = site.value.endswith("shortcut.weight")  # its empty channels keep the scale 1
        assert padding or (scale != 1).all(), f"{site.value} kept the scale that insert starts with"
        assert (scale > 0).all()
