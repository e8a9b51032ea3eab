"""What a network is quantized for: the numbers it gets, the runtime and processor that will run it."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from rescompress import graph
from rescompress.cpu import Kernels
from rescompress.placement import Kind, hindered, place
from rescompress.quantization.grid import Range
from rescompress.schemes import scheme_for
from rescompress.sites import Site


@dataclass(frozen=True)
class Target:
    """Where integers are wanted; the fields are knobs of ``quantize``.

    Attributes:
        precision: what becomes integers.
        weight_bits: of the weights beside INT8 activations.
        runtime: whose scheme is followed.
        cpu: kernels of the processor that it is made for.
        first: quantize the first layer.
        classifier: quantize the layer that makes the logits.
        float_layers: what stays in float by name.
        pixels: round images to the levels of their pixels where the runtime does that at hardly any cost.
    """

    precision: Kind
    weight_bits: int
    runtime: str
    cpu: Kernels
    first: bool = True
    classifier: bool = True
    float_layers: tuple[str, ...] = ()
    pixels: bool = True

    @property
    def static(self) -> bool:
        """Whether activations have ranges that calibration finds."""
        return self.precision == "int8"

    @property
    def narrow(self) -> bool:
        """Whether weights have 4 bits: so few steps that learning how to round pays."""
        return self.precision == "w4" or self.weight_bits == 4

    def sites(self, bare: fx.GraphModule, floats: Collection[str] = ()) -> tuple[Site, ...]:
        """Where fake-quants stand in a float graph if some more layers stay in float."""
        return place(
            bare,
            scheme_for(self.runtime, self.cpu),
            precision=self.precision,
            weight_bits=4 if self.weight_bits == 4 else 8,
            first=self.first,
            classifier=self.classifier,
            float_layers=(*self.float_layers, *floats),
        )

    def rounds_images(self, bare: fx.GraphModule) -> bool:
        """Whether images are rounded, and may be shifted before."""
        wanted = self.pixels and self.static and scheme_for(self.runtime, self.cpu).pixels
        return wanted and any(site.value == graph.INPUT for site in self.sites(bare))

    def fixed(self, bare: fx.GraphModule, sites: Collection[Site]) -> dict[str, Range]:
        """The ranges that the runtime's kernels leave no choice of, by quantizer."""
        ranges = {op: (low, high) for op, low, high in scheme_for(self.runtime, self.cpu).fixed_ranges}
        values = graph.values(bare)
        ops = {site: graph.op_of(values[site.value]) for site in sites if not (site.is_weight or site.dynamic)}
        return {site.quantizer: ranges[op] for site, op in ops.items() if op in ranges}

    def hindered(self, bare: fx.GraphModule) -> tuple[str, ...]:
        """A sentence for each layer that can't be quantized."""
        return hindered(bare, scheme_for(self.runtime, self.cpu), self.precision)
