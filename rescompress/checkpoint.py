"""A compressed model on disk: one safetensors file whose metadata rebuilds the stock class and cuts it to shape.

Nothing is ever unpickled: a ``.pth`` state dict goes through ``weights_only=True``, which builds tensors and containers
only.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, fx, nn

from rescompress import artifact, fakequant, graph, models
from rescompress.errors import InputRefused, RecipeError
from rescompress.layers import PadShortcut, keep_channels
from rescompress.spec import ModelSpec

FORMAT = "rescompress.checkpoint/1"
KEY = "rescompress"
WIDEST = 1_000_000
"""Bound on classes, crop and channels, so that a lying description can't ask for all memory."""
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Edit:
    """How one module differs from its stock form: its kind and the fields that changed."""

    module: str
    kind: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Description:
    """A checkpoint's metadata: the stock network, the edits that cut it to shape, the INT8 sites."""

    format: str
    spec: ModelSpec
    edits: tuple[Edit, ...]
    sites: tuple[fakequant.Site, ...]


def save(model: nn.Module, path: Path | str) -> None:
    """Write a model atomically as one ``.safetensors`` file; equal models give equal bytes.

    Raises:
        InputRefused: the place can't be written, or the model doesn't carry its spec.
        ResourceExhausted: the disk is full.
    """
    described = Description(FORMAT, models.spec_of(model), edits(model), fakequant.sites_of(model))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {KEY: json.dumps(asdict(described), sort_keys=True)}
    with artifact.writing(Path(path)) as temporary:
        temporary.write_bytes(serialize(state, metadata))


