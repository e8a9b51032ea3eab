"""An inspection for people and for programs: inspect.json, inspect.html and network.svg."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from rescompress.artifact import to_json, write_bytes
from rescompress.reporting import drawing, network, pages, wording
from rescompress.reporting.tables import Cell, Table
from rescompress.reporting.verdict import Tone
from rescompress.views import Finding, GroupView, Inspection, LayerView

TEMPLATE = "inspect.html.j2"
TONES: dict[str, Tone] = {"error": "bad", "warning": "warn", "note": "none"}
FLOAT_BITS = 32
MOST_FACTS = 40
"""Facts of one kind that the page lists; the file has them all."""


@dataclass(frozen=True)
class Kind:
    """Findings of one kind: how bad, where, each one's fact, and what to do."""

    name: str
    tone: Tone
    severity: str
    where: str
    facts: tuple[str, ...]
    remedy: str


def write(found: Inspection, folder: Path) -> tuple[Path, ...]:
    """Write inspect.json, inspect.html and network.svg, each atomically; equal inspections give equal bytes.

    Raises:
        ResourceExhausted: the disk is full.
        InputRefused: the folder can't be written.
    """
    contents = {
        "inspect.json": to_json(found),
        "inspect.html": render(found).encode(),
        "network.svg": network.standalone(found).encode(),
    }
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return tuple(folder / name for name in contents)


def render(found: Inspection) -> str:
    """The whole page; it needs no script, no font and no network."""
    return pages.fill(
        TEMPLATE,
        found=found,
        shape=_sizes(found.input_shape),
        totals=_totals(found),
        kinds=kinds(found.findings),
        # Every text in the picture is escaped where it is drawn.
        wide=Markup(network.draw(found, drawing.WIDE)),  # noqa: S704
        narrow=Markup(network.draw(found, drawing.NARROW)),  # noqa: S704
        layers=_layer_table(found.layers, measured=found.images is not None),
        blocks=_block_table(found),
        groups=_group_table(found.groups),
    )


def kinds(findings: Sequence[Finding]) -> tuple[Kind, ...]:
    """Findings gathered by kind, the worst first."""
    order = {kind: place for place, kind in reversed(list(enumerate(_kind_of(f) for f in findings)))}
    gathered = groupby(sorted(findings, key=lambda finding: order[_kind_of(finding)]), key=_kind_of)
    made = []
    for (severity, name), group in gathered:
        members = tuple(group)
        facts = [finding.fact for finding in members[:MOST_FACTS]]
        if len(members) > MOST_FACTS:
            facts.append(f"And {len(members) - MOST_FACTS} more: see inspect.json.")
        where = _some([layer for finding in members for layer in finding.layers])
        made.append(Kind(name, TONES[severity], severity, where, tuple(facts), members[0].remedy))
    return tuple(made)


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _kind_of(finding: Finding) -> tuple[str, str]:
    return finding.severity, finding.kind


def _totals(found: Inspection) -> tuple[tuple[str, str, str], ...]:
    """Name, number and its unit or meaning."""
    total, bottlenecks = found.total, sum(block.kind == "bottleneck" for block in found.blocks)
    basics = sum(block.kind == "basic" for block in found.blocks)
    kinds_of_block = [f"{number} {kind}" for number, kind in ((basics, "basic"), (bottlenecks, "bottleneck")) if number]
    return (
        ("Parameters", wording.count(total.params), f"{total.params:,}"),
        ("MACs", wording.count(total.macs), "multiply-accumulates for one image"),
        ("Weights", wording.size(total.weight_bytes), "as they are stored"),
        ("Activations", wording.size(total.activation_bytes), "outputs of all layers, one image"),
        ("Layers", str(len(found.layers)), "convolutions and linear layers"),
        ("Blocks", str(len(found.blocks)), ", ".join(kinds_of_block) or "residual blocks"),
    )


def _layer_table(layers: Sequence[LayerView], measured: bool) -> Table:
    head = ("Layer", "Op", "Output", "Stride", "Parameters", "MACs", "Weights", "Activations")
    rows = tuple(
        (
            Cell(layer.layer),
            Cell(f"{layer.op} {_sizes(layer.kernel)}".strip(), f"{layer.groups} groups" if layer.groups > 1 else ""),
            Cell(_sizes(layer.output_shape)),
            Cell("" if layer.stride is None else f"{layer.stride:g}"),
            Cell(f"{layer.params:,}"),
            Cell(wording.count(layer.macs)),
            Cell(
                wording.size(layer.weight_bytes), "" if layer.weight_bits == FLOAT_BITS else f"{layer.weight_bits} bits"
            ),
            Cell(wording.size(layer.activation_bytes)),
            Cell("unknown", kind="missing") if layer.sqnr_db is None else Cell(wording.decibels(layer.sqnr_db)),
            Cell(layer.group, kind="prose"),
        )
        for layer in layers
    )
    return Table((*head, "Output's SQNR" if measured else "Weights' SQNR", "Group"), rows)


def _block_table(found: Inspection) -> Table:
    rows = tuple(
        (
            Cell(block.name),
            Cell(block.kind),
            Cell(block.shortcut, ", ".join(block.shortcut_layers)),
            Cell(f"{block.stride:g}"),
            Cell(_sizes(block.output_shape)),
            Cell(wording.count(block.macs)),
            Cell(str(len(block.layers))),
        )
        for block in found.blocks
    )
    return Table(("Block", "Kind", "Shortcut", "Stride", "Output", "MACs", "Layers"), rows)


def _group_table(groups: Sequence[GroupView]) -> Table:
    rows = tuple(
        (
            Cell(group.name),
            Cell(str(group.channels), f"{group.width} at once" if group.width > 1 else ""),
            Cell(", ".join(group.layers), kind="prose"),
            Cell(", ".join(group.readers) or "none", kind="prose"),
        )
        for group in groups
    )
    return Table(("Group", "Channels", "Layers that make them", "Layers that read them"), rows)


def _sizes(sizes: Sequence[int]) -> str:
    return wording.TIMES.join(map(str, sizes))
