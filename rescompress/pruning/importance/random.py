"""Chance, for control experiments: what a criterion is worth is what it gains on this one."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.pruning.evidence import Evidence
from rescompress.pruning.groups import Group


def score(model: nn.Module, group: Group, evidence: Evidence) -> Float[Tensor, " c"]:
    """Uniform in [0, 1); the same for the same seed and the same name of the group."""
    digest = hashlib.sha256(f"{evidence.seed}/{group.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(group.channels, generator=generator)
