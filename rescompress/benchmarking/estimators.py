"""Who tells how long a layer takes: a table measured here, or the roofline of a device that is not at hand."""

from rescompress import backends
from rescompress.benchmarking.layers import Estimator, Target
from rescompress.benchmarking.roofline import Roofline, device
from rescompress.benchmarking.table import Table
from rescompress.errors import RecipeError


def estimator(target: Target) -> Estimator:
    """The measured table of a runtime on this machine, or the model of a device.

    Args:
        target: where and how the layers run.

    Raises:
        RecipeError: there is no such device, or this precision can't be told of.
        BackendMissing: the runtime is not installed here.
    """
    if target.device is not None:
        return Roofline(device(target.device), target)
    if target.precision == "fp16":
        raise RecipeError("fp16 can't be measured here.", "Name a device that is modelled, or choose fp32 or int8.")
    backends.require(target.backend)
    return Table(target)
