"""GPTQ: on the grid, better than nearest rounding by images that it never saw, and the means stay where they were."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from rescompress import graph
from rescompress.quantization.roundings import gptq
from tests.quantization.test_rounding import Net, OneLayer, best_of_all, correlated, made, weights_of


def solved(traced: fx.GraphModule, **knobs: float) -> tuple[str, ...]:
    return gptq.round_weights(traced, correlated(), torch.Generator().manual_seed(0), **knobs)  # type: ignore[arg-type]


@settings(max_examples=10)
@given(
    seed=st.integers(0, 99),
    groups=st.sampled_from([1, 2, 4]),
    bits=st.sampled_from([4, 8]),
    per_channel=st.booleans(),
    acts=st.booleans(),
)
def test_weights_lie_on_the_grid(seed: int, groups: int, bits: int, per_channel: bool, acts: bool) -> None:
    traced = made(seed, lambda: Net(4, groups), bits, per_channel, acts=acts)
    before = weights_of(traced)
    notes = solved(traced)
    moved = 0
    for name, (weight, quantizer) in weights_of(traced).items():
        if torch.equal(weight, before[name][0]):
            continue
        moved += 1
        steps = weight.double() / quantizer.scale.double().view(-1, *[1] * (weight.dim() - 1))
        low, high = quantizer.site.limits
        assert (steps - steps.round()).abs().max() < 1e-4
        assert low <= steps.round().min() <= steps.round().max() <= high
        assert torch.equal(quantizer(weight), weight)
    said = next((note for note in notes if "below nearest rounding" in note), "gptq: 0 of")
    assert said.startswith(f"gptq: {moved} of")


@pytest.mark.parametrize("variation", [1e-3, 0.0])
def test_values_that_hardly_vary_are_no_bug(variation: float) -> None:
    """Float32 has their covariance with errors that are larger than it, and it has no Cholesky factor."""
    traced = made(0, lambda: Net(4, 1), 8)
    images = [1000 + variation * batch for batch in correlated()]
    gptq.round_weights(traced, images, torch.Generator().manual_seed(0))
    assert all(bool(weight.isfinite().all()) for weight, _ in weights_of(traced).values())


def error(weight: Tensor, gram: Tensor) -> Tensor:
    return ((weight @ gram) * weight).sum(1)


def test_it_wins_most_of_what_the_best_of_all_roundings_would() -> None:
    """It never takes a column back, so the best of all is not for it."""
    traced = made(0, lambda: OneLayer(16), 4)
    (weight, quantizer), images = weights_of(traced)["conv.weight"], torch.cat(correlated())
    columns = nn.functional.unfold(images, (1, 3)).transpose(1, 2).flatten(0, 1)
    least, nearest = best_of_all(weight.flatten(1), quantizer.scale, columns, 7)
    solved(traced)
    gap = weights_of(traced)["conv.weight"][0].flatten(1) - weight.flatten(1)
    found = error(gap, columns.T @ columns / len(columns))
    assert nearest.sum() > 2 * least.sum(), "the images don't tell the roundings apart"
    assert found.sum() < least.sum() + 0.25 * (nearest.sum() - least.sum())


def test_where_nothing_varies_together_the_nearest_is_best() -> None:
    rows = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    variance = torch.rand(2, 7, generator=torch.Generator().manual_seed(2)) + 0.1
    assert torch.equal(gptq._solved(rows, torch.diag_embed(variance), torch.round, 0.01), rows.round())


def test_columns_that_never_vary_are_rounded_like_any_other() -> None:
    rows = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(gptq._solved(rows, torch.zeros(1, 7, 7), torch.round, 0.01), rows.round())


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(1, 5, 40, generator=torch.Generator().manual_seed(1)) * 4
    x = torch.randn(40, 90, generator=torch.Generator().manual_seed(2)).cumsum(0)
    whole = gptq._solved(rows, (x @ x.T)[None] / 90, torch.round, 0.01)
    monkeypatch.setattr(gptq, "STRIP", 8)
    assert torch.equal(gptq._solved(rows, (x @ x.T)[None] / 90, torch.round, 0.01), whole)
    assert not torch.equal(whole, rows.round())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}])
def test_the_covariance_is_that_of_what_the_weights_multiply(groups: int, window: dict[str, int]) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.conv = nn.Conv2d(4, 6, 3, groups=groups, **window)  # type: ignore[arg-type]

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(self.first(images))

    traced = made(0, Grouped, 4)
    layer = graph.values(traced)["conv"]
    inputs = gptq._Inputs(traced, layer)
    x = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    for batch in x.split(8):
        inputs.add(batch, torch.Generator())
    columns = nn.functional.unfold(x, 3, **window).transpose(0, 1).flatten(1).view(groups, 36 // groups, -1)
    assert inputs.count == columns.shape[2]
    expected = torch.stack([each.cov(correction=0) for each in columns])
    assert torch.allclose(inputs.covariance(), expected, atol=1e-5)


def test_of_large_maps_some_places_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "PLACES", 10)
    traced = made(0, lambda: OneLayer(4), 4)
    inputs = gptq._Inputs(traced, graph.values(traced)["conv"])
    inputs.add(torch.cat(correlated()), torch.Generator().manual_seed(0))
    assert inputs.count == 64 * 10


def test_biases_take_what_shifts_the_means() -> None:
    """What one layer puts out on average over the images that were learned from is what it was."""
    traced = made(0, lambda: Net(4, 1), 4)
    learned = torch.cat(correlated())[16:]

    def means() -> Tensor:
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            graph.watch(traced, learned, lambda node, x: values.update({node.name: x}))
        return values[graph.values(traced)["first"].name].mean((0, 2, 3))

    before = means()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rescompress.fakequant.FakeQuantize.forward", lambda _, x: x)
        wanted = means()
    solved(traced)
    assert torch.allclose(means(), wanted, atol=1e-5)
    assert not torch.allclose(before, wanted, atol=1e-3)


def test_layers_that_memory_does_not_hold_together_are_taken_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes, run = list[int](), gptq._watch

    def counted(traced: fx.GraphModule, batches: object, layers: list[fx.Node], see: object) -> None:
        passes.append(len(layers))
        run(traced, batches, layers, see)  # type: ignore[arg-type]

    monkeypatch.setattr(gptq, "_watch", counted)
    together = solved(made(0, lambda: Net(4, 1), 4))
    assert passes == [3, 3]
    passes.clear()
    monkeypatch.setattr(gptq, "LARGEST", 1)
    assert solved(made(0, lambda: Net(4, 1), 4))[0].split("error")[0] == together[0].split("error")[0]
    assert passes == [1] * 6


def test_equal_seeds_give_equal_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "PLACES", 4)
    outcomes = []
    for seed in (0, 0, 1):
        traced = made(0, lambda: Net(4, 1), 4)
        gptq.round_weights(traced, correlated(), torch.Generator().manual_seed(seed))
        outcomes.append(torch.cat([parameter.detach().flatten() for parameter in traced.parameters()]))
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_a_layer_that_gets_no_better_stays_as_it_is_and_is_named() -> None:
    traced = made(0, lambda: Net(4, 1), 4)
    before = {name: weight for name, (weight, _) in weights_of(traced).items()}
    notes = solved(traced, damp=1e6)
    kept = next(note for note in notes if "stays there" in note)
    for name, (weight, _) in weights_of(traced).items():
        assert torch.equal(weight, before[name]) == (name.removesuffix(".weight") in kept)


def test_only_so_many_images_are_looked_at() -> None:
    drawn = []

    def batches() -> object:
        for batch in correlated():
            drawn.append(len(batch))
            yield batch

    gptq.round_weights(made(0, lambda: Net(4, 1), 4), batches(), torch.Generator(), images=20)  # type: ignore[arg-type]
    assert drawn == [16, 16]
