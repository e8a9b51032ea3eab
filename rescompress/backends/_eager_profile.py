"""How long each op of a captured graph takes in eager PyTorch, which fuses nothing."""

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from rescompress import graph
from rescompress.backends import Images
from rescompress.backends._layer_times import WARM_UP, Kernel, booked, repeated
from rescompress.ends import EndToEnd
from rescompress.timing import LayerTime

Ops = dict[fx.Node, list[int]]


class Stopwatch(fx.Interpreter):
    """Runs a captured graph node by node, and notes how long each op takes, in nanoseconds.

    Args:
        network: a captured graph.
        wait: returns when all that was asked of the device is done.
    """

    def __init__(self, network: fx.GraphModule, wait: Callable[[], None]) -> None:
        super().__init__(network)
        self._wait = wait
        self.ns: Ops = {node: [] for node in network.graph.nodes if node.op.startswith("call")}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value; an op's time goes from when its inputs are there to when the device is done."""
        if n not in self.ns:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        begin = time.perf_counter_ns()
        value = getattr(self, n.op)(n.target, args, kwargs)
        self._wait()
        self.ns[n].append(time.perf_counter_ns() - begin)
        return value


class _Watched(nn.Module):
    """A network that a stopwatch runs."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self._watch = watch

    def forward(self, images: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """As the network."""
        return cast(Tensor, self._watch.run(images))


def read(whole: EndToEnd, images: Images, kinds: Mapping[str, str]) -> tuple[tuple[LayerTime, ...], float]:
    """Layers with the medians of their times, and the median of whole queries, in ms.

    Args:
        whole: holds a captured graph, which is run in the interpreter from now on.
        images: of one query, as the artifact takes them.
        kinds: ``conv``, ``linear``, ``add`` or ``pool`` by the graph's own word for an op.
    """
    network, totals = whole.network, list[int]()
    assert isinstance(network, fx.GraphModule)
    device = whole.factor.device
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    watch = Stopwatch(network, wait)
    whole.network = _Watched(watch)

    def query() -> None:
        begin = time.perf_counter_ns()
        whole(torch.tensor(images, device=device)).cpu()
        totals.append(time.perf_counter_ns() - begin)

    with torch.inference_mode():
        repeated(query)
    kernels, layers = [], dict[str, str]()
    for node, ns in watch.ns.items():
        op = "fake-quant" if node.op == "call_module" else graph.op_of(node)
        name = str(node.target) if node.op == "call_module" else graph.name_of(node)
        kernels.append(Kernel(name, op, float(np.median(ns[WARM_UP:])) / 1e6, (name,)))
        if op in kinds:
            layers[name] = kinds[op]
    return booked(kernels, layers), float(np.median(totals[WARM_UP:])) / 1e6
