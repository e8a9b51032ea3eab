"""The chain of thin convolutions that takes the place of one, and which convolutions can be replaced so."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from rescompress.layers import settled

Pair = tuple[int, int]


@dataclass(frozen=True)
class Factor:
    """One convolution of a chain; its weight has ``i / groups`` columns."""

    weight: Float[Tensor, "o i kh kw"]
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def like(cls, conv: nn.Conv2d, weight: Float[Tensor, "o i kh kw"]) -> "Factor":
        """The factor that moves over its input as ``conv`` does."""
        (sy, sx), (dy, dx) = conv.stride, conv.dilation
        padding = conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1])
        return cls(weight, (sy, sx), padding, (dy, dx))

    @classmethod
    def tall(cls, conv: nn.Conv2d, weight: Float[Tensor, "o i kh 1"], groups: int = 1) -> "Factor":
        """The factor that moves over its input as ``conv`` does, from top to bottom only."""
        padding = conv.padding if isinstance(conv.padding, str) else (conv.padding[0], 0)
        return cls(weight, (conv.stride[0], 1), padding, (conv.dilation[0], 1), groups)

    @classmethod
    def wide(cls, conv: nn.Conv2d, weight: Float[Tensor, "o i 1 kw"], groups: int = 1) -> "Factor":
        """The factor that moves over its input as ``conv`` does, from left to right only."""
        padding = conv.padding if isinstance(conv.padding, str) else (0, conv.padding[1])
        return cls(weight, (1, conv.stride[1]), padding, (1, conv.dilation[1]), groups)

    def pads(self) -> Pair:
        """Zeros at top and bottom, and at left and right; the fewer where ``same`` needs an odd number."""
        if isinstance(self.padding, tuple):
            return self.padding
        _, _, kh, kw = self.weight.shape
        across = self.dilation[0] * (kh - 1) // 2, self.dilation[1] * (kw - 1) // 2
        return across if self.padding == "same" else (0, 0)


def chain(conv: nn.Conv2d, factors: Sequence[Factor]) -> nn.Sequential:
    """The factors as plain convolutions in the dtype, mode and training state of ``conv``; the last has its bias."""
    convs = []
    for f in factors:
        o, i, kh, kw = f.weight.shape
        # Without storage: random weights that are replaced at once would disturb PyTorch's global generator.
        layer = nn.Conv2d(
            *(i * f.groups, o, (kh, kw), f.stride, f.padding, f.dilation), groups=f.groups, bias=False, device="meta"
        )
        weight = settled(f.weight.to(conv.weight.dtype))
        layer.weight = nn.Parameter(weight, conv.weight.requires_grad)
        convs.append(layer)
    convs[-1].bias = conv.bias
    return nn.Sequential(*convs).train(conv.training)


def find_convolutions(model: nn.Module) -> tuple[tuple[str, ...], Counter[str]]:
    """Names of the convolutions that can be split, and how many can't, by reason."""
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    found, kept = [], Counter[str]()
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d):
            why = _obstacle(conv, places[conv], model.get_submodule(name.rpartition(".")[0]))
            if why:
                kept[why] += 1
            else:
                found.append(name)
    return tuple(found), kept


def _obstacle(conv: nn.Conv2d, places: int, parent: nn.Module) -> str:
    """Why a convolution can't be split, in two words; empty if it can."""
    siblings = list(parent.children())
    within = isinstance(parent, nn.Sequential) and len(siblings) > 1
    if within and all(isinstance(one, nn.Conv2d) for one in siblings):
        return "factorized before"
    if conv.groups > 1:
        return "grouped"
    if conv.padding_mode != "zeros":
        return f"{conv.padding_mode} padding"
    if type(conv) is not nn.Conv2d:
        return f"{type(conv).__name__} layers"
    return "used in several places" if places > 1 else ""
