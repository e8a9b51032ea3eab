"""Each criterion against its formula, written out channel by channel."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rescompress import data, models
from rescompress.pruning import Group
from rescompress.pruning.evidence import BATCH
from rescompress.pruning.importance import taylor
from tests.networks import context, stock
from tests.pruning.test_importance import network, scored

Pieces = dict[tuple[str, str], list[Tensor]]


def pieces(model: nn.Module, group: Group, tensors: dict[str, Tensor]) -> Pieces:
    """Per parameter and side: what of it leaves with each channel, flat."""
    found: Pieces = {}
    for member in group.members:
        for name, _ in model.get_submodule(member.layer).named_parameters(recurse=False):
            tensor = tensors[f"{member.layer}.{name}"].detach()
            for places in member.places:
                if member.side == "outputs":
                    part = torch.cat([tensor[place].flatten() for place in places])
                elif name == "weight":
                    part = torch.cat([tensor[:, place].flatten() for place in places])
                else:
                    continue
                found.setdefault((f"{member.layer}.{name}", member.side), []).append(part.double())
    return found


def weights(model: nn.Module, group: Group) -> list[list[Tensor]]:
    """Of the convolutions and linear layers only."""
    parameters = dict(model.named_parameters())
    return [rows for (name, _), rows in pieces(model, group, parameters).items() if parameters[name].dim() > 1]


def relative(layers: list[list[float]]) -> list[float]:
    means = [sum(layer) / len(layer) for layer in layers]
    return [
        sum(layer[c] / mean for layer, mean in zip(layers, means, strict=True)) / len(layers)
        for c in range(len(layers[0]))
    ]


def l1(model: nn.Module, group: Group) -> list[float]:
    return relative([[float(w.abs().sum()) for w in rows] for rows in weights(model, group)])


def l2(model: nn.Module, group: Group) -> list[float]:
    return relative([[float((w * w).sum()) ** 0.5 for w in rows] for rows in weights(model, group)])


def fpgm(model: nn.Module, group: Group) -> list[float]:
    def distances(rows: list[Tensor]) -> list[float]:
        return [sum(float(((w - other) ** 2).sum()) ** 0.5 for other in rows) for w in rows]

    return relative([distances(rows) for rows in weights(model, group)])


def lamp(model: nn.Module, group: Group) -> list[float]:
    e = relative([[float((w * w).sum()) for w in rows] for rows in weights(model, group)])
    made, left = [0.0] * len(e), sum(e)
    for c in sorted(range(len(e)), key=lambda c: e[c]):
        made[c] = e[c] / left
        left -= e[c]
    return made


def bn_scale(model: nn.Module, group: Group) -> list[float]:
    norms = [m for m in group.members if isinstance(model.get_submodule(m.layer), nn.BatchNorm2d)]
    sums = []
    for c in range(group.channels):
        gammas = [abs(float(model.get_submodule(m.layer).weight[p].detach())) for m in norms for p in m.places[c]]
        sums.append(sum(gammas) / len(gammas))
    return sums


def obd(model: nn.Module, group: Group, squares: dict[str, Tensor]) -> list[float]:
    w, h = pieces(model, group, dict(model.named_parameters())), pieces(model, group, squares)
    return [sum(float((h[key][c] * w[key][c] ** 2).sum()) / 2 for key in w) for c in range(group.channels)]


@pytest.mark.parametrize("of", ["B", "small"])
@pytest.mark.parametrize("formula", [l1, l2, fpgm, lamp, bn_scale, obd], ids=lambda formula: formula.__name__)
def test_a_criterion_is_its_formula(formula, of: str) -> None:
    model, _, evidence = network(of)
    for group, made in scored(formula.__name__, of):
        more = (evidence.squares,) if formula is obd else ()
        expected = torch.tensor(formula(model, group, *more), dtype=torch.float32)
        assert torch.allclose(made, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
        assert len(made) == group.channels


class Gated(nn.Module):
    """A network with a factor on each channel of one layer, behind its BatchNorm and ReLU."""

    def __init__(self, model: nn.Module, channels: int) -> None:
        super().__init__()
        self.model, self.gate = model, nn.Parameter(torch.ones(channels))
        model.layer2[0].conv2.register_forward_pre_hook(lambda module, read: read[0] * self.gate.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def test_taylor_is_the_mean_slope_along_a_gate() -> None:
    model, ctx = stock("cifar", "resnet8"), context()
    gated, split = Gated(copy.deepcopy(model), 32), ctx.images("test").train
    chosen = torch.randperm(len(split), generator=ctx.generator("importance")).tolist()
    slopes = []
    for start in range(0, len(chosen), BATCH):
        rows = chosen[start : start + BATCH]
        images = data.normalize(split.read(rows), models.spec_of(model).preprocessing)
        slopes.append(torch.autograd.grad(F.cross_entropy(gated(images), split.labels[rows]), gated.gate)[0].abs())
    made = next(made for group, made in scored("taylor", "A") if group.name == "layer2.0.conv1")
    assert torch.allclose(made, torch.stack(slopes).mean(0), rtol=1e-3, atol=1e-6)


def test_where_nothing_with_weights_reads_a_channel_its_makers_are_asked() -> None:
    model, groups, evidence = network("A")
    whole = next(group for group in groups if group.name == "layer2.0.conv1")
    made = replace(whole, members=tuple(m for m in whole.members if m.side == "outputs"))
    names = ["layer2.0.conv1.weight", "layer2.0.bn1.weight", "layer2.0.bn1.bias"]
    expected = sum(evidence.gates[name, "outputs"] for name in names).abs().mean(0)
    assert torch.allclose(taylor.score(model, made, evidence), expected, rtol=1e-4, atol=1e-7)
