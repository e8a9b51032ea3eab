"""Each BatchNorm folds into the convolution before it, so that the runtime never sees it."""

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rescompress import graph, models, progress
from rescompress.context import Context
from rescompress.knobs import checked
from rescompress.layers import without_norm


@checked
def fuse(model: nn.Module, ctx: Context) -> nn.Module:
    """Fold every BatchNorm that directly follows a convolution into it; the outputs stay the same up to rounding.

    ``w' = w γ / sqrt(σ² + ε)`` and ``b' = (b - μ) γ / sqrt(σ² + ε) + β`` per output channel. A BatchNorm that follows
    anything else (as in pre-activation networks), or whose convolution feeds others too, stays.

    Args:
        model: a float model.
        ctx: not needed by this stage.
    """
    fused = graph.clone(model).eval()
    pairs = foldable(model)
    kept = sum(isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)) for module in model.modules()) - len(pairs)
    if kept:
        progress.note(f"fuse: {len(pairs)} BatchNorms folded; {kept} other normalizations can't be and stay.")
    for conv_name, bn_name in pairs:
        conv, bn = fused.get_submodule(conv_name), fused.get_submodule(bn_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(bn, nn.BatchNorm2d)
        fold(conv, bn)
        parent, _, name = bn_name.rpartition(".")
        setattr(fused.get_submodule(parent), name, without_norm(bn))
    return fused


def fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
    """Fold a BatchNorm's affine map into a convolution, in place and in double precision."""
    parts = (conv.weight, conv.bias, bn.running_mean, bn.running_var)
    w, b, mean, var = (None if part is None else part.detach().double() for part in parts)
    gamma, beta = (None if part is None else part.detach().double() for part in (bn.weight, bn.bias))
    assert w is not None
    assert mean is not None
    assert var is not None
    weight, bias = fuse_conv_bn_weights(w, b, mean, var, bn.eps, gamma, beta)
    conv.weight = nn.Parameter(weight.float(), conv.weight.requires_grad)
    conv.bias = nn.Parameter(bias.float(), conv.weight.requires_grad)


def foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and the BatchNorm that alone reads its output; a module that runs twice is left out."""
    traced = graph.capture(model, models.spec_of(model).input_shape, functional=False)
    modules = dict(model.named_modules())
    norms = [node for node in traced.graph.nodes if graph.op_of(node) == "batch_norm"]
    runs = Counter(_owner(norm, 3) for norm in norms)
    runs += Counter(_owner(node, 1) for node in traced.graph.nodes if graph.op_of(node) == "conv")
    pairs = []
    for norm in norms:
        conv = norm.args[0]
        if not isinstance(conv, fx.Node) or graph.op_of(conv) != "conv" or len(conv.users) > 1:
            continue
        pair = (_owner(conv, 1), _owner(norm, 3))
        once = all(runs[name] == 1 for name in pair)
        conv_module, bn_module = (modules.get(name) for name in pair)
        folds = isinstance(bn_module, nn.BatchNorm2d) and without_norm(bn_module) is not None
        if once and folds and isinstance(conv_module, nn.Conv2d):
            pairs.append(pair)
    return pairs


def _owner(node: fx.Node, place: int) -> str:
    """Name of the module that a node runs, read off the tensor of its that stands at this place."""
    tensor = node.args[place]
    assert isinstance(tensor, fx.Node)
    return str(tensor.target).rpartition(".")[0]
