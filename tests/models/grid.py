"""Every network through everything: what docs/families.md shows, measured cell by cell.

``make families`` runs it (test_grid.py, marked slow) and writes the page from the rows.
"""

import gc
import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rescompress import backends, checkpoint, data, inspection, models, pipeline
from rescompress.context import Context
from rescompress.cost import total_cost
from rescompress.distillation import distill
from rescompress.errors import InputRefused
from rescompress.factorization import factorize
from rescompress.fusion import fuse
from rescompress.pruning import prune
from rescompress.quantization import quantize
from rescompress.spec import ModelSpec
from rescompress.training import Schedule
from tests.networks import context, enliven

PAGE, ROWS = Path("docs/families.md"), Path("docs/families.json")
BASIC = {"layer_type": "basic", "hidden_sizes": (64, 128, 256, 512), "depths": (2, 2, 2, 2)}
CLASSIFIER, BACKBONE = "ResNetForImageClassification", "ResNetBackbone"
OWN = "tests.models.test_builder:tiny"
TORCHVISION = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
TIMM = ("resnet18", "resnet26t", "resnet50d", "resnetaa50", "resnetrs50", "seresnet50", "seresnext50_32x4d")
NETWORKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("torchvision", name, {}) for name in TORCHVISION),
    *(("timm", name, {}) for name in (*TIMM, "resnetv2_50", "resnet50_gn")),
    ("huggingface", CLASSIFIER, {"downsample_in_bottleneck": True}),
    ("huggingface", CLASSIFIER, {**BASIC}),
    ("huggingface", CLASSIFIER, {**BASIC, "downsample_in_first_stage": True}),
    ("huggingface", BACKBONE, {"out_features": ("stage2", "stage4")}),
    *(("cifar", f"resnet{depth}", {"shortcut": "A"}) for depth in (20, 56, 110)),
    ("cifar", "resnet20", {"shortcut": "B"}),
    ("cifar", "resnet18", {}),
    ("wide_resnet", "wrn_28_10", {}),
    *(("preact", name, {}) for name in ("preact_resnet20", "preact_resnet164", "preact_resnet18_cifar")),
    *(("preact", name, {}) for name in ("preact_resnet50",)),
    *(("se", name, {}) for name in ("se_resnet20", "se_resnet50")),
    ("keras", "ResNet50", {}),
    ("detection", "fasterrcnn_resnet50_fpn", {}),
    ("segmentation", "deeplabv3_resnet50", {"aux_loss": True}),
    ("builder", OWN, {"width": 32}),
)
"""What the page shows: family, architecture, arguments."""
SIDE, CLASSES, IMAGES = 32, 10, 16
UNTAUGHT = "no labels for maps: distilled by maps and hints in the tests, not in this table"


def measure(family: str, architecture: str, arguments: dict[str, Any]) -> dict[str, str]:
    """One row: a word for each cell, each of it measured here."""
    model = network(family, architecture, arguments)
    spec = models.spec_of(model)
    ctx = replace(context(max(1, spec.classes), spec.preprocessing.crop, IMAGES), reference=model)
    assert ctx.data
    images = next(iter(data.batches(ctx.data.test, spec.preprocessing, IMAGES)))[0]
    with tempfile.TemporaryDirectory() as folder:
        row = {"load": _load(model, images, Path(folder) / "plain.pth")}
        row["inspect"] = _inspect(model)
        row["fuse"] = _error(model, fuse(model, ctx), images)
        pruned = prune(model, ctx, ratio=0.3, round_to=8)
        row["prune"] = f"{total_cost(pruned).macs / total_cost(model).macs:.2f} of MACs"
        thin, row["factorize"] = _factorize(pruned, ctx, images)
        row["quantize"], quantized = _quantize(thin, ctx, images)
        row["distill step"] = _distill(thin, ctx)
        row["checkpoint"] = _checkpoint((pruned, thin, quantized), images, Path(folder))
        row["ONNX in ORT"] = _onnx(model, quantized, images, Path(folder))
    gc.collect()
    return row


