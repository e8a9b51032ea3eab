"""What a network's graph foretells: widths, groups, adds and norms that cost accuracy or speed once it is small."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rescompress.graph import OPS
from rescompress.inspection.network import Network
from rescompress.views import BlockView, Finding, Severity

DP4A, HALF, INT8 = 4, 8, 16
"""Channels at a time: of INT8 dot products (DP4A, VNNI), of tensor cores in FP16, of tensor cores in INT8.

NVIDIA, Deep Learning Performance, Matrix Multiplication Background: 16 bytes to a row.
"""
MOVING = frozenset(
    {
        *("input", "add", "slice", "select", "unsqueeze", "squeeze", "permute", "transpose", "expand", "cat"),
        *("concat", "pad", "constant_pad_nd", "split", "split_with_sizes", "_to_copy", "upsample_nearest2d", "resize"),
        *("identity", "cast", "shape", "gather", "constant"),
    }
)
"""Steps beside those of ``graph.OPS`` that a runtime has in INT8, or that move values only."""


def odd_widths(network: Network) -> Iterator[Finding]:
    """Layers whose channels don't fill what an accelerator takes at a time; the network's outputs are as they are."""
    inner = [op for op in network.layers if op.learned and _feeds_a_layer(network, op.name)]
    widths = {op.name: op.shape[0] if op.kind == "conv" else op.shape[-1] for op in inner}
    classes: tuple[tuple[int, int, Severity, str], ...] = (
        (1, DP4A, "warning", f"nothing that computes in INT8: dot products take {DP4A} at a time"),
        (
            DP4A,
            HALF,
            "warning",
            f"dot products of {DP4A}, but no tensor cores: these take {HALF} in FP16, {INT8} in INT8",
        ),
        (HALF, INT8, "note", f"tensor cores in FP16, but not in INT8, where they take {INT8} at a time"),
    )
    for fits, wanted, severity, what in classes:
        names = tuple(name for name, width in widths.items() if width % fits == 0 and width % wanted)
        if names:
            shown = _listed(sorted({widths[name] for name in names}))
            yield Finding(
                "odd channel counts",
                severity,
                names,
                f"{_counted(names, 'layer has', 'layers have')} {shown} channels, which fill {what}.",
                f"Prune with round_to={INT8}, so that what stays is a multiple of it.",
            )


def narrow_groups(network: Network) -> Iterator[Finding]:
    """Convolutions with groups so narrow that an accelerator computes mostly nothing."""
    found: dict[int, list[str]] = {}
    for op in network.layers:
        if op.groups > 1 and op.weight is not None and op.weight.shape[1] < INT8:
            found.setdefault(op.weight.shape[1], []).append(op.name)
    for channels, names in sorted(found.items()):
        kind = "is depthwise, 1 channel" if channels == 1 else f"has only {channels} channels"
        kinds = "are depthwise, 1 channel" if channels == 1 else f"have only {channels} channels"
        yield Finding(
            "narrow groups",
            "warning" if channels < DP4A else "note",
            tuple(names),
            f"{_counted(names, f'convolution {kind}', f'convolutions {kinds}')} to a group, where INT8 takes "
            f"{DP4A} (dot products) or {INT8} (tensor cores) at a time.",
            "Count on their bytes, not on their few MACs, when you guess their time; measure it.",
        )


def residual_adds(blocks: Sequence[BlockView]) -> Iterator[Finding]:
    """Adds, whose two inputs each need a scale of their own in INT8."""
    if blocks:
        kinds = Counter(block.shortcut for block in blocks)
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        yield Finding(
            "residual adds",
            "note",
            tuple(block.add for block in blocks),
            f"{_counted(blocks, 'add needs', 'adds need')} Q/DQ with a scale of its own on either side; the shortcuts: "
            f"{shown}.",
            "Quantize both sides, or the runtime falls back to float at each add; quantize here does.",
        )


def unfolded_norms(network: Network) -> Iterator[Finding]:
    """BatchNorms that follow no convolution alone, as in pre-activation networks."""
    folded = {id(network.norm_behind(op)) for op in network.layers}
    norms = [op for op in network.ops if op.norm is not None]
    names = tuple(op.name for op in norms if id(op.norm) not in folded)
    if names:
        yield Finding(
            "BatchNorm without convolution",
            "warning",
            names,
            f"{len(names)} of {_counted(norms, 'BatchNorm follows', 'BatchNorms follow')} no convolution that "
            "they could be folded into.",
            "Under INT8 they stay in float, with a conversion on either side; measure whether INT8 pays.",
        )


def float_steps(network: Network) -> Iterator[Finding]:
    """Steps that no INT8 scheme here covers, such as the gates of squeeze-excitation."""
    known = MOVING | set(OPS.values())
    steps = [op for op in network.ops if op.kind not in known]
    if steps:
        kinds = Counter(op.kind.strip("_") for op in steps)
        shown = _listed([f"{count} {kind}" for kind, count in kinds.most_common()], "and")
        yield Finding(
            "float steps",
            "note",
            tuple(op.name for op in steps),
            f"{_counted(steps, 'step stays', 'steps stay')} in float under INT8: {shown}.",
            "Each costs a conversion on either side; look at the precision of each layer after export.",
        )


def shared_layers(network: Network) -> Iterator[Finding]:
    """Layers that run in several places with the same weights."""
    places = Counter(op.owner for op in network.layers if op.owner)
    names = tuple(name for name, count in places.items() if count > 1)
    if names:
        yield Finding(
            "shared weights",
            "note",
            names,
            f"{_counted(names, 'layer runs', 'layers run')} in several places, {_listed(names, 'and')}.",
            "Folding and factorizing leave them alone, and their activations differ in range from place to place.",
        )


def unused_parameters(total: int, used: int) -> Iterator[Finding]:
    """Weights that take space in the file, while no layer of the graph reads them."""
    if used < total:
        yield Finding(
            "unused parameters",
            "note",
            (),
            f"{total - used:,} of {total:,} parameters are read by no step from the image to the output.",
            "They cost bytes in the checkpoint only; what computes with them is not compressed here.",
        )


def _feeds_a_layer(network: Network, name: str) -> bool:
    """Whether any layer reads what a step makes, directly or through others."""
    waiting, seen = [name], {name}
    while waiting:
        for op in network.readers[waiting.pop()]:
            if op.cost is not None:
                return True
            if op.name not in seen:
                seen.add(op.name)
                waiting.append(op.name)
    return False


def _counted(things: Sequence[object], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"


def _listed(things: Sequence[object], word: str = "or", most: int = 6) -> str:
    """Such as ``27, 53 or 61``; the rest of a long list is counted."""
    shown = [str(thing) for thing in things[:most]]
    if len(things) > most:
        shown.append(f"{len(things) - most} more")
    return " ".join([", ".join(shown[:-1]), word, shown[-1]]) if len(shown) > 1 else "".join(shown)
