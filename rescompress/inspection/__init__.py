"""What a network is, what each layer of it costs, and what will hurt when it is compressed."""

from pathlib import Path
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, fx, nn

from rescompress import cost, data, graph, models
from rescompress.data import Data
from rescompress.errors import InputRefused
from rescompress.inspection import activations, findings, onnx_file, rows, structure, weights
from rescompress.inspection.network import read
from rescompress.knobs import checked
from rescompress.spec import ModelSpec
from rescompress.views import Inspection

__all__ = ["inspect", "inspect_onnx"]


@checked
def inspect(
    model: nn.Module, opened: Data | None = None, *, images: Annotated[int, Field(ge=1, le=512)] = 8
) -> Inspection:
    """What a network is made of, what each layer costs, and what will hurt when it is compressed.

    Without data, a layer's sensitivity is what INT8 does to its weights; with data, what INT8 in this layer alone does
    to the network's output, and activations are looked at too.

    Args:
        model: any network that carries its spec; it is not edited.
        opened: labelled images; None measures nothing.
        images: calibration images on which activations and sensitivity are measured.

    Raises:
        InputRefused: the model doesn't carry its spec.
    """
    spec = models.spec_of(model)
    traced = graph.capture(model, spec.input_shape, functional=opened is not None)
    network = read(traced)
    shown = None if opened is None else _images(opened, spec, images)
    return rows.compose(
        network,
        str(spec),
        cost.summed(model, cost.costs_of(traced)),
        grouping=structure.groups(model, network, spec.input_shape),
        measured=None if shown is None else activations.measure(traced, shown),
        images=None if shown is None or opened is None else f"{len(shown)} images of {opened.source}",
        more=(
            *weights.broken_numbers(model.state_dict()),
            *findings.unused_parameters(*_parameters(model, traced)),
        ),
    )


def inspect_onnx(path: Path | str) -> Inspection:
    """The same of an ONNX graph, which is inspected but not compressed, so it has no dependency groups.

    Args:
        path: a file with fixed height and width, and its weights inside.

    Raises:
        InputRefused: the file is missing, corrupt, or keeps its weights elsewhere.
        ResourceExhausted: reading it took more memory or time than a file of its size is worth.
        BackendMissing: the package onnx is not installed.
    """
    try:
        found = onnx_file.read(Path(path))
        broken = tuple(weights.broken_numbers(found.tensors))
        return rows.compose(found.network, found.name, found.total, more=broken)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).partition("\n")[0].rstrip(".")[:200]
        raise InputRefused(f"{path} contradicts itself: {first}.", "Export it again from its model.") from None


def _images(opened: Data, spec: ModelSpec, count: int) -> Float[Tensor, "n 3 h w"]:
    ((images, _),) = data.batches(opened.calibration, spec.preprocessing, count, count)
    return images


def _parameters(model: nn.Module, traced: fx.GraphModule) -> tuple[int, int]:
    """Parameters in all, and those that the graph reads."""
    read_ones = {id(graph.tensor_of(traced, node)) for node in traced.graph.nodes if node.op == "get_attr"}
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if id(p) in read_ones)
