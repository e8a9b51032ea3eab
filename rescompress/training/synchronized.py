"""BatchNorm over the images of all processes, so that their number changes nothing that is computed."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rescompress import processes


class SynchronizedNorms(TorchFunctionMode):
    """While it is active, every BatchNorm in training mode averages over all processes; alone, nothing changes.

    ``torch.nn.SyncBatchNorm`` does so on GPUs only, and would change the class of each layer.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take ``F.batch_norm`` over where it averages."""
        kwargs = kwargs or {}
        if func is F.batch_norm and processes.size() > 1:
            return _batch_norm(func, *args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    plain: Callable[..., Tensor],
    x: Float[Tensor, "b c h w"],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps)`` with mean and variance of all processes' images; running ones are updated."""
    if not training:
        return plain(x, running_mean, running_var, weight, bias, training, momentum, eps)
    channels, wide = x.shape[1], x.float()
    count = torch.full((1,), x.numel() / channels, device=x.device)
    sums = torch.cat([wide.sum((0, 2, 3)), count])
    sums = _total(sums)
    n, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
    centred = wide - mean[:, None, None]
    var = _total(centred.square().sum((0, 2, 3))) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * n / (n - 1)).to(running_var.dtype), momentum)
    y = centred * torch.rsqrt(var + eps)[:, None, None]
    if weight is not None and bias is not None:
        y = y * weight[:, None, None] + bias[:, None, None]
    return y.to(x.dtype)


class _Total(torch.autograd.Function):
    """A sum over processes: each one's part also moves the losses of all others."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return processes.total(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return processes.total(gradients[0].clone())


def _total(tensor: Tensor) -> Tensor:
    summed: Tensor = _Total.apply(tensor)  # type: ignore[no-untyped-call]
    return summed
