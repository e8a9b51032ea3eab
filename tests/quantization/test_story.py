"""Quantizing as its user meets it: what each knob does to the whole, alone and beside others."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import rescompress
from rescompress import checkpoint, data, fakequant, metrics, models, progress
from rescompress.context import Context
from rescompress.data import InMemory
from rescompress.errors import InputRefused, RecipeError
from rescompress.fakequant import FakeQuantize, sites_of
from rescompress.placement import place
from rescompress.quantization import calibrate, quantize
from rescompress.schemes import scheme_for
from tests.networks import captured, context, fused, noise

BRIEF = {"epochs": 1, "batch": 16, "augment": "none"}
QUICK = {"adaround": {"steps": 3, "images": 16}}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return fused("cifar", "resnet8")


@pytest.fixture(scope="module")
def ctx() -> Context:
    return context(count=16)


@pytest.fixture(scope="module")
def plain(net: nn.Module, ctx: Context) -> fx.GraphModule:
    """Every knob as it is by default, on a processor with VNNI."""
    return made(net, ctx)[0]


@pytest.fixture(scope="module")
def file(net: nn.Module, ctx: Context, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("story") / "statistics.safetensors"
    calibrate(net, ctx, path)
    return path


def made(model: nn.Module, ctx: Context, **knobs: Any) -> tuple[fx.GraphModule, list[str]]:
    """The quantized network, and what was noted."""
    with progress.gathered() as notes:
        done = quantize(model, ctx, **{"cpu": "vnni", **knobs})
    assert isinstance(done, fx.GraphModule)
    return done, notes


def equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def sqnr_db(model: nn.Module, exact: nn.Module) -> float:
    images = noise(exact, 16)
    return metrics.sqnr_db(*(models.predict(each, [images]).numpy() for each in (exact, model)))


def in_int8(model: fx.GraphModule) -> set[str]:
    return {site.value.removesuffix(".weight") for site in sites_of(model) if site.is_weight}


def ill(model: nn.Module, factor: float = 2.0**10) -> nn.Module:
    """The same function with one channel between two layers a thousand times as large as its neighbours."""
    spoilt = copy.deepcopy(model)
    with torch.no_grad():
        spoilt.layer1[0].conv1.weight[0] *= factor
        spoilt.layer1[0].conv1.bias[0] *= factor
        spoilt.layer1[0].conv2.weight[:, 0] /= factor
    return spoilt


@pytest.mark.parametrize(
    "knobs",
    [
        {"weight_bits": 4, "rounding": QUICK},
        pytest.param({"qat": "learned", "schedule": BRIEF}, marks=pytest.mark.slow),
    ],
)
def test_equal_inputs_give_equal_bits(
    net: nn.Module, ctx: Context, knobs: dict[str, Any], plain: fx.GraphModule
) -> None:
    first = made(net, ctx, **knobs)[0]
    assert equal(first, made(net, ctx, **knobs)[0])
    assert not equal(first, plain)


@pytest.mark.parametrize(
    "precision", ["w4", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("w8", "dynamic"))]
)
def test_weights_alone_need_no_images_and_come_back_from_a_file(precision: str, net: nn.Module, tmp_path: Path) -> None:
    model, notes = made(net, Context(), precision=precision)
    kinds = {(site.dtype, site.dynamic) for site in sites_of(model)}
    wanted = {"w8": {("int8", False)}, "w4": {("int4", False)}, "dynamic": {("int8", False), ("uint8", True)}}
    assert kinds == wanted[precision]
    assert notes == []
    assert sqnr_db(model, net) > (10 if precision == "w4" else 25)
    checkpoint.save(model, tmp_path / "model.safetensors")
    again = checkpoint.load(tmp_path / "model.safetensors")
    assert equal(model, again)
    assert torch.equal(*(models.predict(each, [noise(net, 4)]) for each in (model, again)))


@pytest.mark.parametrize(("images", "solved"), [(True, True), (False, False)])
def test_4_bits_are_solved_where_there_are_images(images: bool, solved: bool, net: nn.Module, ctx: Context) -> None:
    def said(**knobs: Any) -> bool:
        return any(note.startswith("gptq: ") for note in made(net, ctx if images else Context(), **knobs)[1])

    assert said(precision="w4") == solved
    if images:
        assert said(weight_bits=4)
        assert not said(weight_bits=4, rounding="nearest")


def test_four_bits_solved_by_gptq_are_corrected_by_the_float_network(net: nn.Module) -> None:
    ctx = context(count=32)
    solved, notes = made(net, ctx, precision="w4", rounding="gptq")
    assert any(note.startswith("gptq: ") for note in notes)
    assert any(note.startswith("correct: ") for note in notes)
    plain, notes = made(net, ctx, precision="w4", rounding="gptq", correction="off")
    assert not any(note.startswith("correct: ") for note in notes)
    nearest, _ = made(net, ctx, precision="w4", rounding="nearest")
    assert ctx.data
    images = data.normalize(ctx.data.calibration.read(range(32)), models.spec_of(net).preprocessing)
    exact, *rounded = (models.predict(each, [images]).numpy() for each in (net, nearest, plain, solved))
    assert sorted(closeness := [metrics.sqnr_db(exact, logits) for logits in rounded]) == closeness


def test_four_bits_that_are_rounded_to_nearest_reach_the_largest_weight(net: nn.Module) -> None:
    model, _ = made(net, Context(), precision="w4")
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    assert all(site.is_weight for site in sites_of(model))
    for site in sites_of(model):
        largest = tensors[site.value].flatten(1).abs().amax(1)
        scale = fakequant.quantizer_of(model, site).scale
        assert torch.allclose(scale, torch.where(largest > 0, largest / 7, 1.0))


@pytest.mark.parametrize(
    "runtime", ["tensorrt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "coreml", "litert"))]
)
def test_each_runtime_gets_its_own_sites_from_one_calibration(
    runtime: Any, net: nn.Module, ctx: Context, file: Path, plain: fx.GraphModule
) -> None:
    model, _ = made(net, ctx, runtime=runtime, calibration=file)
    assert sites_of(model) == place(captured("cifar", "resnet8"), scheme_for(runtime, "vnni"))
    assert sites_of(model) != sites_of(plain) or runtime == "openvino"  # whose pooling is the same on this network
    assert sqnr_db(model, net) > 15


def test_only_a_processor_without_vnni_gets_wider_scales(net: nn.Module, ctx: Context, plain: fx.GraphModule) -> None:
    safe, notes = made(net, ctx, cpu="avx2")
    assert len([note for note in notes if "Weight scales were widened" in note]) == 1
    assert sites_of(safe) == sites_of(plain)
    wider = 0
    for site in sites_of(plain):
        before, after = (fakequant.quantizer_of(model, site).scale for model in (plain, safe))
        assert torch.equal(before, after) if not site.is_weight else bool((after >= before).all())
        wider += int((after > before).sum())
    assert wider > 0


def test_a_file_gives_what_calibrating_now_gives(
    net: nn.Module, ctx: Context, file: Path, plain: fx.GraphModule
) -> None:
    assert equal(plain, made(net, ctx, calibration=file)[0])


def test_a_file_of_something_else_is_refused(net: nn.Module, ctx: Context, file: Path) -> None:
    with pytest.raises(InputRefused, match="another network, or with other weights"):
        quantize(ill(net), ctx, calibration=file)
    with pytest.raises(InputRefused, match="calibrated on other images"):
        quantize(net, context(count=32), calibration=file)


@pytest.mark.slow
def test_what_moves_channels_calibrates_again(net: nn.Module, ctx: Context, tmp_path: Path) -> None:
    spoilt = ill(net)
    calibrate(spoilt, ctx, tmp_path / "ill.safetensors")
    model, notes = made(spoilt, ctx, calibration=tmp_path / "ill.safetensors")
    assert sum("calibrated again" in note for note in notes) == 1
    assert equal(model, made(spoilt, ctx)[0])


def test_an_ill_network_is_mended_unless_that_is_forbidden(net: nn.Module, ctx: Context, plain: fx.GraphModule) -> None:
    model, notes = made(ill(net), ctx)
    assert any("would keep less than 20 dB" in note for note in notes)
    assert any("channels were scaled by powers of two" in note for note in notes)
    bare, silent = made(ill(net), ctx, equalization="off", correction="off", importance_images=0)
    assert not any("equalize" in note or "correct" in note for note in silent)
    assert sqnr_db(model, net) > sqnr_db(bare, net) + 10
    assert sqnr_db(model, net) > sqnr_db(plain, net) - 3


def test_a_healthy_network_is_left_alone(net: nn.Module, ctx: Context, plain: fx.GraphModule) -> None:
    model, notes = made(net, ctx, equalization="off", absorption="off", correction="off")
    assert equal(plain, model)
    said = [note for note in notes if not note.startswith("gptq: ")]
    assert said == ["Calibration sees 16 images; ranges vary less with 128 and more."]  # once


def test_a_trained_network_is_corrected_unasked_and_comes_closer_to_its_floats() -> None:
    model = rescompress.load("digits_resnet20")
    real = Context.of(model, "digits")
    folded, images = rescompress.fuse(model, real), real.images("test").test
    shown = next(data.batches(images, models.spec_of(folded).preprocessing, 360))[0]
    found = {}
    for correction in ("auto", "off"):
        quantized, notes = made(folded, real, correction=correction)
        assert any(note.startswith("correct: the means and deviations") for note in notes) == (correction == "auto")
        found[correction] = metrics.sqnr_db(*(models.predict(each, [shown]).numpy() for each in (folded, quantized)))
    assert found["auto"] > found["off"]


@pytest.mark.slow
def test_a_healthy_network_gets_what_is_asked_for(net: nn.Module, ctx: Context, plain: fx.GraphModule) -> None:
    model, notes = made(net, ctx, equalization="on", absorption="on", correction="moments")
    assert not equal(plain, model)
    assert any(note.startswith("equalize: ") for note in notes)
    assert any("the means and deviations" in note for note in notes)
    assert not any("All channels" in note or "No channel" in note for note in notes)  # no reason not to


def test_what_shall_stay_float_does(net: nn.Module, ctx: Context, plain: fx.GraphModule) -> None:
    model, _ = made(net, ctx, first=False, classifier=False, float_layers=("layer2.0.conv1",))
    assert in_int8(plain) - in_int8(model) == {"conv1", "linear", "layer2.0.conv1"}
    with pytest.raises(RecipeError, match=r"no layer layer2\.0\.conv9.*layer2\.0\.conv"):
        quantize(net, ctx, float_layers=("layer2.0.conv9",))


@pytest.mark.slow
def test_the_layer_that_breaks_goes_back_to_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel so large that its neighbours vanish in INT8: the layer that reads it must be float, no other."""
    from rescompress.quantization import work

    monkeypatch.setattr(work, "HELD_OUT", 64)
    monkeypatch.setattr(work, "LEAST_HELD_OUT", 32)
    model = rescompress.load("digits_resnet20")
    ctx = Context.of(model, "digits")
    broken = ill(rescompress.fuse(model, ctx), 2.0**12)
    knobs: dict[str, Any] = {"equalization": "off", "observer": "minmax", "calibration_images": 32}
    knobs["runtime"] = "openvino"  # where the layer that makes the value may stay in INT8
    made_, notes = made(broken, ctx, max_drop=2.0, **knobs)
    search, found = (note for note in notes if note.startswith("quantize: ") and "in float" in note)
    assert "top-1 on 64 held-out images by the number of layers in float: 0: " in search
    assert found == "quantize: back in float: layer1.0.conv2."
    assert "layer1.0.conv2" not in in_int8(made_)
    assert len(in_int8(made_)) == len(in_int8(made(broken, ctx, **knobs)[0])) - 1
    assert torch.equal(made_.get_submodule("layer1.0.conv2").weight, broken.get_submodule("layer1.0.conv2").weight)


