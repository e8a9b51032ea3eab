"""The rows of an inspection: a network layer by layer, block by block, and what will hurt."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
BlockKind = Literal["basic", "bottleneck", "other"]
Shortcut = Literal["identity", "projection", "fixed"]
INSPECTION_SCHEMA = "rescompress.inspection/1"


@dataclass(frozen=True)
class LayerCost:
    """What one convolution or linear layer costs, for one image."""

    layer: str
    op: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    weight_bits: int
    weight_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a model costs: parameters, multiply-accumulates for one image, bytes of its weights."""

    params: int
    macs: int
    weight_bytes: int


@dataclass(frozen=True)
class LayerView(LayerCost):
    """One convolution or linear layer: what it costs for one image, where it stands, how well it bears INT8.

    Attributes:
        kernel: height and width of its filters; empty for a linear layer.
        groups: of the convolution; 1 for a linear layer.
        stride: pixels of the image between two neighbours of its output; None where it has no height and width.
        activation_bytes: of its output as the network keeps it: four bytes a value in float, one in INT8.
        block: the residual block that it belongs to; empty outside of blocks.
        group: the dependency group of its outputs; empty where they can't be cut.
        sqnr_db: signal to quantization noise ratio in INT8, in dB: of the network's output if the row's inspection has
            images, else of the layer's own weights; None where it can't be told.
    """

    kernel: tuple[int, ...]
    groups: int
    stride: float | None
    activation_bytes: int
    block: str
    group: str
    sqnr_db: float | None


@dataclass(frozen=True)
class BlockView:
    """What lies between a value and the add that it comes back to.

    Attributes:
        name: the module that holds the block, or the add where that would name two.
        add: the step that ends it.
        kind: ``basic`` has two spatial convolutions, ``bottleneck`` one between two of 1 x 1; a chain of convolutions
            with nothing in between counts as one.
        layers: in order of execution, those of the shortcut included.
        shortcut: ``identity``, a learned ``projection``, or ``fixed`` weights that only pick channels.
        shortcut_layers: those on the shortcut.
        stride: by which the block shrinks height and width.
        output_shape: of the add, for one image.
        macs: multiply-accumulates of its layers.
    """

    name: str
    add: str
    kind: BlockKind
    layers: tuple[str, ...]
    shortcut: Shortcut
    shortcut_layers: tuple[str, ...]
    stride: float
    output_shape: tuple[int, ...]
    macs: int


@dataclass(frozen=True)
class GroupView:
    """Layers that must lose the same channels together.

    Attributes:
        name: the first layer that makes the channels.
        channels: how many can leave one by one.
        width: channels of a layer that leave at once.
        layers: convolutions and linear layers that make the channels.
        readers: those that read them.
    """

    name: str
    channels: int
    width: int
    layers: tuple[str, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One thing that will hurt: where, how badly, and what to do about it.

    Attributes:
        kind: a few words that equal findings share.
        severity: an ``error`` breaks the network, a ``warning`` costs accuracy or speed, a ``note`` is good to know.
        layers: what it is about, in order of execution; adds, norms and other steps are named like layers.
        fact: one sentence with the figure.
        remedy: one sentence.
    """

    kind: str
    severity: Severity
    layers: tuple[str, ...]
    fact: str
    remedy: str


@dataclass(frozen=True)
class Totals(Cost):
    """What the whole network costs.

    Attributes:
        activation_bytes: outputs of all layers for one image.
    """

    activation_bytes: int


@dataclass(frozen=True)
class Inspection:
    """Everything that can be told of a network before it is compressed.

    Attributes:
        model: which network it is.
        input_shape: of one image, channels first.
        ops: how many steps of each kind the graph has.
        uncut: layers because of which dependency groups can't be cut.
        images: what activations and sensitivity were measured on; None where they were not.
    """

    schema: str
    model: str
    input_shape: tuple[int, ...]
    total: Totals
    layers: tuple[LayerView, ...]
    blocks: tuple[BlockView, ...]
    groups: tuple[GroupView, ...]
    uncut: tuple[str, ...]
    ops: dict[str, int]
    findings: tuple[Finding, ...]
    images: str | None
