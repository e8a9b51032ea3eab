"""Histograms weighed by how much outputs depend on values: against gradients written out, and what comes of it."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from rescompress import fakequant, graph
from rescompress.quantization import OBSERVERS, importance, quantize
from rescompress.quantization.histogram import BINS, Histogram
from rescompress.quantization.importance import weighed
from rescompress.sites import Site
from tests.networks import context, custom, fused, noise


class Scaled(nn.Module):
    """Each channel's values times a constant of its own, as logits of one image each."""

    def __init__(self, *factors: float, maps: bool = False) -> None:
        super().__init__()
        self.factors, self.maps = nn.Parameter(torch.tensor(factors)), maps

    def forward(self, images: Tensor) -> Any:
        y = images * self.factors[:, None, None]
        return (y, y * 0) if self.maps else y.flatten(1)


class Shared(nn.Module):
    """Two logits, each a channel's mean plus the mean of the third channel."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return means[:, :2] + means[:, 2:] + self.bias


def ready(model: nn.Module) -> fx.GraphModule:
    """Captured, with a quantizer behind the image."""
    traced = graph.capture(custom(model), (3, 8, 8))
    fakequant.insert(traced, (Site(graph.INPUT, graph.INPUT, "uint8"),))
    return traced


def counted(images: Tensor) -> Histogram:
    made = Histogram()
    made.update(images)
    return made


def levels(count: int = 16) -> Tensor:
    """Images whose channels lie about 1, 2 and 40."""
    noise = 0.1 * torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return noise + torch.tensor([1.0, 2.0, 40.0])[:, None, None]


def weights(model: nn.Module, images: Tensor) -> tuple[Histogram, Histogram]:
    made = counted(images)
    found = weighed(ready(model), {graph.INPUT: made}, [images], torch.Generator().manual_seed(1))
    return made, found[graph.INPUT]


def share(histogram: Histogram, low: float, high: float) -> float:
    """Of the counts, what lies between."""
    middle = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    return float(histogram.counts[(middle > low) & (middle < high)].sum() / histogram.counts.sum())


@pytest.mark.parametrize("maps", [False, True])
def test_a_value_weighs_the_square_of_what_the_outputs_make_of_it(maps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "FEWEST", 1)
    _, found = weights(Scaled(1.0, 2.0, 0.5, maps=maps), levels(256))
    shares = [share(found, *ends) for ends in ((0.9, 1.2), (1.9, 2.2), (39, 41))]
    assert shares == pytest.approx([1 / 5.25, 4 / 5.25, 0.25 / 5.25], rel=0.05)


def test_the_extremes_and_bins_stay_and_so_does_what_was_given() -> None:
    images = levels()
    made, found = weights(Scaled(1.0, 2.0, 0.5), images)
    assert (found.low, found.high, found.width, found.first) == (made.low, made.high, made.width, made.first)
    assert made.counts.dtype == torch.int64
    assert torch.equal(made.counts, counted(images).counts)


def test_large_values_that_nothing_depends_on_are_clipped() -> None:
    made, found = weights(Scaled(1.0, 1.0, 0.0), levels())
    mse = OBSERVERS.bind("mse")
    (_, plain), (_, clipped) = (ranges[0] for ranges in (mse(made), mse(found)))
    assert plain > 39
    assert 2.05 < clipped < 3


def test_where_nothing_depends_on_a_value_its_counts_stay() -> None:
    made, found = weights(Scaled(0.0, 0.0, 0.0), levels())
    assert torch.equal(found.counts, made.counts)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_gradients_without_end_weigh_nothing(odd: float) -> None:
    made = counted(levels())
    weights = torch.ones(BINS, dtype=torch.float64)
    weights[int(made.counts.nonzero()[0])] = odd
    assert torch.equal(made.weighed(weights).counts, made.counts)


def test_what_all_logits_share_weighs_nothing() -> None:
    _, found = weights(Shared(), levels())
    assert share(found, 39, 41) < 1e-6


def test_a_bin_with_few_values_is_weighed_with_those_around_it() -> None:
    squares, counts = torch.zeros(BINS, dtype=torch.float64), torch.zeros(BINS, dtype=torch.float64)
    squares[100], counts[100] = 3 * importance.FEWEST, importance.FEWEST
    squares[102], counts[102] = 50, 1
    means = importance._means(squares, counts)
    assert means[100] == 3
    assert means[102] == pytest.approx((3 * importance.FEWEST + 50) / (importance.FEWEST + 1))
    assert bool((means > 0).all())


def test_equal_seeds_give_equal_weights_and_no_images_none() -> None:
    images = levels()
    one, other = (weights(Scaled(0.5, 1.0, 2.0), images)[1] for _ in range(2))
    assert torch.equal(one.counts, other.counts)
    made = counted(images)
    found = weighed(ready(Scaled(0.5, 1.0, 2.0)), {graph.INPUT: made}, (), torch.Generator())
    assert torch.equal(found[graph.INPUT].counts, made.counts)


def scales(**knobs: Any) -> dict[str, float]:
    made = quantize(fused("cifar", "resnet20"), context(), calibration_images=16, **knobs)
    static = [site for site in fakequant.sites_of(made) if not site.is_weight]
    return {site.quantizer: float(fakequant.quantizer_of(made, site).scale) for site in static}


def test_it_moves_ranges_of_mse_alone() -> None:
    assert scales() != scales(importance_images=0)
    assert scales(observer="minmax") == scales(observer="minmax", importance_images=0)


def test_no_more_images_are_looked_at_than_calibrate() -> None:
    assert scales() == scales(importance_images=16)


def test_gradients_are_taken_where_they_are_switched_off() -> None:
    with torch.no_grad():
        made = quantize(fused("cifar", "resnet20"), context(), calibration_images=16)
    assert made(noise(made)).isfinite().all()