def load(path: Path | str, spec: ModelSpec | None = None) -> nn.Module:
    """Rebuild a model from a file, in eval mode.

    Args:
        path: our own checkpoint, or a state dict (``.safetensors``, ``.pth``, ``.pt``, ``.th``, ``.bin``), or the name
            of a model that the package ships.
        spec: the stock network that a state dict belongs to; None finds it by names and shapes.

    Raises:
        InputRefused: the file is missing, truncated, unsafe, holds NaN, or fits another network.
    """
    path = _find(Path(path))
    state, metadata = _read(path)
    if not state:
        raise InputRefused(f"{path} holds no tensors.", "Give a checkpoint with a state dict.")
    bad = [name for name, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise InputRefused(f"{path} holds NaN or infinite values in {bad[0]}.", "Go back to a checkpoint from before.")
    if metadata is None:
        return _load_stock(path, state, spec)
    described = _describe(path, metadata)
    if spec is not None and (spec.family, spec.architecture, spec.classes) != (
        described.spec.family,
        described.spec.architecture,
        described.spec.classes,
    ):
        raise InputRefused(f"{path} holds {described.spec}, not {spec}.", "Leave the architecture out, or correct it.")
    try:
        model = rebuild(described)
    except (RecipeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise InputRefused(
            f"{path} describes a network that can't be built: {first[:200]}.", "Compress the model again."
        ) from None
    return _fill(path, model, state)


def rebuild(described: Description) -> nn.Module:
    """The stock network cut to shape, with weights yet to be loaded."""
    spec = described.spec
    models.spec(spec.family, spec.architecture, spec.classes, **spec.arguments)
    widths = [spec.classes, spec.preprocessing.crop, *(site.channels or 1 for site in described.sites)]
    if not all(0 < width <= WIDEST for width in widths):
        raise ValueError("a width that no network has")
    model = models.build(spec)
    for edit in described.edits:
        _apply(model, edit)
    if not described.sites:
        return model.eval()
    traced = graph.capture(model, spec.input_shape)
    fakequant.insert(traced, described.sites)
    traced.meta["edits"] = described.edits
    return models.describe(traced, spec)


def edits(model: nn.Module) -> tuple[Edit, ...]:
    """What makes a model differ from its stock network, found by comparing the two."""
    if isinstance(model, fx.GraphModule):
        return tuple(model.meta.get("edits", ()))
    stock = dict(models.build(models.spec_of(model)).named_modules())
    found = []
    for name, module in model.named_modules():
        now, before = _form(module), _form(stock[name]) if name in stock else None
        if now != before and now is not None:
            found.append(Edit(name, *now))
    return tuple(found)


def _form(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    if isinstance(module, nn.Conv2d):
        fields = {"out_channels": module.out_channels, "in_channels": module.in_channels, "groups": module.groups}
        return "conv", {**fields, "bias": module.bias is not None}
    if isinstance(module, nn.Linear):
        return "linear", {"out_features": module.out_features, "in_features": module.in_features}
    if isinstance(module, nn.BatchNorm2d):
        return "batch_norm", {"num_features": module.num_features}
    if isinstance(module, PadShortcut):
        return "pad_shortcut", {"in_channels": module.in_channels, "sources": list(module.sources)}
    return ("identity", {}) if isinstance(module, nn.Identity) else None


def _apply(model: nn.Module, edit: Edit) -> None:
    """Give one module of the stock network its edited form, in place."""
    parent, _, name = edit.module.rpartition(".")
    module, fields = dict(model.named_modules()).get(edit.module), edit.fields
    if edit.kind == "identity" and module is not None:
        setattr(model.get_submodule(parent), name, nn.Identity())
    elif edit.kind == "pad_shortcut" and isinstance(module, PadShortcut):
        module.connect(fields["in_channels"], fields["sources"])
    elif edit.kind == "conv" and isinstance(module, nn.Conv2d):
        keep_channels(module, range(fields["in_channels"]), range(fields["out_channels"]))
        if fields["bias"] and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    elif edit.kind == "linear" and isinstance(module, nn.Linear):
        keep_channels(module, range(fields["in_features"]), range(fields["out_features"]))
    elif edit.kind == "batch_norm" and isinstance(module, nn.BatchNorm2d):
        keep_channels(module, None, range(fields["num_features"]))
    else:
        raise InputRefused(
            f"The checkpoint edits {edit.module} as a {edit.kind}, which the stock network doesn't have.",
            "The file was changed or comes from a newer rescompress: update, or compress again.",
        )


def _find(path: Path) -> Path:
    shipped = SHIPPED / f"{path}.safetensors"
    if not path.exists() and path.name == str(path) and shipped.exists():
        return shipped
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors")))
        raise InputRefused(f"There is no file {path}.", f"Check the path; shipped models: {names}.")
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Tensors by name, and our metadata if the file is our own."""
    remedy = "Copy or download it again, and compare its checksum."
    if path.suffix in (".pth", ".pt", ".th", ".bin"):
        return _read_state_dict(path, remedy), None
    if path.suffix != ".safetensors":
        raise InputRefused(
            f"{path} is no checkpoint that rescompress reads.", "Give a .safetensors, .pth, .pt, .th or .bin file."
        )
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(KEY)  # noqa: SIM118
    except SafetensorError as error:
        raise InputRefused(f"{path} is truncated or corrupt: {error}.", remedy) from None


def _read_state_dict(path: Path, remedy: str) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load answers corrupt files with nine kinds of exception
        first = str(error).partition("\n")[0].rstrip(".")
        raise InputRefused(f"{path} can't be read as a plain state dict: {first[:200]}.", remedy) from None
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = content if isinstance(content, dict) else {}
    return {str(name): tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}


def _describe(path: Path, metadata: str) -> Description:
    try:
        described = TypeAdapter(Description).validate_json(metadata)
    except ValidationError as error:
        raise InputRefused(
            f"{path} describes its network wrongly: {error.errors()[0]['msg']}.", "Compress the model again."
        ) from None
    if described.format != FORMAT:
        raise InputRefused(f"{path} has the format {described.format}, not {FORMAT}.", "Update rescompress.")
    return described


def _load_stock(path: Path, state: Mapping[str, Tensor], spec: ModelSpec | None) -> nn.Module:
    spec = spec or models.infer(state)
    rename = models.family(spec.family).rename
    return _fill(path, models.build(spec).eval(), {rename(name): tensor for name, tensor in state.items()})


def _fill(path: Path, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a state dict that must fit to the last tensor."""
    spec = models.spec_of(model)
    state = {name: t for name, t in model.state_dict().items() if name.endswith(models.COUNTER)} | dict(state)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != given:
        wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise InputRefused(
            f"{path} doesn't fit {spec}: {wrong[0]} is {given.get(wrong[0], 'missing')}, "
            f"but the network has {wanted.get(wrong[0], 'no such tensor')}.",
            "Correct the family, the architecture or the number of classes.",
        )
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
    return model
