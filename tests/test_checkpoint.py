"""A file gives the same network back, to the bit, or one sentence of what is wrong with it."""

import copy
import json
import os
import re
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rescompress import checkpoint, fakequant, graph, models
from rescompress.context import Context
from rescompress.edits import edits
from rescompress.errors import InputRefused, RescompressError
from rescompress.pruning import cut_channels, prune
from rescompress.spec import Precision
from tests.networks import KINDS, fused, noise, placed, quantized, stock
from tests.pruning.test_prune import SMALL, groups_of, some_cuts

FORMS: dict[str, Callable[..., nn.Module]] = {
    "stock": stock,
    "pruned": lambda *names, **arguments: pruned(stock(*names, **arguments)),
    "fused": fused,
    "pruned and fused": lambda *names, **arguments: pruned(fused(*names, **arguments)),
    "quantized": quantized,
}
NETWORKS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "cifar resnet8 A": (("cifar", "resnet8"), {}),
    "cifar resnet8 B": (("cifar", "resnet8"), {"shortcut": "B"}),
    "torchvision resnet18": (("torchvision", "resnet18"), {"side": 64}),
}


def pruned(model: nn.Module) -> nn.Module:
    return prune(model, Context(), ratio=0.5, round_to=4)


DEAR = ("torchvision resnet18, pruned", "torchvision resnet18, quantized")
"""What the small networks show too, and this one pruned and fused."""


@pytest.fixture(
    params=[
        pytest.param(case, marks=pytest.mark.slow if case in DEAR else ())
        for case in (f"{network}, {form}" for network in NETWORKS for form in FORMS)
    ]
)
def model(request: pytest.FixtureRequest) -> nn.Module:
    network, _, form = request.param.partition(", ")
    names, arguments = NETWORKS[network]
    return FORMS[form](*names, **arguments)


def test_a_saved_network_comes_back_to_the_bit(model: nn.Module, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    checkpoint.save(model, first)
    loaded = checkpoint.load(first)
    images = noise(model)
    assert torch.equal(models.predict(loaded, [images]), models.predict(model, [images]))
    assert models.spec_of(loaded) == models.spec_of(model)
    assert graph.is_captured(loaded) or not any(module.training for module in loaded.modules())
    checkpoint.save(loaded, second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_written_as_integers_come_back_where_they_were_rounded_to(kind: Precision, tmp_path: Path) -> None:
    model, path = placed(kind), tmp_path / "integers.safetensors"
    model.meta["edits"] = edits(fused("cifar", "resnet8"))
    checkpoint.save(model, path, integers=True)
    loaded = checkpoint.load(path)
    assert torch.equal(models.predict(loaded, [noise(model)]), models.predict(model, [noise(model)]))
    tensors = tensors_of(path)
    weights = [site for site in fakequant.sites_of(model) if site.is_weight and site.value in tensors]
    stored = {str(tensors[site.value].dtype).removeprefix("torch.") for site in weights}
    assert stored == {site.dtype.replace("int4", "int8") for site in weights}


def test_a_float_network_has_no_integers_to_write(tmp_path: Path) -> None:
    for integers in (True, False):
        checkpoint.save(fused("cifar", "resnet8"), tmp_path / f"{integers}.safetensors", integers=integers)
    assert (tmp_path / "True.safetensors").read_bytes() == (tmp_path / "False.safetensors").read_bytes()


@settings(max_examples=8)
@given(name=st.sampled_from(sorted(SMALL)), most=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_any_cut_comes_back(tmp_path_factory: pytest.TempPathFactory, name: str, most: float, seed: int) -> None:
    cut = cut_channels(SMALL[name](), some_cuts(groups_of(name), most, seed))
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    checkpoint.save(cut, path)
    assert torch.equal(models.predict(checkpoint.load(path), [noise(cut)]), models.predict(cut, [noise(cut)]))


def test_a_network_in_training_is_saved_alike(tmp_path: Path) -> None:
    one, other = stock("cifar", "resnet8"), copy.deepcopy(stock("cifar", "resnet8")).train()
    checkpoint.save(one, tmp_path / "one.safetensors")
    checkpoint.save(other, tmp_path / "other.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "saved.safetensors"
    checkpoint.save(pruned(fused("cifar", "resnet8")), path)
    return path.read_bytes()


@pytest.fixture
def saved(saved_once: bytes, tmp_path: Path) -> Path:
    """A pruned and fused network: every kind of edit but quantization."""
    path = tmp_path / "saved.safetensors"
    path.write_bytes(saved_once)
    return path


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def tensors_of(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_the_metadata_is_one_json_text(saved: Path) -> None:
    metadata = metadata_of(saved)
    assert list(metadata) == [checkpoint.KEY]
    described = json.loads(metadata[checkpoint.KEY])
    assert described["format"] == checkpoint.FORMAT
    assert described["spec"]["architecture"] == "resnet8"
    assert {edit["kind"] for edit in described["edits"]} == {"conv", "linear", "folded", "pad_shortcut"}


def refusal(path: Path, **arguments: Any) -> InputRefused:
    """The refusal to load a file, which must be fit for a person's eyes."""
    with pytest.raises(InputRefused) as caught:
        checkpoint.load(path, **arguments)
    error = caught.value
    assert error.exit_code == 4
    for sentence in (error.fact, error.remedy):
        assert re.fullmatch(r"[A-Z/].*[.?]", sentence), sentence
        assert not re.search(r"\w(Error|Exception)\b|Traceback|\n", sentence), sentence
    return error


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 200, 0.5, -1])
def test_a_truncated_file_is_refused(saved: Path, kept: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else int(kept)])
    assert "truncated or corrupt" in refusal(saved).fact


@pytest.mark.parametrize(
    "header",
    [b"{", b"[]", b'{"x": 1}', b"\xff" * 20, b'{"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}'],
)
def test_a_corrupt_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refusal(path)


def test_a_header_of_absurd_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + bytes(100))
    refusal(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "th", "bin"])
