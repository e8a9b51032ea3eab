"""A 1 x 1 convolution, a k x 1 and a 1 x k channel by channel, a 1 x 1: CP (Lebedev et al. 2015, arXiv:1412.6553)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rescompress.factorization.chain import Factor
from rescompress.factorization.ranks import Spectrum
from rescompress.factorization.split import Split, basis, pointwise

Factors = tuple[Float[Tensor, "o r"], Float[Tensor, "i r"], Float[Tensor, "ky r"], Float[Tensor, "kx r"]]
Part = Float[Tensor, "_ r"]
MU = 0.01
"""Weight of the components' own energy beside the error; a tenth of it came no nearer on trained ResNets."""


def split(conv: nn.Conv2d, *, iterations: Annotated[int, Field(ge=0, le=1000)] = 30) -> Split:
    """``W[o, i, y, x] ≈ sum_r a[o, r] b[i, r] c[y, r] d[x, r]``.

    It starts from components that are orthogonal to each other: the kernel's two axes are turned as in HOSVD, and each
    of the ``ky kx`` slices between inputs and outputs gets an SVD. Kept in the order of their singular values they lose
    exactly what is dropped, and all ``ky kx min(o, i)`` of them are exact. Alternating least squares then come nearer
    at the same rank; where they don't, the start stays. So the energy is kept, but a lower rank might have kept it too.

    The best CP of a rank needn't exist, and plain least squares then let components grow that cancel each other (de
    Silva and Lim 2008; Phan et al. 2020, arXiv:2008.05441). Here a ridge bounds them, see ``refined``. A 1 x 1
    convolution becomes two.

    Args:
        conv: what is split.
        iterations: rounds of alternating least squares.
    """
    if conv.kernel_size == (1, 1):
        return pointwise(conv)
    w = conv.weight.detach().double()
    o, i, ky, kx = w.shape
    turn_y, turn_x = basis(w.permute(2, 0, 1, 3))[0], basis(w.permute(3, 0, 1, 2))[0]
    slices = torch.einsum("oiyx,yp,xq->pqoi", w, turn_y, turn_x).reshape(ky * kx, o, i)
    u, s, vt = torch.linalg.svd(slices, full_matrices=False)
    order = s.square().flatten().argsort(descending=True, stable=True)

    def build(ranks: Sequence[int], rough: bool) -> tuple[Factor, ...]:
        place = order[: ranks[0]]
        at, j = place // s.shape[1], place % s.shape[1]
        start = (u[at, :, j].T * s[at, j], vt[at, j].T, turn_y[:, at // kx], turn_x[:, at % kx])
        a, b, c, d = balanced(start if rough else refined(w, start, iterations))
        r = a.shape[1]
        tall, wide = Factor.tall(conv, c.T[:, None, :, None], r), Factor.wide(conv, d.T[:, None, None, :], r)
        return Factor(b.T[:, :, None, None]), tall, wide, Factor(a[:, :, None, None])

    return Split((Spectrum(s.square(), (o, i)),), build)


def refined(w: Float[Tensor, "o i ky kx"], start: Factors, iterations: int) -> Factors:
    """Components after alternating least squares with a ridge, or the start where that is nearer to W.

    Each step minimizes ``|W - Ŵ|² + μ sum_r |w_r|²`` over one mode, where ``w_r`` is the r-th component and the other
    modes have columns of length 1. That sum never rises, so that ``sum_r |w_r|² <= |start|² + |W - start|² / μ``:
    nothing diverges, whatever the rank.

    Args:
        w: the weight, in double precision.
        start: components to begin with.
        iterations: steps over all four modes.
    """
    left, now, letters = _distance(w, start), list(start), ("or", "ir", "yr", "xr")
    if left <= 1e-24 * float(w.square().sum()):
        return start
    ridge = MU * torch.eye(now[0].shape[1], dtype=w.dtype, device=w.device)
    for _ in range(iterations):
        for mode, letter in enumerate(letters):
            now = [part if k == mode else _unit(part) for k, part in enumerate(now)]
            others = [part for k, part in enumerate(now) if k != mode]
            gram = torch.stack([part.T @ part for part in others]).prod(0) + ridge
            given = ",".join(one for one in letters if one != letter)
            right = torch.einsum(f"oiyx,{given}->{letter}", w, *others)
            now[mode] = torch.cholesky_solve(right.T, torch.linalg.cholesky(gram)).T
    a, b, c, d = now
    return (a, b, c, d) if _distance(w, (a, b, c, d)) < left else start


def balanced(parts: Factors) -> Factors:
    """The same components, their length shared evenly by the four modes, so that none dominates in INT8."""
    length = torch.stack([part.norm(dim=0) for part in parts]).prod(0).pow(0.25)
    a, b, c, d = (_unit(part) * length for part in parts)
    return a, b, c, d


def _unit(part: Part) -> Part:
    length = part.square().sum(0).sqrt()
    return part / length.clamp_min(torch.finfo(part.dtype).tiny)


def _distance(w: Float[Tensor, "o i ky kx"], parts: Factors) -> float:
    return float((w - torch.einsum("or,ir,yr,xr->oiyx", *parts)).square().sum())
