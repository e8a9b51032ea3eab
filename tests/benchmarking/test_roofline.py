"""Rooflines against numbers worked out by hand, and every device that is shipped."""

from pathlib import Path

import pytest
import yaml

from rescompress import recipe
from rescompress.benchmarking import roofline
from rescompress.benchmarking.estimators import estimator
from rescompress.benchmarking.layers import LayerShape, Target
from rescompress.benchmarking.roofline import device, devices
from rescompress.errors import RecipeError

FILES = sorted((Path(__file__).parents[2] / "recipes" / "devices").glob("*.yaml"))
CONV = LayerShape("conv", 12, 20, (3, 3), (1, 1), (1, 1), height=10, width=10)
TOY = {
    "name": "Toy",
    "model": True,
    "source": "made up",
    "peak_tera_ops": {"fp32": 0.001, "int8": 0.004},
    "bandwidth_gb_s": 1,
    "alignment": {"fp32": 8, "int8": 32},
    "efficiency": 0.5,
    "layer_overhead_us": 7,
}


@pytest.fixture
def toy(tmp_path):
    def make(**changes):
        file = tmp_path / "toy.yaml"
        file.write_text(yaml.safe_dump({**TOY, **changes}))
        return str(file)

    return make


def test_arithmetic_bounds_a_heavy_layer(toy):
    # 16 x 24 channels are computed: 2 x 16 x 24 x 9 x 100 operations at 0.5 x 10^9 a second
    told = estimator(Target(device=toy()))
    assert told.seconds(CONV) == pytest.approx(2 * 16 * 24 * 900 / 0.5e9 + 7e-6)
    assert told.modelled
    assert "model" in told.name


def test_memory_bounds_a_light_layer(toy):
    # bytes: weights 8 x 8, input 8 x 100 and output 8 x 100 of 4 bytes each at 10^6 a second
    light = LayerShape("conv", 8, 8, height=10, width=10)
    slow = toy(bandwidth_gb_s=0.001)
    assert estimator(Target(device=slow)).seconds(light) == pytest.approx(4 * (64 + 800 + 800) / 1e6 + 7e-6)
    batch = estimator(Target(device=slow, batch=3)).seconds(light)
    assert batch == pytest.approx(4 * (64 + 3 * 1600) / 1e6 + 7e-6)
    summed = LayerShape("conv", 8, 8, height=10, width=10, added=True)
    assert estimator(Target(device=slow)).seconds(summed) == pytest.approx(4 * (64 + 2400) / 1e6 + 7e-6)


def test_precision_has_its_own_rate_and_width(toy):
    told = estimator(Target(device=toy(), precision="int8"))
    assert told.seconds(CONV) == pytest.approx(2 * 32 * 32 * 900 / 2e9 + 7e-6)


def test_grouped_layers_see_only_their_groups(toy):
    grouped = LayerShape("conv", 16, 16, (3, 3), (1, 1), (1, 1), groups=4, height=10, width=10)
    assert estimator(Target(device=toy())).seconds(grouped) == pytest.approx(2 * 4 * 16 * 900 / 0.5e9 + 7e-6)


def test_threads_share_a_processor(toy):
    file = toy(cores=4, layer_overhead_us=0)
    one, two, nine = (estimator(Target(device=file, threads=n)).seconds(CONV) for n in (1, 2, 9))
    assert (one / two, one / nine) == pytest.approx((2, 4))


def test_linear_layers_are_counted_too(toy):
    told = estimator(Target(device=toy(bandwidth_gb_s=1000)))
    assert told.seconds(LayerShape("linear", 64, 8)) == pytest.approx(2 * 64 * 8 / 0.5e9 + 7e-6)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_device_says_what_it_is_and_where_its_numbers_are_from(file):
    found = device(file.stem)
    assert found.model is True
    assert found.source
    assert file.read_text("utf-8").startswith("# ")
    assert set(found.alignment) == set(found.peak_tera_ops)
    for precision in found.peak_tera_ops:
        told = estimator(Target(device=file.stem, precision=precision))
        assert told.seconds(CONV) < told.seconds(LayerShape("conv", 512, 512, (3, 3), height=56, width=56))


def test_devices_are_shipped_and_are_no_recipes():
    assert {"t4", "h100", "jetson_orin_nano", "apple_ane"} <= set(devices()) == {file.stem for file in FILES}
    assert not set(devices()) & set(recipe.shipped())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bandwidth_gb_s": 0}, "bandwidth_gb_s must be greater than 0"),
        ({"model": False}, "model must be True"),
        ({"bandwith": 3}, "has no knob 'bandwith'"),
        ({"peak_tera_ops": {"fp32": float("inf")}}, "peak_tera_ops.fp32 must be a finite number"),
    ],
)
def test_wrong_device_is_one_sentence(toy, changes, said):
    with pytest.raises(RecipeError) as caught:
        device(toy(**changes))
    assert said in caught.value.fact


def test_unknown_device_and_broken_file(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'h100'"):
        device("h10")
    (tmp_path / "bad.yaml").write_text("{")
    with pytest.raises(RecipeError, match="is no YAML"):
        device(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RecipeError):
        device(str(tmp_path / "list.yaml"))


def test_precision_that_a_device_lacks_is_refused():
    with pytest.raises(RecipeError, match="no rate for fp32"):
        estimator(Target(device="apple_ane"))
    with pytest.raises(RecipeError, match="can't be measured"):
        estimator(Target(precision="fp16"))


def test_installed_folder_comes_with_the_wheel():
    assert roofline.SHIPPED[0].parts[-2:] == ("_recipes", "devices")
