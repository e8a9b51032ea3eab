"""A compressed model on disk: one safetensors file whose metadata rebuilds the stock class and cuts it to shape."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, fx, nn

from rescompress import artifact, fakequant, graph, models, statedict
from rescompress.edits import Edit, apply, edits
from rescompress.errors import InputRefused, RecipeError
from rescompress.fakequant import FakeQuantize
from rescompress.sites import Site
from rescompress.spec import AS_IN_FILE, ModelSpec

FORMAT = "rescompress.checkpoint/1"
KEY = "rescompress"
WIDEST = 1_000_000
"""Bound on classes, crop and channels, so that a lying description can't ask for all memory."""
SHIPPED = Path(__file__).parent / "weights"


def _whole(site: object) -> object:
    """A site as it was written, with its quantizer's name where that is the value's."""
    return {"quantizer": site["value"], **site} if isinstance(site, dict) and "value" in site else site


@dataclass(frozen=True)
class Description:
    """A checkpoint's metadata: the stock network, the edits that cut it to shape, the INT8 sites."""

    format: str
    spec: ModelSpec
    edits: tuple[Edit, ...]
    sites: tuple[Annotated[Site, BeforeValidator(_whole)], ...]


def save(model: nn.Module, path: Path | str, *, integers: bool = False) -> None:
    """Write a model atomically as one ``.safetensors`` file; equal models give equal bytes.

    Args:
        model: float or quantized.
        path: where to.
        integers: write quantized weights as the integers that they are rounded to: a quarter of the bytes, and the same
            answers; but training can't go on from the floats that they were.

    Raises:
        InputRefused: the place can't be written, or the model doesn't carry its spec.
        ResourceExhausted: the disk is full.
    """
    described = Description(FORMAT, models.spec_of(model), edits(model), fakequant.sites_of(model))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if integers:
        implied = _implied(fakequant.sites_of(model), state)
        state = {name: tensor for name, tensor in (state | _integers_of(model)).items() if name not in implied}
    metadata = {KEY: json.dumps(_told(described), sort_keys=True, separators=(",", ":"))}
    with artifact.writing(Path(path)) as temporary:
        temporary.write_bytes(serialize(state, metadata))


