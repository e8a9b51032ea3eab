"""How images are dealt into splits: balanced over the classes, and the same way on every machine."""

import hashlib
from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

SEED = 20090101


def balanced_order(labels: Int[Tensor, " n"], seed: int = SEED) -> Int[Tensor, " n"]:
    """A shuffled order of which every beginning holds the classes in nearly their overall proportions.

    Systematic sampling with a random start: the r-th of the c images of class k gets the place ``(r + u_k) / c``,
    ``u_k`` uniform in [0.5, 1), and images are sorted by place. So reading only the first images stays fair,
    however the source was sorted, and a beginning below place 1/2 holds at most half of each class.

    Args:
        labels: class of each image, 0 or more.
        seed: of the shuffle; not the recipe's, because a source is split the same way in every run.

    Returns:
        Indices into ``labels``, each once.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    grouped = shuffled[labels[shuffled].argsort(stable=True)]
    c = torch.bincount(labels)
    u = 0.5 + 0.5 * torch.rand(len(c), generator=generator, dtype=torch.float64)
    k = labels[grouped]
    r = torch.arange(len(labels)) - (c.cumsum(0) - c)[k]
    return grouped[((r + u[k]) / c[k]).argsort(stable=True)]


def hold_out(
    labels: Int[Tensor, " n"], count: int, seed: int = SEED
) -> tuple[Int[Tensor, " rest"], Int[Tensor, " held"]]:
    """Deal a class-balanced sample out of a split, at most half of each class.

    Args:
        labels: class of each image.
        count: wanted size of the sample.
        seed: of the shuffle.

    Returns:
        Indices of what stays and of what is held out, both in balanced order.
    """
    order = balanced_order(labels, seed)
    held = min(count, int((torch.bincount(labels) // 2).sum()))
    return order[held:], order[:held]


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 over parts, each with its length, so that no two lists of parts run together."""
    sha256 = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        sha256.update(len(raw).to_bytes(8, "little"))
        sha256.update(raw)
    return sha256.hexdigest()


def indices_bytes(indices: Int[Tensor, " n"]) -> bytes:
    """Indices as bytes that a digest can take."""
    return indices.to(torch.int64).numpy().astype("<i8").tobytes()
