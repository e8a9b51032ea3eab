"""Which of several ranges is best for the layers behind a value: the least error of their outputs on a few images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx

from rescompress import graph
from rescompress.fakequant import FakeQuantize, passing, quantizer_behind
from rescompress.quantization.grid import Grid, Range


def choose(
    traced: fx.GraphModule,
    candidates: Mapping[str, Sequence[Range]],
    batches: Iterable[Float[Tensor, "_ 3 h w"]],
) -> dict[str, Range]:
    """For each value, the range with the least noise-to-signal ratio in the outputs of the ops that read it.

    A reader sees the float network's values, one of them rounded; a convolution or linear layer computes with its
    rounded weights, and a ReLU behind the reader is part of it. With several readers, the ratios add up. One op is
    computed at a time, so memory is that of a plain run and one layer's output.

    Args:
        traced: a captured graph with fake-quants, the weights' scales set.
        candidates: ranges by quantizer; the first wins where no image tells a difference.
        batches: normalized images.

    Returns:
        A range for each quantizer in ``candidates``.
    """
    open_ = {name: ranges for name, ranges in candidates.items() if len(ranges) > 1}
    trial = _Trial(traced, open_)
    if open_:
        with torch.no_grad(), passing(traced):
            for images in batches:
                trial.run(images)
    return {name: ranges[int(trial.ratio(name, len(ranges)).argmin())] for name, ranges in candidates.items()}


class _Trial(fx.Interpreter):
    """Runs the float network and, beside each op, the op once more for each candidate range of each of its inputs."""

    def __init__(self, traced: fx.GraphModule, candidates: Mapping[str, Sequence[Range]]) -> None:
        super().__init__(traced)
        self._traced = traced
        self._candidates = candidates
        self._noise: dict[tuple[str, str], Float[Tensor, " k"]] = {}
        self._signal: dict[tuple[str, str], float] = defaultdict(float)

    def ratio(self, name: str, count: int) -> Float[Tensor, " k"]:
        """Sum over a value's readers of noise by signal, one for each candidate."""
        total = torch.zeros(count, dtype=torch.float64)
        for key, noise in self._noise.items():
            if key[0] == name and self._signal[key]:
                total += noise / self._signal[key]
        return total

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor):
            for source in n.all_input_nodes:
                quantizer = quantizer_behind(self._traced, source)
                if quantizer is not None and quantizer.site.quantizer in self._candidates:
                    self._try(n, source, quantizer, result)
        return result

    def _try(self, reader: fx.Node, source: fx.Node, quantizer: FakeQuantize, result: Tensor) -> None:
        """Add what each candidate does to one reader's output."""
        behind = _behind_relu(reader)
        wanted = result.relu() if behind else result
        values = {node: self._value(node) for node in reader.all_input_nodes}
        noise = []
        for low, high in self._candidates[quantizer.site.quantizer]:
            values[source] = _rounded(self.env[source], Grid.of(quantizer.site), low, high)
            made = self._computed(reader, values)
            noise.append(float(((made.relu() if behind else made) - wanted).square().sum(dtype=torch.float64)))
        key = (quantizer.site.quantizer, reader.name)
        self._noise[key] = self._noise.get(key, 0) + torch.tensor(noise, dtype=torch.float64)
        self._signal[key] += float(wanted.square().sum(dtype=torch.float64))

    def _value(self, node: fx.Node) -> Any:
        """What a reader sees of an input that is not on trial: weights rounded, activations in float."""
        quantizer = quantizer_behind(self._traced, node)
        if quantizer is None or not quantizer.site.is_weight:
            return self.env[node]
        quantizer.enabled = True
        try:
            return quantizer(self.env[node])
        finally:
            quantizer.enabled = False

    def _computed(self, reader: fx.Node, values: Mapping[fx.Node, Any]) -> Tensor:
        args = fx.node.map_arg(reader.args, values.__getitem__)
        made = reader.target(*args, **fx.node.map_arg(reader.kwargs, values.__getitem__))  # type: ignore[operator]
        assert isinstance(made, Tensor)
        return made


def _behind_relu(reader: fx.Node) -> bool:
    """Whether nobody sees the reader's output but a ReLU."""
    users = list(reader.users)
    return len(users) == 1 and graph.op_of(users[0]) == "relu"


def _rounded(x: Float[Tensor, "..."], grid: Grid, low: float, high: float) -> Float[Tensor, "..."]:
    """The values on the grid that covers a range."""
    scale, zero = grid.affine(torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64))
    return torch.fake_quantize_per_tensor_affine(x, scale.float(), zero.int(), grid.q_min, grid.q_max)
