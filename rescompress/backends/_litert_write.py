"""The whole file: what goes in, the network, what comes out, and what people want to know of them."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx

from rescompress import __version__, fakequant, graph, progress
from rescompress.backends._litert_file import Grid, TfliteFile, Value
from rescompress.backends._litert_graph import Translation, grid_of, refused
from rescompress.backends._litert_ops import OPS, PROBABILITIES
from rescompress.errors import InputRefused
from rescompress.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

PIXELS = Grid((1 / 255,))
LABELS = "labels.txt"
METADATA = "rescompress.json"


@dataclass(frozen=True)
class Face:
    """What a file shows to those who run it; the backend's knobs of the same names."""

    half: bool = False
    preprocess: bool = False
    softmax: bool = False
    batch: int | None = None
    integer_io: bool = False
    labels: Sequence[str] = ()


def content_of(model: "nn.Module", spec: ModelSpec, face: Face) -> bytes:
    """A model as a TFLite file.

    Args:
        model: float or quantized.
        spec: the model's.
        face: what goes in and comes out.

    Raises:
        InputRefused: the network has an op that isn't written for LiteRT, or no integers at its ends.
    """
    traced = graph.capture(model, spec.input_shape)
    if fakequant.sites_of(traced):
        traced = fakequant.lower(traced)
    file = TfliteFile(face.batch)
    t = Translation(traced, file, half=face.half)
    source: Value | None = None
    outputs: list[Value] = []
    for node in progress.track(list(traced.graph.nodes), "write for LiteRT"):
        if node.op == "placeholder":
            source = _input(t, node, spec, face)
        elif node.op == "output":
            outputs = [_output(t, n, face) for n in node.all_input_nodes]
        elif node.op == "call_module":
            _rounded(t, node)
        elif node.op == "call_function" and node not in t.values:
            _op(t, node)
    assert source is not None
    preprocessing = spec.preprocessing
    told = {"labels": list(face.labels), "mean": preprocessing.mean, "std": preprocessing.std, "layout": "NHWC RGB"}
    file.attach(METADATA, json.dumps(told).encode())
    return file.content(source, outputs, f"{spec} by rescompress {__version__}") + _labels(face.labels)


def _op(t: Translation, node: fx.Node) -> None:
    op = graph.op_of(node)
    if op not in OPS:
        raise refused(node)
    OPS[op](t, node)


def _rounded(t: Translation, node: fx.Node) -> None:
    """The value behind a fake-quant: its integers, unless its range is found at run time."""
    module = t.rounding(node)
    if module is None:
        return  # a parameter, which its layer reads
    source = node.args[0]
    assert isinstance(source, fx.Node)
    node.meta["val"] = source.meta["val"]
    value = t.values[source]
    t.values[node] = value if module.site.dynamic else t.requantized(value, grid_of(module))


def _input(t: Translation, node: fx.Node, spec: ModelSpec, face: Face) -> Value:
    """Normalized images; their integers; or bytes that the graph scales and normalizes."""
    channels, height, width = spec.input_shape
    shape, name = (height, width, channels), graph.name_of(node)
    if face.preprocess:
        source = t.file.value(name, shape, "uint8", PIXELS)
        mean, std = (np.array(numbers, np.float64) for numbers in (spec.preprocessing.mean, spec.preprocessing.std))
        factor = t.file.constant(f"{name}/factor", (1 / std).astype(np.float32))
        offset = t.file.constant(f"{name}/offset", (-mean / std).astype(np.float32))
        value = t.file.op("DEQUANTIZE", [source], t.file.value(f"{name}/unit", shape), 2)
        value = t.file.op("MUL", [value, factor], t.file.value(f"{name}/scaled", shape))
        t.values[node] = t.file.op("ADD", [value, offset], t.file.value(f"{name}/normalized", shape))
        return source
    behind = [module for user in node.users if (module := t.rounding(user))]
    if face.integer_io and (not behind or behind[0].site.dynamic):
        raise InputRefused(_no_integers("input"), "Leave integer_io out, or quantize with int8.")
    t.values[node] = t.file.value(name, shape, *(("int8", grid_of(behind[0])) if face.integer_io else ()))
    return t.values[node]


def _output(t: Translation, node: fx.Node, face: Face) -> Value:
    """Logits, probabilities or maps, in float or in integers."""
    value: Value = t.values[node]
    if face.integer_io and value.grid is None:
        raise InputRefused(_no_integers("output"), "Leave integer_io out, or quantize all layers with int8.")
    if not face.integer_io:
        value = t.in_float(node)
    if not face.softmax:
        return value
    grid: tuple[Any, ...] = ("int8", PROBABILITIES) if face.integer_io else ()
    output = t.file.value("probabilities", value.shape[1:], *grid)
    return t.file.op("SOFTMAX", [value], output, 2 if grid else 1, beta=1.0)


def _no_integers(end: str) -> str:
    return f"integer_io needs an {end} that is quantized to INT8, which this model's isn't."


def _labels(labels: Sequence[str]) -> bytes:
    """The class names as TFLite packs associated files: a ZIP archive behind the model."""
    if not labels:
        return b""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS), "\n".join(labels) + "\n")
    return packed.getvalue()
