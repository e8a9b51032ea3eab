"""Layers whose channels can be cut, and the one that PyTorch lacks: He et al.'s parameter-free shortcut."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Option A of He et al. 2015 (arXiv:1512.03385, section 4.2): subsample, then fill up with zero channels.

    Output channel ``j`` is input channel ``sources[j]``, or zero where ``sources[j]`` is -1. Stated so, cutting
    channels on either side is bookkeeping: an input that leaves turns its copies into zeros, an output that leaves is
    dropped. It runs as a 1 x 1 convolution with fixed weights of 0 and 1, which runtimes fuse with the add behind it
    and keep in INT8, where slicing and padding would break both.

    Args:
        in_channels: channels of the input.
        sources: for each output channel the input channel it copies, or -1.
        stride: spatial subsampling.
    """

    weight: Float[Tensor, "d c 1 1"]

    def __init__(self, in_channels: int, sources: Sequence[int], stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.connect(in_channels, sources)

    @classmethod
    def widening(cls, in_channels: int, out_channels: int, stride: int) -> "PadShortcut":
        """The stock shortcut: as many zero channels before as behind."""
        before = (out_channels - in_channels) // 2
        after = out_channels - in_channels - before
        return cls(in_channels, (-1,) * before + tuple(range(in_channels)) + (-1,) * after, stride)

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return len(self.sources)

    def connect(self, in_channels: int, sources: Sequence[int]) -> None:
        """Set which input channel each output channel copies."""
        self.in_channels, self.sources = in_channels, tuple(sources)
        old = self._buffers.get("weight")
        weight = torch.zeros(len(self.sources), in_channels, 1, 1)
        weight = weight if old is None else weight.to(old)
        for j, source in enumerate(self.sources):
            if source >= 0:
                weight[j, source] = 1
        # Not persistent: public checkpoints of these networks have no such tensor.
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``y[:, j] = x[:, sources[j], ::stride, ::stride]``, or 0."""
        return F.conv2d(x, self.weight, stride=self.stride)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


class Pixels(nn.Module):
    """Normalized images, each channel shifted and scaled so that all lie on one grid: the levels that pixels have.

    Args:
        channels: of the image.
        padding: rows above and below, columns left and right, that what follows would have filled up with zeros; here
            they come first, for zero is no level.
    """

    factor: Float[Tensor, "c 1 1"]
    shift: Float[Tensor, "c 1 1"]

    def __init__(self, channels: int, padding: tuple[int, int]) -> None:
        super().__init__()
        self.padding = padding
        self.register_buffer("factor", torch.ones(channels, 1, 1))
        self.register_buffer("shift", torch.zeros(channels, 1, 1))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """``factor x - shift`` of the padded images."""
        above, left = self.padding
        padded = torch.constant_pad_nd(x, [left, left, above, above])
        return padded * self.factor - self.shift


class PixelConv(nn.Conv2d):
    """A first convolution that reads ``Pixels``; shares its weights with the one that it stands for."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, cast(Any, conv.kernel_size), cast(Any, conv.stride),
            dilation=cast(Any, conv.dilation), bias=conv.bias is not None,
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias
        self.pixels = Pixels(conv.in_channels, cast(Any, conv.padding))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """The convolution of what ``Pixels`` makes of the images."""
        return super().forward(self.pixels(x))


def keep_channels(layer: nn.Module, inputs: Sequence[int] | None, outputs: Sequence[int] | None) -> None:
    """Keep only these input or output channels of one layer, in place; None keeps a side as it is.

    A convolution with groups and a GroupNorm lose whole groups, inputs and outputs alike, so that the groups that stay
    compute what they did.

    Raises:
        TypeError: the layer is of a kind whose channels can't be cut.
        ValueError: a group would be torn apart.
    """
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        _keep_groups(layer, outputs)
    elif isinstance(layer, nn.Conv2d):
        _keep_weights(layer, inputs, outputs)
        layer.out_channels, layer.in_channels = layer.weight.shape[:2]
    elif isinstance(layer, nn.Linear):
        _keep_weights(layer, inputs, outputs)
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.BatchNorm2d) and outputs is not None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            _keep(layer, name, 0, outputs)
        layer.num_features = len(outputs)
    elif isinstance(layer, nn.GroupNorm) and outputs is not None:
        layer.num_groups = _whole_groups(layer.num_channels, layer.num_groups, outputs)
        _keep(layer, "weight", 0, outputs)
        _keep(layer, "bias", 0, outputs)
        layer.num_channels = len(outputs)
    elif isinstance(layer, PadShortcut):
        _keep_sources(layer, inputs, outputs)
    else:
        raise TypeError(f"channels of a {type(layer).__name__} can't be cut")


