"""Calibration watches every candidate at once, and goes on from its file to the same bytes."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rescompress import backends, catalog, graph, models
from rescompress.context import Context
from rescompress.errors import InputRefused, RecipeError
from rescompress.placement import place
from rescompress.quantization import calibration, statistics
from rescompress.quantization.calibration import calibrate, candidates, gather
from rescompress.quantization.histogram import Histogram
from rescompress.quantization.statistics import EVERY, LARGE, Statistics
from tests.networks import captured, context, fused, noise, quantized, stock
from tests.quantization.test_histogram import histogram, outcome

NETWORKS = [("cifar", "resnet8"), ("se", "se_resnet18"), ("preact", "preact_resnet18")]
FIRST = 16
"""Images after which the calibrations below are interrupted."""


def test_watched_values_are_counted_by_name() -> None:
    traced = captured("cifar", "resnet8")
    images = noise(traced, 4)
    found = gather(traced, [images[:1], images[1:]], {"images", "layer3.0.relu_1"})
    assert set(found.histograms) == set(found.channels) == {"images", "layer3.0.relu_1"}
    assert outcome(found.histogram("images")) == outcome(histogram(images.flatten().tolist()))
    assert found.histogram("layer3.0.relu_1").low == 0
    assert found.images == 4


def test_extremes_of_channels_are_those_of_all_images() -> None:
    traced = captured("cifar", "resnet8")
    images = noise(traced, 6)
    seen: dict[str, torch.Tensor] = {}
    graph.watch(traced, images, lambda node, value: seen.update({node.meta.get("value_name", ""): value}))
    found = gather(traced, images.split(3), ["images", "layer2.0.conv2", "linear"])
    for name, extremes in found.channels.items():
        rows = seen[name].transpose(0, 1).flatten(1)
        expected = torch.stack([rows.min(1).values, rows.max(1).values], 1)
        torch.testing.assert_close(extremes, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_quarter_of_large_maps_is_counted_whatever_the_batch(size: int) -> None:
    images = torch.randn(8, 64, 41, 40, generator=torch.Generator().manual_seed(3))
    images[2, 5, 7, 9], images[6, 0, 0, 0] = 50.0, -60.0
    made = Statistics()
    for batch in images.split(size):
        made.update("maps", batch)
        made.images += len(batch)
    rows = [range(-place % EVERY, 41, EVERY) for place in range(8)]
    assert {row for some in rows for row in some} == set(range(41))
    counted = [image[:, some].flatten() for image, some in zip(images, rows, strict=True)]
    ends = [end for image in images for end in image.aminmax()]
    whole = histogram(torch.cat([*counted, torch.stack(ends)]).tolist())
    assert outcome(made.histogram("maps")) == outcome(whole)
    assert (whole.low, whole.high) == (-60, 50)
    again = Histogram.of(whole.low, whole.high, made.histogram("maps").counts)
    assert outcome(again) == outcome(whole)


@pytest.mark.parametrize("shape", [(2, 64, 32, 32), (2, LARGE, 3, 1), (2, LARGE + 1)])
def test_maps_that_are_not_large_and_have_few_rows_are_counted_whole(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape)
    made = Statistics()
    made.update("maps", images)
    assert made.histogram("maps").total == images.numel()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_found_in_rows_that_are_not_counted(bad: float) -> None:
    images = torch.zeros(1, 64, 40, 40)
    images[0, 0, 1, 0] = bad
    with pytest.raises(ValueError, match="not a number"):
        Statistics().update("maps", images)


def test_the_batch_hardly_changes_what_a_network_shows() -> None:
    """A convolution may sum in another order, so nothing is equal to the bit."""
    traced = captured("cifar", "resnet8")
    images = noise(traced, 8)
    one, other = (gather(traced, images.split(size), ["layer1.0.add", "linear"]).histograms for size in (2, 8))
    for name, made in one.items():
        assert (made.low, made.high) == pytest.approx((other[name].low, other[name].high), rel=1e-5)
        assert (made.total, made.width, made.first) == (other[name].total, other[name].width, other[name].first)
        assert (made.counts - other[name].counts).abs().sum() <= made.total / 1000


def test_the_number_of_threads_changes_nothing() -> None:
    """What a thread does, it does alone; only which is first differs."""
    traced, before = captured("cifar", "resnet8"), torch.get_num_threads()
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            found.append(gather(traced, noise(traced, 12).split(2), candidates(traced)))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    for name, made in found[0].histograms.items():
        for other in found[1:]:
            assert outcome(other.histograms[name]) == outcome(made)
            assert torch.equal(other.channels[name], found[0].channels[name])


def test_what_is_kept_has_whole_batches_only() -> None:
    traced, seen = captured("cifar", "resnet8"), list[tuple[int, int]]()

    def keep(made: Statistics) -> None:
        seen.append((made.images, made.histogram("linear").total))

    found = gather(traced, noise(traced, 11).split(2), ["linear"], keep=keep)
    assert [total for _, total in seen] == [10 * images for images, _ in seen]
    assert [images for images, _ in seen] == sorted({images for images, _ in seen})
    assert seen[-1][0] == found.images == 11


def test_a_broken_layer_is_named() -> None:
    traced = captured("cifar", "resnet8")
    images = noise(traced)
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputRefused, match="output of images is not a number"):
        gather(traced, [images], {"images", "conv1"})
    with pytest.raises(InputRefused, match=r"output of layer1\.0\.conv1 is"):
        gather(traced, [images], {"layer1.0.conv1"})


def test_calibration_leaves_the_network_as_it_was() -> None:
    traced = captured("cifar", "resnet8")
    before = models.predict(traced, [noise(traced)])
    gather(traced, [noise(traced)], candidates(traced))
    assert torch.equal(models.predict(traced, [noise(traced)]), before)


@pytest.mark.parametrize(("family", "architecture"), NETWORKS)
def test_candidates_hold_what_every_scheme_asks_for(family: str, architecture: str) -> None:
    traced = captured(family, architecture, side=32)
    watched = set(candidates(traced))
    schemes = [scheme for name in catalog.names("rescompress.backends") if (scheme := backends.get(name).SCHEME)]
    assert len(schemes) == 5
    for scheme in schemes:
        sites = place(traced, scheme)
        assert {site.quantizer for site in sites if not site.is_weight} <= watched, scheme.runtime


@pytest.mark.parametrize(("family", "architecture"), NETWORKS)
def test_candidates_are_inputs_of_layers_adds_pools_and_gates_and_what_leaves_a_kernel(
    family: str, architecture: str
) -> None:
    traced = captured(family, architecture, side=32)
    watched = set(candidates(traced))
    inside = 0
    for name, node in graph.values(traced).items():
        if graph.op_of(node) in ("conv", "linear", "add", "mul", "sigmoid", "max_pool", "avg_pool"):
            assert {graph.name_of(source) for source in graph.inputs_of(node)} <= watched
            users = [graph.op_of(user) for user in node.users]
            assert (name in watched) == (users != ["relu"])
            inside += users == ["relu"]
    assert inside > 2


def test_calibrating_keeps_every_candidate() -> None:
    model = captured("cifar", "resnet8")
    made = calibrate(model, context(), calibration_images=16)
    assert set(made.histograms) == set(candidates(captured("cifar", "resnet8")))
    assert (made.images, made.wanted) == (16, 16)
    data = context().data
    assert data is not None
    images = next(calibration._steps(data.calibration, models.spec_of(model).preprocessing, 16, 0, 16))
    assert outcome(made.histogram("images")) == outcome(histogram(images.flatten().tolist()))


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(InputRefused, match=r"BatchNorms.*Run fuse"):
        calibrate(stock("cifar", "resnet8"), context())
    with pytest.raises(InputRefused, match="quantized already"):
        calibrate(quantized("cifar", "resnet8"), context())
    with pytest.raises(RecipeError, match="calibrate needs images"):
        calibrate(captured("cifar", "resnet8"), Context())
    with pytest.raises(RecipeError, match="calibration_images"):
        calibrate(captured("cifar", "resnet8"), context(), calibration_images=15)


def finished(folder: Path, count: int = 32) -> bytes:
    calibrate(captured("cifar", "resnet8"), context(), folder / "whole.safetensors", calibration_images=count, batch=8)
    return (folder / "whole.safetensors").read_bytes()


def test_a_killed_calibration_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "killed.safetensors"
    dying = f"""
