"""Who tells how long a layer takes: a table measured here, or the roofline of a device that is not at hand."""

from rescompress.benchmarking.layers import Estimator, Target


def estimator(target: Target) -> Estimator:
    """The measured table of a runtime on this machine, or the model of a device.

    Args:
        target: where and how the layers run.

    Raises:
        RecipeError: there is no such device, or it does not know this precision.
        BackendMissing: the runtime is not installed here.
    """
    raise NotImplementedError
