"""What may go into calibration: a float network with folded BatchNorms, enough different images, those it was made for.

Each refusal is one sentence of fact and one of remedy; what is only doubtful becomes a note that the report shows.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, fx, nn

from rescompress import data, fakequant, graph, progress
from rescompress.data import Data, Split
from rescompress.errors import InputRefused
from rescompress.spec import Preprocessing

FEWEST, ENOUGH = 16, 128
"""Fewer different images than the first are refused; fewer than the second leave ranges to chance."""
SAMPLE, STEP = 48, 8
"""Images that are compared with a network's first BatchNorm; so many at a time."""
VARIED, OFF = 0.6, 0.6
"""Trained networks on images prepared as they should be: spread 0.85 to 1.12, means at most 0.17 off. Without the mean
they are 1.2 off; with a standard deviation of 0.5 for 0.225 the spread is 0.4 to 0.5, with none 0.2 to 0.3."""
ABSURD = 5.0
"""No domain of images is so far from another; 0 to 255 for 0 to 1 gives a spread of 40 and more."""
EXCHANGED, BARELY = 0.8, 0.18
"""Red and blue exchanged: means are 0.2 to 0.3 off, and 0.4 to 0.75 of that with the channels exchanged again."""
NEGLIGIBLE = 1e-3
"""A channel with less than this share of the usual variance says nothing."""


def network(traced: fx.GraphModule) -> None:
    """Refuse a network that can't be calibrated.

    Args:
        traced: a captured graph.

    Raises:
        InputRefused: it is quantized already, or has a BatchNorm that ``fuse`` would fold.
    """
    if fakequant.sites_of(traced):
        raise InputRefused("The model is quantized already.", "Start from the float model.")
    if any(map(_folds, traced.graph.nodes)):
        raise InputRefused("The model still has BatchNorms behind convolutions.", "Run fuse before quantize.")


def images(split: Split, wanted: int, *, tell: bool = True) -> int:
    """How many images calibration will see; it reads no more of them than it takes to find enough different ones.

    Args:
        split: calibration images.
        wanted: how many are asked for.
        tell: note it where they are few.

    Raises:
        InputRefused: there are none, or fewer than 16 different ones that show anything.
    """
    count = min(wanted, len(split))
    remedy = "Add images to the calibration split."
    if count == 0:
        raise InputRefused("There are no calibration images.", remedy)
    if count < FEWEST:
        raise InputRefused(f"Calibration needs at least {FEWEST} images, but there are {count}.", remedy)
    different, plain = _different(split, count)
    if not different:
        raise InputRefused("Every calibration image is of one colour.", "Check how the images are decoded.")
    if different < FEWEST:
        among = f", and {plain} of one colour" if plain else ""
        fact = f"Calibration needs at least {FEWEST} different images, but among {count} there are {different}{among}."
        raise InputRefused(fact, remedy)
    if tell and count < ENOUGH:
        progress.note(f"Calibration sees {count} images; ranges vary less with {ENOUGH} and more.")
    return count


@dataclass(frozen=True)
class Shift:
    """How far the input of a BatchNorm lies from what it was in training.

    Attributes:
        layer: module name of the BatchNorm.
        means: root mean square over the channels of ``(E[x] - μ) / σ``.
        spread: geometric mean over the channels of ``sqrt(Var[x] / σ²)``.
    """

    layer: str
    means: float
    spread: float

    @property
    def words(self) -> str:
        """Both figures."""
        means, spread = (f"{figure:.2g}" if figure < 100 else f"{figure:.0f}" for figure in (self.means, self.spread))
        return f"its channels' means lie {means} standard deviations off and they vary {spread} times as much"