def load(path: Path | str, spec: ModelSpec | None = None) -> nn.Module:
    """Rebuild a model from a file, in eval mode.

    Args:
        path: our own checkpoint; a state dict (``.safetensors``, ``.pth``, ``.pt``, ``.th``, ``.bin``, ``.ckpt``) or
            Keras weights (``.h5``); a directory with ``config.json`` and ``model.safetensors``; a place on the network,
            as ``hf://microsoft/resnet-50`` or ``torchvision://resnet50/IMAGENET1K_V2``; or the name of a model that the
            package ships.
        spec: the stock network that a state dict belongs to; None finds it by names and shapes.

    Raises:
        InputRefused: the file is missing, truncated, unsafe, holds NaN, or fits another network.
    """
    file, found = _find(str(path))
    state, metadata = read(file)
    if metadata is None:
        return _load_stock(file, state, spec or found)
    described = _describe(file, metadata)
    if spec is not None and not _agree(spec, described.spec):
        raise InputRefused(f"{file} holds {described.spec}, not {spec}.", "Leave the architecture out, or correct it.")
    try:
        model = rebuild(described)
    except (RecipeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise InputRefused(
            f"{file} describes a network that can't be built: {first[:200]}.", "Compress the model again."
        ) from None
    return _fill(file, model, state)


def convert(source: Path | str, target: Path | str, spec: ModelSpec | None = None) -> ModelSpec | None:
    """Write any checkpoint that can be read as one ``.safetensors``, with its network's description if that is known.

    Tensors keep the names that the network's makers gave them.

    Args:
        source: as for ``load``.
        target: the file to write.
        spec: the stock network that a state dict belongs to; None finds it by names and shapes.

    Returns:
        The network, or None where no family knows it: then the file holds the tensors alone.

    Raises:
        InputRefused: the source is missing, broken or unsafe, or the target is no ``.safetensors``.
    """
    if Path(target).suffix != ".safetensors":
        raise InputRefused(f"{target} is no .safetensors.", "Name the file to write OUT.safetensors.")
    file, found = _find(str(source))
    state, metadata = read(file)
    spec = spec or found or (None if metadata else _guess(state))
    if metadata is None and spec is None:
        with artifact.writing(Path(target)) as temporary:
            temporary.write_bytes(serialize({name: tensor.contiguous() for name, tensor in state.items()}))
        return None
    model = load(file, spec) if metadata else _load_stock(file, state, spec)
    save(model, target)
    return models.spec_of(model)


def read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Tensors of a file by name, all of them finite, and our metadata if the file is our own.

    Raises:
        InputRefused: the file is missing, truncated or unsafe, holds no tensors, or holds NaN.
    """
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    elif path.suffix == ".onnx":
        raise InputRefused(
            f"{path} is an ONNX graph, which is inspected but not compressed.",
            "Give the checkpoint that it was exported from; or see what is in it with 'rescompress inspect'.",
        )
    else:
        state, metadata = statedict.read(path), None
    if not state:
        raise InputRefused(f"{path} holds no tensors.", "Give a checkpoint with a state dict.")
    bad = [name for name, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise InputRefused(f"{path} holds NaN or infinite values in {bad[0]}.", "Go back to a checkpoint from before.")
    return state, metadata


def rebuild(described: Description) -> nn.Module:
    """The stock network cut to shape, with weights yet to be loaded."""
    spec = described.spec
    models.spec(spec.family, spec.architecture, spec.classes, **spec.arguments)
    classes = 1 if spec.output == "maps" else spec.classes
    widths = [classes, spec.preprocessing.crop, *(site.channels or 1 for site in described.sites)]
    if not all(0 < width <= WIDEST for width in widths):
        raise ValueError("a width that no network has")
    model = models.build(spec)
    for edit in described.edits:
        apply(model, edit)
    if not described.sites:
        return model.eval()
    traced = graph.capture(model, spec.input_shape)
    fakequant.insert(traced, described.sites)
    traced.meta["edits"] = described.edits
    return models.describe(traced, spec)


def _told(described: Description) -> dict[str, Any]:
    """A description as JSON has it; of sites, what isn't as sites are by themselves."""
    sites = TypeAdapter(tuple[Site, ...]).dump_python(described.sites, mode="json", exclude_defaults=True)
    short = [{k: v for k, v in site.items() if (k, v) != ("quantizer", site["value"])} for site in sites]
    return asdict(described) | {"sites": short}


def _implied(sites: Iterable[Site], state: Mapping[str, Tensor]) -> set[str]:
    """The zero-points that quantizers have by themselves, which needn't be written."""
    made = {f"{fakequant.path_of(site.quantizer)}.zero_point": site for site in sites}
    return {name for name, site in made.items() if torch.equal(state[name], FakeQuantize(site).zero_point)}


def _integers_of(model: nn.Module) -> dict[str, Tensor]:
    """What the quantized weights are rounded to, by the names that a state dict has for their floats."""
    state, found = model.state_dict(), _rounded(model).items()
    return {name: fakequant.in_integers(quantizer, state[name]).integers for name, quantizer in found}


def _floats_of(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that fits, with quantized weights as floats where integers stand for them; by its own scales."""
    floats = dict(state)
    for name, quantizer in _rounded(model).items():
        if not state[name].is_floating_point():
            path, column = fakequant.path_of(quantizer.site.quantizer), (-1, *[1] * (state[name].dim() - 1))
            steps = state[name].float() - state[f"{path}.zero_point"].view(column)
            floats[name] = steps * state[f"{path}.scale"].view(column)
    return floats


def _rounded(model: nn.Module) -> dict[str, FakeQuantize]:
    """The quantizers of weights that nothing else reads, by the weights' names."""
    if not isinstance(model, fx.GraphModule):
        return {}
    readers = dict[str, list[FakeQuantize | None]]()
    for node in model.graph.nodes:
        if node.op == "get_attr":
            behind = [fakequant.quantizer_behind(model, user) for user in node.users]
            readers.setdefault(str(node.target), []).extend(behind)
    alone = {name: readers[name][0] for name in model.state_dict() if len(readers.get(name, ())) == 1}
    return {name: quantizer for name, quantizer in alone.items() if quantizer is not None}


def _find(place: str) -> tuple[Path, ModelSpec | None]:
    """The file that is meant, and what its surroundings say of the network in it."""
    path, shipped = Path(place), SHIPPED / f"{place}.safetensors"
    if "://" in place or path.is_dir():
        return models.fetch(place)
    if not path.exists() and path.name == place and shipped.exists():
        return shipped, None
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors")))
        raise InputRefused(f"There is no file {path}.", f"Check the path; shipped models: {names}.")
    return path, None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = (file.metadata() or {}).get(KEY)
    except SafetensorError as error:
        raise InputRefused(
            f"{path} is truncated or corrupt: {error}.", "Copy or download it again, and compare its checksum."
        ) from None
    return (state if metadata else statedict.strip(state)), metadata


def _agree(said: ModelSpec, found: ModelSpec) -> bool:
    same = (said.family, said.architecture) == (found.family, found.architecture)
    return same and said.classes in (AS_IN_FILE, found.classes)


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
    given, spec = spec, spec or models.infer(state)
    adopted = models.family(spec.family).adopt(state)
    if spec.classes == AS_IN_FILE:
        spec = replace(spec, classes=models.classes_in(adopted, spec.family, spec.architecture))
    try:
        return _fill(path, models.build_empty(spec), adopted)
    except InputRefused as error:
        right = _guess(state) if given else None
        if right is None:
            raise
        remedy = f"It fits {right}: leave family and architecture out, or correct them."
        raise InputRefused(error.fact, remedy) from None


def _guess(state: Mapping[str, Tensor]) -> ModelSpec | None:
    with contextlib.suppress(InputRefused):
        return models.infer(state)
    return None


def _has_default(name: str) -> bool:
    """Whether a file may leave a tensor out: BatchNorm's counters, and zero-points of fake-quants."""
    return name.endswith(models.COUNTER) or (name.startswith(fakequant.PREFIX) and name.endswith(".zero_point"))


def _fill(path: Path, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a state dict that must fit to the last tensor."""
    spec = models.spec_of(model)
    own = model.state_dict()
    state = {name: t for name, t in own.items() if _has_default(name)} | dict(state)
    state = {name: t for name, t in state.items() if name in own or not name.endswith(models.COUNTER)}
    wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != given:
        wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise InputRefused(
            f"{path} doesn't fit {spec}: {wrong[0]} is {given.get(wrong[0], 'missing')}, "
            f"but the network has {wanted.get(wrong[0], 'no such tensor')}.",
            "Correct the family, the architecture or the number of classes.",
        )
    floats = _floats_of(model, state)
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in floats.items()})
    return model