def settled(tensor: Tensor) -> Tensor:
    """A copy with the strides that a file gives back.

    A 1 x 1 kernel counts as contiguous in either memory format, but PyTorch picks another convolution for each, and its
    last bits differ.
    """
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def width_of(layer: nn.Module, side: Literal["inputs", "outputs"]) -> int:
    """Channels on one side of a layer that ``keep_channels`` can cut."""
    names = {"inputs": ("in_channels", "in_features"), "outputs": ("out_channels", "out_features")}[side]
    return next(int(getattr(layer, name)) for name in (*names, "num_features", "num_channels") if hasattr(layer, name))


def without_norm(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What is left of a BatchNorm whose affine map went elsewhere: nothing, or the activation that timm keeps in it.

    None means that the layer is of a kind that does more than that, and stays.
    """
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity().train(norm.training)
    activation = getattr(norm, "act", None)
    if isinstance(activation, nn.Module) and {name for name, _ in norm.named_children()} <= {"act", "drop"}:
        return activation
    return None


def _keep_groups(conv: nn.Conv2d, outputs: Sequence[int] | None) -> None:
    if outputs is None:
        return
    groups = _whole_groups(conv.out_channels, conv.groups, outputs)
    _keep(conv, "weight", 0, outputs)
    _keep(conv, "bias", 0, outputs)
    conv.in_channels = conv.in_channels // conv.groups * groups
    conv.out_channels, conv.groups = len(outputs), groups


def _whole_groups(channels: int, groups: int, kept: Sequence[int]) -> int:
    """How many groups stay.

    Raises:
        ValueError: some group would stay in part.
    """
    unit = channels // groups
    places = [place // unit for place in kept]
    whole = [group for group in sorted(set(places)) for _ in range(unit)]
    if places != whole or list(kept) != sorted(set(kept)):
        raise ValueError(f"only whole groups of {unit} channels can stay")
    return len(kept) // unit


def _keep_sources(layer: PadShortcut, inputs: Sequence[int] | None, outputs: Sequence[int] | None) -> None:
    inputs = range(layer.in_channels) if inputs is None else inputs
    place = {old: new for new, old in enumerate(inputs)}
    kept = [layer.sources[j] for j in (range(layer.out_channels) if outputs is None else outputs)]
    layer.connect(len(inputs), [place.get(source, -1) for source in kept])


def _keep_weights(layer: nn.Conv2d | nn.Linear, inputs: Sequence[int] | None, outputs: Sequence[int] | None) -> None:
    if inputs is not None:
        _keep(layer, "weight", 1, inputs)
    if outputs is not None:
        _keep(layer, "weight", 0, outputs)
        _keep(layer, "bias", 0, outputs)


def _keep(layer: nn.Module, name: str, dim: int, places: Sequence[int]) -> None:
    tensor = getattr(layer, name)
    if tensor is None:
        return
    kept = (
        tensor.detach().index_select(dim, torch.as_tensor(places, dtype=torch.int64, device=tensor.device)).contiguous()
    )
    setattr(layer, name, nn.Parameter(kept, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else kept)
