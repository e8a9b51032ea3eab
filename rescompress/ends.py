"""A network from what an artifact takes to what it gives: pixels in or images, logits out or probabilities."""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from rescompress import fakequant, graph, models
from rescompress.errors import RecipeError
from rescompress.spec import Floats, ModelSpec

DTYPES: dict[Floats, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class EndToEnd(nn.Module):
    """A copy of a network that computes in ``floats``, between ends that stay in FP32.

    Args:
        model: float or quantized; it is copied.
        spec: the model's.
        floats: what the copy's weights and activations are.
        preprocess: take bytes, as decoded and cropped: ``x / (255 std) - mean / std`` comes first.
        softmax: give probabilities.

    Raises:
        RecipeError: the network has no classifier, or its grids of integers need FP32.
    """

    factor: Float[Tensor, "3 1 1"]
    shift: Float[Tensor, "3 1 1"]

    def __init__(self, model: nn.Module, spec: ModelSpec, floats: Floats, preprocess: bool, softmax: bool) -> None:
        super().__init__()
        if softmax and (spec.output != "logits" or not spec.classes):
            raise RecipeError("softmax needs logits, but the network has no classifier.", "Leave softmax out.")
        if floats != "fp32" and fakequant.sites_of(model):
            raise RecipeError(f"In PyTorch, integers are told apart in FP32, not in {floats}.", "Leave floats out.")
        mean, std = (torch.tensor(part).view(3, 1, 1) for part in (spec.preprocessing.mean, spec.preprocessing.std))
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.floats, self.preprocess, self.softmax = DTYPES[floats], preprocess, softmax
        self.network = graph.clone(model).to(self.floats).requires_grad_(False)

    def forward(self, images: Float[Tensor, "n 3 h w"] | UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n k"]:
        """Images, or pixels where it takes them, to one row an image: logits, probabilities or maps."""
        if self.preprocess:
            images = images.permute(0, 3, 1, 2).float() * self.factor + self.shift
        rows = models.in_rows(self.network(images.to(self.floats))).float()
        return rows.softmax(1) if self.softmax else rows


@contextlib.contextmanager
def settings(threads: int, tf32: bool) -> Iterator[None]:
    """PyTorch's settings for the whole process, as a session wants them; afterwards as they were.

    Args:
        threads: of one operator on the CPU.
        tf32: on a GPU, FP32's factors are rounded to 10 bits of mantissa; PyTorch's default for convolutions alone.
    """
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    _set(threads, tf32, "high" if tf32 else "highest")
    try:
        yield
    finally:
        _set(*before)


def _set(threads: int, convolutions: bool, products: str) -> None:
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
