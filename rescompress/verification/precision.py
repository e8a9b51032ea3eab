"""Does each layer run in the precision that the model and the export asked for?"""

from collections import Counter

from torch import fx, nn

from rescompress import fakequant, graph
from rescompress.artifact import Manifest
from rescompress.spec import PrecisionReport

HALVES = ("fp16", "bf16")


def departures(
    model: nn.Module, manifest: Manifest, report: PrecisionReport, *, has_integers: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What runs in another precision than it should: what is a failure, and what is worth a note, a sentence each.

    Args:
        model: the model that was exported.
        manifest: the artifact's.
        report: its audit.
        has_integers: whether its runtime computes in integers at all.
    """
    built = {layer.layer: layer.precision for layer in report.layers}
    wanted = integer_layers(model)
    floats = sorted(name for name in wanted if built.get(name) != "int8")
    if floats and not has_integers:
        return (), (f"{manifest.backend} has no integers: it computes INT8's grids in float.",)
    wrong = []
    if floats:
        wrong.append(
            f"{len(floats)} of {len(wanted)} layers should run in INT8 and don't, the first of them {floats[0]}."
        )
    others = {name: kind for name, kind in built.items() if name not in wanted and kind != "int8"}
    narrow = sorted(name for name, kind in others.items() if kind in HALVES and kind != manifest.floats)
    if narrow:
        wrong.append(
            f"{narrow[0]} runs in {others[narrow[0]]}, not in {manifest.floats}, and so do {len(narrow) - 1} more."
        )
    kinds = Counter(others.values())
    wide = manifest.floats in HALVES and kinds["fp32"]
    noted = (f"{kinds['fp32']} of {len(built)} layers run in fp32, not in {manifest.floats}.",) if wide else ()
    return tuple(wrong), noted


def integer_layers(model: nn.Module) -> set[str]:
    """The layers that multiply INT8 by INT8; no runtime here multiplies INT4, and weight-only layers are float."""
    if not fakequant.sites_of(model):
        return set()
    assert isinstance(model, fx.GraphModule)
    layers = {node: node.args[:2] for node in model.graph.nodes if graph.op_of(node) in ("conv", "linear")}
    found = {node: [fakequant.quantizer_behind(model, source) for source in pair] for node, pair in layers.items()}
    return {graph.name_of(node) for node, (x, w) in found.items() if x and w and w.site.dtype != "int4"}