@pytest.mark.parametrize("content", [b"", b"\x00", bytes(range(256)) * 2, b"PK\x03\x04" + bytes(100), b"\x80\x02"])
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    refusal(path)


def test_an_onnx_graph_is_not_compressed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"onnx")
    assert "inspected but not compressed" in refusal(path).fact


def test_a_wrong_guess_is_answered_with_the_right_one(tmp_path: Path) -> None:
    save_file(stock("cifar", "resnet8").state_dict(), tmp_path / "plain.safetensors")
    error = refusal(tmp_path / "plain.safetensors", spec=models.spec("cifar", "resnet14", 10))
    assert "doesn't fit cifar resnet14" in error.fact
    assert "It fits cifar resnet8, 10 classes" in error.remedy


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pth", "no/such/folder.pth"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    assert "There is no file" in refusal(tmp_path / name).fact


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(saved: Path, bad: float) -> None:
    tensors = tensors_of(saved)
    tensors["layer1.0.conv2.weight"][0, 0, 0, 0] = bad
    save_file(tensors, saved, metadata_of(saved))
    assert "layer1.0.conv2.weight" in refusal(saved).fact


def test_no_tensors_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    assert "holds no tensors" in refusal(tmp_path / "empty.safetensors").fact


@pytest.mark.parametrize("change", ["missing", "extra", "transposed"])
def test_tensors_that_do_not_fit_are_named(saved: Path, change: str) -> None:
    tensors = tensors_of(saved)
    weight = tensors.pop("linear.weight")
    if change == "extra":
        tensors |= {"linear.weight": weight, "linear.more": weight.clone()}
    if change == "transposed":
        tensors["linear.weight"] = weight.T.contiguous()
    save_file(tensors, saved, metadata_of(saved))
    assert ("linear.more" if change == "extra" else "linear.weight") in refusal(saved).fact


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    save_file(stock("cifar", "resnet8").state_dict(), tmp_path / "ten.safetensors")
    error = refusal(tmp_path / "ten.safetensors", spec=models.spec("cifar", "resnet8", 100))
    assert "linear.bias is (10,), but the network has (100,)" in error.fact


def test_another_architecture_is_refused(saved: Path) -> None:
    error = refusal(saved, spec=models.spec("cifar", "resnet20", 10))
    assert "cifar resnet8, 10 classes, not cifar resnet20, 10 classes" in error.fact


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3, 4), "odd": torch.ones(2)}, tmp_path / "odd.safetensors")
    assert "fit no network" in refusal(tmp_path / "odd.safetensors").fact


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a future format": lambda d: d.update(format="rescompress.checkpoint/9"),
    "no edits": lambda d: d.pop("edits"),
    "no spec": lambda d: d.pop("spec"),
    "an unknown kind": lambda d: d["edits"][0].update(kind="lora"),
    "an unknown module": lambda d: d["edits"][0].update(module="layer9.0.conv1"),
    "a module of another kind": lambda d: d["edits"][0].update(module="linear"),
    "an unknown family": lambda d: d["spec"].update(family="vgg"),
    "a path for a family": lambda d: d["spec"].update(family="../cifar"),
    "an unknown architecture": lambda d: d["spec"].update(architecture="resnet26"),
    "another library's architecture": lambda d: d["spec"].update(family="torchvision", architecture="squeezenet1_0"),
    "no number in the architecture": lambda d: d["spec"].update(architecture="resnet"),
    "an unknown argument": lambda d: d["spec"].update(arguments={"evil": 1}),
    "an argument's wrong value": lambda d: d["spec"].update(arguments={"shortcut": "Z"}),
    "no classes": lambda d: d["spec"].update(classes=0),
    "more classes than memory": lambda d: d["spec"].update(classes=10**13),
    "a missing field": lambda d: d["edits"][0]["fields"].pop("out_channels"),
    "a field of another type": lambda d: d["edits"][0]["fields"].update(out_channels="many"),
    "a width below zero": lambda d: d["edits"][0]["fields"].update(out_channels=-1),
    "a width beyond the stock network's": lambda d: d["edits"][0]["fields"].update(out_channels=10**6),
    "a shortcut from nowhere": lambda d: shortcut_of(d).update(sources=[10**6]),
    "a shortcut from everywhere": lambda d: shortcut_of(d).update(in_channels=10**13),
    "a site of no value": lambda d: d["sites"].append(site("layer9.conv1")),
    "a site with more channels than memory": lambda d: d["sites"].append(site("conv1.weight", channels=10**13)),
    "a crop beyond memory": lambda d: (d["sites"].append(site("conv1")), d["spec"]["preprocessing"].update(crop=10**7)),
}