@pytest.mark.parametrize("scales", [pytest.param("fixed", marks=pytest.mark.slow), "learned"])
def test_training_moves_scales_only_where_they_are_learned(
    scales: Any, net: nn.Module, ctx: Context, plain: fx.GraphModule, tmp_path: Path
) -> None:
    model, _ = made(net, ctx, qat=scales, schedule=BRIEF)
    same = [torch.equal(*(fakequant.quantizer_of(m, s).scale for m in (plain, model))) for s in sites_of(plain)]
    assert all(same) if scales == "fixed" else sum(same) <= 1 + sum("shortcut" in s.value for s in sites_of(plain))
    assert not torch.equal(plain.get_submodule("conv1").weight, model.get_submodule("conv1").weight)
    assert {type(m) for m in model.modules() if isinstance(m, FakeQuantize)} == {FakeQuantize}
    checkpoint.save(model, tmp_path / "model.safetensors")
    assert equal(model, checkpoint.load(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"precision": "w8", "calibration": "a.safetensors"}, "no activations to calibrate"),
        ({"precision": "w4", "qat": "learned"}, "qat trains INT8, not w4"),
        ({"precision": "dynamic", "weight_bits": 4}, "weight_bits is for weights beside INT8"),
        ({"precision": "w8", "equalization": "on"}, "equalization goes by what images do"),
        ({"precision": "dynamic", "correction": "analytic"}, "correction goes by what images do"),
        ({"schedule": BRIEF}, "schedule is for QAT, which is off"),
        ({"qat": "learned", "schedule": {"epochs": 0}}, "epochs must be"),
        ({"max_drop": -1}, "max_drop must be"),
        ({"rounding": {"adaround": {"steps": 0}}}, "steps must be"),
        ({"rounding": {"nearest": {"steps": 1}}}, "nearest has no knob 'steps'"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(knobs: dict[str, Any], said: str, net: nn.Module) -> None:
    with pytest.raises(RecipeError, match=said):
        quantize(net, Context(), **knobs)


@pytest.mark.parametrize("knobs", [{}, {"precision": "w8", "max_drop": 1.0}, {"precision": "w4", "rounding": QUICK}])
def test_what_looks_at_images_says_that_it_needs_them(knobs: dict[str, Any], net: nn.Module) -> None:
    with pytest.raises(RecipeError, match="quantize needs images"):
        quantize(net, Context(), **knobs)


def test_images_that_show_nothing_are_refused(net: nn.Module, ctx: Context) -> None:
    assert ctx.data
    grey = InMemory(torch.full((32, 3, 32, 32), 128, dtype=torch.uint8), torch.arange(32) % 10)
    with pytest.raises(InputRefused, match="Every calibration image is of one colour"):
        quantize(net, replace(ctx, data=replace(ctx.data, calibration=grey)))
    one = InMemory(ctx.data.calibration.read([0] * 32), torch.arange(32) % 10)
    with pytest.raises(InputRefused, match="at least 16 different images, but among 32 there are 1"):
        quantize(net, replace(ctx, data=replace(ctx.data, calibration=one)))


def test_top_1_of_maps_is_no_limit(net: nn.Module, ctx: Context) -> None:
    backbone = models.describe(copy.deepcopy(net), replace(models.spec_of(net), output="maps"))
    with pytest.raises(InputRefused, match="max_drop goes by top-1, and this model gives back maps"):
        quantize(backbone, ctx, max_drop=1.0)


class Standardized(nn.Module):
    """A convolution whose weight is computed while the network runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv2.weight / self.conv2.weight.std()
        x = nn.functional.conv2d(self.conv1(x).relu(), weight, self.conv2.bias)
        out: Tensor = self.linear(x.relu().mean((2, 3)))
        return out


def test_a_layer_that_cannot_be_quantized_is_named() -> None:
    spec = models.built_by("tests.quantization.test_story:Standardized", 3)
    net = models.build(replace(spec, preprocessing=replace(spec.preprocessing, resize=16, crop=16)))
    model, notes = made(net.eval(), context(3, 16, 16))
    assert in_int8(model) == {"conv1", "linear"}
    assert len([note for note in notes if "stays in float: its weight is computed" in note]) == 1
