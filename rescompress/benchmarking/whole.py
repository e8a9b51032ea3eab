"""How long whole models take in a runtime, before anything is trained or quantized in earnest."""

from collections.abc import Sequence

from torch import nn

from rescompress.benchmarking.layers import Target


def time_models(models: Sequence[nn.Module], target: Target) -> list[float]:
    """Median latency of each model, in seconds per batch, all exported and timed interleaved in fresh processes.

    Args:
        models: float models, or models quantized for the target's backend.
        target: where and how they run; its device is not looked at.
    """
    raise NotImplementedError