def network(family: str, architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """A network with random weights for small images."""
    classes = 0 if architecture == BACKBONE else CLASSES
    if family == "builder":
        spec = models.built_by(architecture, classes, **arguments)
    else:
        spec = models.spec(family, architecture, classes, **arguments)
    side = min(SIDE, spec.preprocessing.crop)
    return enliven(models.build(replace(spec, preprocessing=replace(spec.preprocessing, resize=side, crop=side))))


def name_of(family: str, architecture: str, arguments: dict[str, Any]) -> str:
    """What a row is called."""
    told = {key: value for key, value in arguments.items() if key not in ("hidden_sizes", "depths", "width")}
    words = ", ".join(f"{key} {'+'.join(v) if isinstance(v, tuple) else v}" for key, v in told.items())
    return f"{family} {architecture.rpartition(':')[2]}{f' ({words})' if words else ''}"


def _load(model: nn.Module, images: Tensor, path: Path) -> str:
    """A state dict as its makers would save it, read back; whether it is known without being named."""
    torch.save(model.state_dict(), path)
    spec = models.spec_of(model)
    found: ModelSpec | None
    try:
        found = models.infer(model.state_dict())
    except InputRefused:
        found = None
    known = found is not None and (found.family, found.architecture) == (spec.family, spec.architecture)
    same = known and found is not None and all(spec.arguments.get(k, v) == v for k, v in found.arguments.items())
    loaded = checkpoint.load(path, spec)
    how = "found by itself" if same and _told(spec) else "when named"
    return f"{_difference(model, loaded, images):.0e}, {how}".replace("0e+00", "exact")


def _told(spec: ModelSpec) -> bool:
    return not any(spec.arguments.get(key) for key in ("downsample_in_bottleneck", "out_features"))


def _inspect(model: nn.Module) -> str:
    seen = inspection.inspect(model)
    assert seen.total.params == sum(p.numel() for p in model.parameters())
    assert seen.blocks or models.spec_of(model).family == "builder"
    return f"{len(seen.layers)} layers, {len(seen.blocks)} blocks, {seen.total.macs / 1e6:,.0f} M MACs"


def _error(model: nn.Module, other: nn.Module, images: Tensor) -> str:
    folded = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    left = sum(isinstance(m, nn.BatchNorm2d) for m in other.modules())
    return f"{folded - left} of {folded} BNs, {_difference(model, other, images):.0e}".replace("0e+00", "exact")


def _factorize(pruned: nn.Module, ctx: Context, images: Tensor) -> tuple[nn.Module, str]:
    thin = factorize(pruned, ctx, energy=0.7, round_to=8)
    share = total_cost(thin).macs / total_cost(pruned).macs
    return thin, f"{share:.2f} of MACs, {_sqnr(pruned, thin, images):.0f} dB"


def _quantize(thin: nn.Module, ctx: Context, images: Tensor) -> tuple[str, nn.Module]:
    fused = fuse(thin, ctx)
    quantized = quantize(fused, ctx, calibration_images=IMAGES)
    return f"{_sqnr(fused, quantized, images):.0f} dB", quantized


def _distill(thin: nn.Module, ctx: Context) -> str:
    if models.spec_of(thin).output != "logits":
        return UNTAUGHT
    taught = distill(thin, ctx, schedule=Schedule(epochs=1, batch=IMAGES, lr=1e-3, augment="none"))
    before, after = (torch.cat([p.flatten() for p in m.parameters()]) for m in (thin, taught))
    assert bool(torch.isfinite(after).all())
    return f"weights moved by {(after - before).norm() / before.norm():.0e}"


def _checkpoint(stages: tuple[nn.Module, ...], images: Tensor, folder: Path) -> str:
    for model in stages:
        checkpoint.save(model, folder / "kept.safetensors")
        loaded = checkpoint.load(folder / "kept.safetensors")
        assert torch.equal(models.predict(loaded, [images]), models.predict(model, [images]))
    return f"exact, {(folder / 'kept.safetensors').stat().st_size / 1e6:.1f} MB"


def _onnx(model: nn.Module, quantized: nn.Module, images: Tensor, folder: Path) -> str:
    backend, said = backends.get("onnx"), []
    for kind, each in (("FP32", model), ("INT8", quantized)):
        artifact = pipeline.export(each, "onnx", folder / kind)
        with backend.load(artifact, threads=1) as session:
            theirs = torch.from_numpy(session.run(images.numpy()))
        ours = models.predict(each, [images])
        said.append(f"{kind} {float((ours - theirs).abs().max() / ours.abs().max()):.0e}")
    report = backend.audit(artifact)
    conv, add = report.int8_share("conv"), report.int8_share("add")
    return f"{', '.join(said)}; INT8 {conv.correct}/{conv.total} convs, {add.correct}/{add.total} adds"


def _difference(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    a, b = models.predict(one, [images]), models.predict(other, [images])
    return float((a - b).abs().max() / a.abs().max())


def _sqnr(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    a, b = models.predict(one, [images]), models.predict(other, [images])
    return float(20 * torch.log10(a.norm() / (a - b).norm()))


COLUMNS: dict[str, Callable[..., Any]] = {
    "load": _load,
    "inspect": _inspect,
    "fuse": _error,
    "prune": prune,
    "factorize": _factorize,
    "quantize": _quantize,
    "distill step": _distill,
    "checkpoint": _checkpoint,
    "ONNX in ORT": _onnx,
}
HEAD = f"""# Families

Each network went through everything with random weights, at {SIDE} px and {CLASSES} classes; `make families` wrote it,
not by hand. These are numbers of mechanics, not of accuracy: random weights have no low rank and no margin between
classes, so the dB of `factorize` and `quantize` are worst cases; the tests have real weights. The families' other
networks have more or wider blocks of the same kinds; the tests build each and find it again by its tensors.

- **load**: a state dict through `torch.save`, scan, worker and loader; largest relative difference of the outputs.
- **fuse**: BatchNorms folded, of how many; largest relative difference of the outputs.
- **prune**: at ratio 0.3, widths a multiple of 8, each cut proven against the silenced network.
- **factorize**: after prune, `spatial_svd` at energy 0.7; MACs against the pruned network's, SQNR of the outputs.
- **quantize**: after prune, factorize and fuse; SQNR of the outputs against the float network's.
- **distill step**: one step of the pruned and factorized student towards the whole network.
- **checkpoint**: pruned, factorized, quantized, each saved and loaded; outputs equal to the last bit; size of the last.
- **ONNX in ORT**: largest relative difference to eager, of the stock network and of the pruned, factorized, INT8 one;
  layers that ONNX Runtime really runs in INT8. The one that doesn't makes resnetv2's logits, which stay float.
"""


def compose(rows: dict[str, dict[str, str]]) -> str:
    """The page."""
    lines = [HEAD, f"| network | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(row[column] for column in COLUMNS)} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def file_of(name: str) -> str:
    """Where a row waits for the page."""
    return re.sub(r"[^\w+]+", "-", name).strip("-") + ".json"


def main() -> None:
    """Write the page from the rows in a folder: ``python -m tests.models.grid FOLDER``."""
    folder = Path(sys.argv[1])
    names = [name_of(*network) for network in NETWORKS]
    rows = {name: json.loads((folder / file_of(name)).read_text()) for name in names}
    ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(compose(rows))


if __name__ == "__main__":
    main()
