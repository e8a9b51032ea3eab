"""Each op that is written for LiteRT computes there what PyTorch computes, alone and in a batch."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rescompress import graph, models
from rescompress.backends._litert_padding import Window
from rescompress.errors import InputRefused
from rescompress.metrics import sqnr_db
from tests.networks import custom, noise

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from tests.backends.litert_files import answer, details, written

pytestmark = pytest.mark.xdist_group("litert")


class Do(nn.Module):
    """A function of a convolution's output, which may be negative."""

    def __init__(self, do: object, channels: int = 6) -> None:
        super().__init__()
        self.conv, self.do = nn.Conv2d(3, channels, 1), do

    def forward(self, x: Tensor) -> Tensor:
        return self.do(self.conv(x))  # type: ignore[operator,no-any-return]


class Gate(nn.Module):
    """Squeeze and excitation with constants in between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(6, 6, bias=False)
        self.weight = nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]
        return x * gate * self.weight + 0.5


class Norm(nn.Module):
    """A normalization before a ReLU and one that stands alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.conv = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)
        for norm in (self.one, self.other):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()  # type: ignore[union-attr,operator]
            norm.running_var.uniform_(0.1, 3)  # type: ignore[union-attr,operator]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.one(x)) + self.other(x))


NETWORKS = {
    "conv 3/2 on even": (lambda: nn.Conv2d(3, 4, 3, 2, 1), 8),
    "conv 3/2 on odd": (lambda: nn.Conv2d(3, 4, 3, 2, 1), 9),
    "conv 7/2, last rows unread": (lambda: nn.Conv2d(3, 4, 7, 2, 2), 12),
    "conv 3x1": (lambda: nn.Conv2d(3, 4, (3, 1), (1, 2), (0, 1)), 8),
    "dilated": (lambda: nn.Conv2d(3, 4, 3, 1, 2, 2), 9),
    "grouped, no bias": (lambda: Do(nn.Conv2d(6, 4, 3, padding=1, groups=2, bias=False)), 8),
    "depthwise": (lambda: Do(nn.Conv2d(6, 6, 3, 2, 1, groups=6)), 8),
    "depthwise, two each": (lambda: Do(nn.Conv2d(6, 12, 3, padding=1, groups=6)), 8),
    "relu": (lambda: Do(F.relu), 8),
    "relu of what others read": (lambda: Do(lambda x: F.relu(x) + x), 8),
    "relu6": (lambda: Do(lambda x: F.relu6(4 * x)), 8),
    "max pool 3/2/1": (lambda: Do(nn.MaxPool2d(3, 2, 1)), 8),
    "max pool behind relu": (lambda: Do(lambda x: F.max_pool2d(F.relu(x), 3, 2, 1)), 8),
    "max pool, rounded up": (lambda: Do(nn.MaxPool2d(3, 2, ceil_mode=True)), 8),
    "avg pool": (lambda: Do(nn.AvgPool2d(2)), 8),
    "avg pool, rounded up": (lambda: Do(nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)), 9),
    "avg pool, pads count": (lambda: Do(nn.AvgPool2d(3, 1, 1)), 8),
    "avg pool, pads don't count": (lambda: Do(nn.AvgPool2d(3, 1, 1, count_include_pad=False)), 8),
    "adaptive": (lambda: Do(nn.AdaptiveAvgPool2d((2, 4))), 8),
    "flatten places": (lambda: nn.Sequential(Do(F.relu), nn.Flatten(), nn.Linear(6 * 16, 5)), 4),
    "back to places": (lambda: nn.Sequential(Do(F.relu), nn.Flatten(), nn.Unflatten(1, (24, 2, 2))), 4),
    "gate": (Gate, 8),
    "norm": (Norm, 8),
    "concatenation": (lambda: Do(lambda x: torch.cat([F.relu(x), x], 1)), 8),
    "bilinear": (lambda: Do(lambda x: F.interpolate(x, size=(11, 16), mode="bilinear")), 8),
    "bilinear, corners": (lambda: Do(lambda x: F.interpolate(x, (11, 16), mode="bilinear", align_corners=True)), 8),
    "nearest": (lambda: Do(lambda x: F.interpolate(x, scale_factor=2)), 8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_what_pytorch_computes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    model = custom(make(), side)
    images = noise(model, 3)
    expected = model(images).detach().flatten(1).numpy()
    artifact = written(model, tmp_path)
    assert sqnr_db(expected, answer(artifact, images.numpy())) > 110
    assert sqnr_db(expected[:1], answer(artifact, images[:1].numpy())) > 110


sides = st.tuples(st.integers(5, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.booleans())
def test_margins_make_pytorchs_windows(rows: tuple[int, ...], columns: tuple[int, ...], up: bool) -> None:
    size, kernel, stride, pads = zip(rows, columns, strict=True)
    pads = tuple(min(p, k // 2) for p, k in zip(pads, kernel, strict=True))
    x = torch.randn(1, 1, *size)
    expected = F.max_pool2d(x, kernel, stride, pads, ceil_mode=up)
    window = Window(size, tuple(expected.shape[2:]), kernel, stride, pads)  # type: ignore[arg-type]
    (top, bottom), (left, right) = window.margins
    wider = F.pad(x, (left, right, top, bottom), value=-torch.inf)
    assert torch.equal(F.max_pool2d(wider, kernel, stride), expected)


def test_an_op_that_is_not_written_is_refused_by_name(tmp_path: Path) -> None:
    model = custom(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()))
    with pytest.raises(InputRefused, match=r"^1 \(gelu\) can't be written for LiteRT\."):
        written(model, tmp_path)


def test_tensors_bear_the_modules_names_and_lie_channels_last(tmp_path: Path) -> None:
    model = custom(nn.Sequential(nn.Conv2d(3, 4, (3, 5)), nn.ReLU()), 8)
    found = {tensor["name"]: tuple(tensor["shape"]) for tensor in details(written(model, tmp_path))}
    assert found["images"] == (1, 8, 8, 3)
    assert found["0.weight"] == (4, 3, 5, 3)
    assert found["0;1"] == (1, 6, 4, 4)
    assert set(graph.values(graph.capture(model, models.spec_of(model).input_shape))) >= {"0", "1", "0.weight"}
