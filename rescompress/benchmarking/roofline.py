"""A device that is not at hand, as a roofline model (Williams et al. 2009, doi:10.1145/1498765.1498785)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rescompress import catalog, knobs
from rescompress.benchmarking.layers import LayerShape, Target
from rescompress.errors import RecipeError
from rescompress.spec import BYTES

SHIPPED = (Path(__file__).parents[1] / "_recipes" / "devices", Path(__file__).parents[2] / "recipes" / "devices")
"""Where devices lie in an installed package, and in a checkout."""
Precision = Literal["fp32", "fp16", "int8"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Device:
    """What bounds a device's speed, from its data sheet.

    Attributes:
        name: what people call it.
        model: always true: these numbers are no measurement.
        source: where they come from.
        peak_tera_ops: 10^12 dense operations per second, by precision; a multiply-accumulate is two.
        bandwidth_gb_s: of the memory, in 10^9 bytes per second.
        alignment: channels are computed in multiples of this, by precision.
        efficiency: share of the peak that convolutions reach.
        layer_overhead_us: time of a layer that has nothing to do, in microseconds.
        cores: processor cores that the peak is of; None where threads don't matter.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    model: Literal[True]
    source: str
    peak_tera_ops: dict[Precision, Positive]
    bandwidth_gb_s: Positive
    alignment: dict[Precision, Annotated[int, Field(ge=1, le=1024)]]
    efficiency: Annotated[float, Field(gt=0, le=1)] = 1.0
    layer_overhead_us: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    cores: Annotated[int, Field(ge=1)] | None = None


class Roofline:
    """An ``Estimator`` of a device: ``max(2 MACs / peak, bytes / bandwidth) + overhead`` per layer.

    Args:
        device: what bounds it.
        target: precision, batch and, for a processor, threads.

    Raises:
        RecipeError: the device doesn't compute in this precision.
    """

    modelled = True

    def __init__(self, device: Device, target: Target) -> None:
        if target.precision not in device.peak_tera_ops:
            known = ", ".join(device.peak_tera_ops)
            raise RecipeError(f"{device.name} has no rate for {target.precision}.", f"Choose one of: {known}.")
        self.name = f"{device.name} {target.precision} (model)"
        self._device, self._batch, self._size = device, target.batch, BYTES[target.precision]
        self._alignment = device.alignment.get(target.precision, 1)
        share = min(target.threads, device.cores) / device.cores if device.cores else 1.0
        self._rate = device.peak_tera_ops[target.precision] * 1e12 * device.efficiency * share

    def prepare(self, shapes: Iterable[LayerShape]) -> None:
        """Nothing is measured."""

    def seconds(self, shape: LayerShape) -> float:
        """Time of one run of the layer on one batch, in seconds; widths count as rounded up to whole tiles."""
        ins, outs = self._whole(shape.in_channels), self._whole(shape.out_channels)
        seen = ins if shape.groups == 1 else shape.in_channels // shape.groups
        height, width = shape.output_size
        weights = seen * outs * shape.kernel[0] * shape.kernel[1]
        read = ins * shape.height * shape.width + (outs * height * width if shape.added else 0)
        moved = (weights + self._batch * (read + outs * height * width)) * self._size
        arithmetic = 2 * self._batch * weights * height * width / self._rate
        memory = moved / (self._device.bandwidth_gb_s * 1e9)
        return max(arithmetic, memory) + self._device.layer_overhead_us * 1e-6

    def _whole(self, channels: int) -> int:
        return -(-channels // self._alignment) * self._alignment


def devices() -> dict[str, Path]:
    """The devices that come with the package, by name."""
    return {file.stem: file for folder in SHIPPED for file in sorted(folder.glob("*.yaml"))}


def device(name: str) -> Device:
    """A device by its name, or by the path of its YAML file.

    Raises:
        RecipeError: there is no such device, or its file is wrong.
    """
    file = Path(name) if Path(name).is_file() else devices().get(name)
    if file is None:
        raise RecipeError(f"There is no device {name}.", catalog.suggest(name, sorted(devices())))
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).replace("\n", " ")
        raise RecipeError(f"{file} is no YAML: {first}.", "Correct the file.") from None
    try:
        return TypeAdapter(Device).validate_python(content)
    except ValidationError as error:
        raise knobs.explain(error, str(file), tuple(Device.__dataclass_fields__)) from None