import os, signal, torch
from pathlib import Path
from rescompress.quantization import calibration
from tests.networks import captured, context
torch.set_num_threads(1)
calibration.SAVE_EVERY_S = 0
steps = calibration._steps
def mortal(*arguments):
    for number, images in enumerate(steps(*arguments)):
        if number * 8 == {FIRST} + 8:  # the images before are being counted, and aren't kept
            os.kill(os.getpid(), signal.SIGKILL)
        yield images
calibration._steps = mortal
calibration.calibrate(captured("cifar", "resnet8"), context(), Path({str(file)!r}), calibration_images=32, batch=8)
"""
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", dying], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(InputRefused, match=f"interrupted after {FIRST} of 32 images.*goes on from there"):
        statistics.load(file)
    made = calibrate(captured("cifar", "resnet8"), context(), file, calibration_images=32, batch=8)
    assert made.images == 32
    assert file.read_bytes() == finished(tmp_path)


def test_more_images_go_on_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    calibrate(captured("cifar", "resnet8"), context(), file, calibration_images=16, batch=8)
    assert statistics.load(file).images == 16
    calibrate(captured("cifar", "resnet8"), context(), file, calibration_images=32, batch=8)
    assert file.read_bytes() == finished(tmp_path)


def test_a_finished_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = finished(tmp_path)
    monkeypatch.setattr(graph, "watch", lambda *_: pytest.fail("an image was shown again"))
    assert finished(tmp_path) == before


def test_a_file_with_more_images_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(InputRefused, match="holds 32 images already, more than the 16"):
        finished(tmp_path, 16)


def test_a_file_of_another_network_or_of_other_images_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    file = tmp_path / "whole.safetensors"
    before = file.read_bytes()
    with pytest.raises(InputRefused, match=r"on another network, or with other weights\. .*into another file"):
        calibrate(captured("cifar", "resnet8", side=16), context(), file)
    other = context()
    assert other.data is not None
    with pytest.raises(InputRefused, match=r"on other images\. Give the same --data"):
        calibrate(captured("cifar", "resnet8"), replace(other, data=replace(other.data, fingerprint="new")), file)
    assert file.read_bytes() == before


def test_one_weight_makes_another_network() -> None:
    data = context().data
    assert data is not None
    model = graph.clone(fused("cifar", "resnet8"))
    before = statistics.origin_of(model, data)
    traced = graph.capture(graph.clone(model), models.spec_of(model).input_shape)
    models.describe(traced, models.spec_of(model))
    assert statistics.origin_of(traced, data) == before
    spec = models.spec_of(model)
    models.describe(model, replace(spec, preprocessing=replace(spec.preprocessing, mean=(0.5, 0.5, 0.5))))
    assert statistics.origin_of(model, data).network != before.network
    models.describe(model, spec)
    model.state_dict()["conv1.weight"][0, 0, 0, 0] += 1e-3
    assert statistics.origin_of(model, data).network != before.network