def matching(reference: nn.Module | None, images: Data, preprocessing: Preprocessing) -> None:
    """Compare what the calibration images do to a network's first BatchNorm with its running statistics.

    Args:
        reference: the network before fusing; without BatchNorms, or without statistics in them, nothing is compared.
        images: whose calibration split is looked at.
        preprocessing: how the images are normalized.

    Raises:
        InputRefused: the images can't be what the network was trained on; what is only doubtful is noted.
    """
    if reference is None or len(images.calibration) < FEWEST:
        return
    raw = images.calibration.read(range(min(SAMPLE, len(images.calibration)) // STEP * STEP))
    found = shift(reference, _normalized(raw, preprocessing))
    if found is None:
        return
    fact = f"The calibration images aren't what {found.layer} was trained on: {found.words}."
    remedy = "Check the preprocessing: mean and standard deviation, and values from 0 to 1."
    if max(found.means, found.spread) > ABSURD:
        raise InputRefused(fact, remedy)
    if found.means > OFF or not VARIED < found.spread < 1 / VARIED:
        progress.note(f"{fact} {remedy}")
        return
    other = shift(reference, _normalized(raw.flip(1), preprocessing)) if found.means > BARELY else None
    if other is not None and other.means < EXCHANGED * found.means:
        progress.note(
            f"The calibration images fit {found.layer} better with red and blue exchanged: its channels' means lie "
            f"{found.means:.2g} standard deviations off, and then {other.means:.2g}. Check that images are RGB."
        )


@torch.no_grad()
def shift(model: nn.Module, batches: Iterable[Float[Tensor, "b 3 h w"]]) -> Shift | None:
    """How far images move the input of the first BatchNorm; None without one that was trained.

    Args:
        model: a network before fusing; it is run no further than its first BatchNorm.
        batches: normalized images, as many in each.
    """
    norms = {module: name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    taken: list[tuple[nn.BatchNorm2d, Tensor, Tensor]] = []
    if not norms:
        return None

    def seen(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = (part.double().cpu() for part in torch.var_mean(inputs[0], (0, 2, 3), correction=0))
        assert isinstance(norm, nn.BatchNorm2d)
        taken.append((norm, mean, variance + mean**2))
        raise _Enough

    hooks = [norm.register_forward_pre_hook(seen) for norm in norms]
    try:
        with graph.evaluating(model):
            for images in batches:
                with contextlib.suppress(_Enough):
                    model(images.to(next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    if not taken or not _was_trained(taken[0][0]):
        return None
    mean = torch.stack([mean for _, mean, _ in taken]).mean(0)
    variance = torch.stack([square for _, _, square in taken]).mean(0) - mean**2
    return _shift(norms[taken[0][0]], taken[0][0], mean, variance)


def _normalized(raw: UInt8[Tensor, "n 3 h w"], preprocessing: Preprocessing) -> Iterator[Float[Tensor, "_ 3 h w"]]:
    """A few at a time, for together they take many times the room of their pixels."""
    return (data.normalize(part, preprocessing) for part in torch.split(raw, STEP))


class _Enough(Exception):
    """The first BatchNorm was reached."""


def _shift(layer: str, norm: nn.BatchNorm2d, mean: Float[Tensor, " c"], variance: Float[Tensor, " c"]) -> Shift:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    μ, σ2 = norm.running_mean.double().cpu(), norm.running_var.double().cpu()
    floor = norm.eps + NEGLIGIBLE * σ2.mean()
    means = ((mean - μ) / (σ2 + floor).sqrt()).square().mean().sqrt()
    spread = ((variance + floor) / (σ2 + floor)).log().mean().div(2).exp()
    return Shift(layer, float(means), float(spread))


def _was_trained(norm: nn.BatchNorm2d) -> bool:
    """Whether its statistics are those of images, not those that it was made with."""
    if norm.running_mean is None or norm.running_var is None:
        return False
    return bool(norm.running_mean.any()) or not bool((norm.running_var == 1).all())


def _different(split: Split, count: int) -> tuple[int, int]:
    """How many different images there are that show anything, and how many of one colour, until there are enough."""
    known: set[bytes] = set()
    plain = 0
    for start in range(0, count, FEWEST):
        for image in split.read(range(start, min(start + FEWEST, count))):
            if torch.equal(image.amin((1, 2)), image.amax((1, 2))):
                plain += 1
            else:
                known.add(hashlib.sha256(image.contiguous().numpy().tobytes()).digest())
        if len(known) >= FEWEST:
            break
    return len(known), plain


def _folds(node: fx.Node) -> bool:
    """Whether a node is a BatchNorm that fuse would fold; one before a convolution stays, and stays in float."""
    source = node.args[0] if graph.op_of(node) == "batch_norm" else None
    return isinstance(source, fx.Node) and graph.op_of(source) == "conv" and len(source.users) == 1