def shortcut_of(described: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = next(edit for edit in described["edits"] if edit["kind"] == "pad_shortcut")["fields"]
    return fields


def site(value: str, channels: int | None = None) -> dict[str, Any]:
    return {"value": value, "quantizer": value, "dtype": "int8", "channels": channels}


@pytest.mark.parametrize("lie", LIES)
def test_a_description_that_lies_is_refused(saved: Path, lie: str) -> None:
    described = json.loads(metadata_of(saved)[checkpoint.KEY])
    LIES[lie](described)
    save_file(tensors_of(saved), saved, {checkpoint.KEY: json.dumps(described)})
    refusal(saved)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"format": 1}'])
def test_a_description_that_is_none_is_refused(saved: Path, text: str) -> None:
    save_file(tensors_of(saved), saved, {checkpoint.KEY: text})
    refusal(saved)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(("suffix", "zipped"), [("pth", True), ("pt", False), ("th", True), ("bin", False)])
def test_a_pickle_with_code_is_refused_and_never_runs(tmp_path: Path, suffix: str, zipped: bool) -> None:
    marker, path = tmp_path / "executed", tmp_path / f"trap.{suffix}"
    state: dict[str, Any] = dict(stock("cifar", "resnet8").state_dict())
    torch.save({"state_dict": {**state, "trap": Trap(marker)}}, path, _use_new_zipfile_serialization=zipped)
    assert "plain state dict" in refusal(path).fact
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the trap is broken, so its refusal proves nothing"


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(stock("cifar", "resnet8"), tmp_path / "module.pth")
    refusal(tmp_path / "module.pth")


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "odd.pth")
    assert "holds no tensors" in refusal(tmp_path / "odd.pth").fact


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_public_state_dicts_are_read(tmp_path: Path, suffix: str) -> None:
    model, path = stock("cifar", "resnet8"), tmp_path / f"public.{suffix}"
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    if suffix == "pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    loaded = checkpoint.load(path)
    assert torch.equal(models.predict(loaded, [noise(model)]), models.predict(model, [noise(model)]))


def test_names_of_other_authors_are_read(tmp_path: Path) -> None:
    """Some call the classifier fc, and old files don't count BatchNorm's steps."""
    model = stock("cifar", "resnet8", shortcut="B")
    state = {name.replace("linear.", "fc."): tensor for name, tensor in model.state_dict().items()}
    save_file({name: tensor for name, tensor in state.items() if "num_batches" not in name}, tmp_path / "o.safetensors")
    loaded = checkpoint.load(tmp_path / "o.safetensors")
    assert torch.equal(models.predict(loaded, [noise(model)]), models.predict(model, [noise(model)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_single_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    model = copy.deepcopy(stock("cifar", "resnet8")).to(dtype)
    save_file(model.state_dict(), tmp_path / "half.safetensors")
    loaded = checkpoint.load(tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.conv1.weight, model.conv1.weight.float())


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system lets this process write files of 64 KiB at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RescompressError):
        checkpoint.save(stock("cifar", "resnet8"), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputRefused, match="can't be written"):
        checkpoint.save(stock("cifar", "resnet8"), tmp_path / "file" / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_network_from_elsewhere_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="doesn't say which stock network it is"):
        checkpoint.save(nn.Linear(3, 3), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_shipped_model_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {path.stem for path in checkpoint.SHIPPED.glob("*.safetensors")}
    monkeypatch.chdir(tmp_path)
    assert names
    for name in names:
        assert models.spec_of(checkpoint.load(name)).classes == 10
    assert all(name in refusal(Path("digit")).remedy for name in names)


@pytest.mark.parametrize(
    ("file", "architecture"),
    [
        ("cifar10_resnet20-12fca82f.th", "resnet20"),
        ("cifar10_resnet32-d509ac18.th", "resnet32"),
        ("cifar10_resnet56-4bfd9763.th", "resnet56"),
    ],
)
def test_real_weights_find_their_network(shared_data: Path, file: str, architecture: str) -> None:
    spec = models.spec_of(checkpoint.load(shared_data / "weights" / file))
    assert str(spec) == f"cifar {architecture}, 10 classes"
    assert spec.arguments == {"shortcut": "A"}
