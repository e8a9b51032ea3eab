"""Whatever can be read becomes one safetensors file, with its network's description where that is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rescompress import checkpoint, models
from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.pruning import prune
from tests.cli.conftest import say as say  # the command line's own fixture
from tests.networks import noise, stock

ODD = {"encoder.weight": torch.arange(6.0).reshape(2, 3), "encoder.steps": torch.tensor(3)}


def description(path: Path) -> dict[str, Any] | None:
    with safe_open(path, "pt") as file:
        said = file.metadata() or {}
    return json.loads(said[checkpoint.KEY]) if said else None


def test_a_pickled_checkpoint_becomes_a_described_one(tmp_path: Path) -> None:
    model = stock("cifar", "resnet8")
    torch.save({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}}, tmp_path / "old.pth")
    spec = checkpoint.convert(tmp_path / "old.pth", tmp_path / "new.safetensors")
    assert str(spec) == "cifar resnet8, 10 classes"
    described = description(tmp_path / "new.safetensors")
    assert described is not None
    assert (described["format"], described["spec"]["architecture"]) == (checkpoint.FORMAT, "resnet8")
    assert described["edits"] == []
    tensors = load_file(tmp_path / "new.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())
    loaded = checkpoint.load(tmp_path / "new.safetensors")
    assert torch.equal(models.predict(loaded, [noise(model)]), models.predict(model, [noise(model)]))


def test_tensors_of_an_unknown_network_are_kept_as_they_are(tmp_path: Path) -> None:
    save_file(ODD, tmp_path / "odd.safetensors")
    assert checkpoint.convert(tmp_path / "odd.safetensors", tmp_path / "new.safetensors") is None
    assert description(tmp_path / "new.safetensors") is None
    tensors = load_file(tmp_path / "new.safetensors")
    assert tensors.keys() == ODD.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in ODD.items())


def test_a_checkpoint_of_our_own_comes_out_the_same(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    checkpoint.save(prune(stock("cifar", "resnet8"), Context(), ratio=0.5, round_to=4), one)
    checkpoint.convert(one, other)
    assert one.read_bytes() == other.read_bytes()


def test_a_named_network_must_fit(tmp_path: Path) -> None:
    save_file(stock("cifar", "resnet8").state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(InputRefused, match="It fits cifar resnet8"):
        checkpoint.convert(
            tmp_path / "plain.safetensors", tmp_path / "new.safetensors", models.spec("cifar", "resnet14", 10)
        )
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize("target", ["new.pth", "new", "safetensors", "new.safetensors.bin"])
def test_another_target_than_safetensors_is_refused(target: str, tmp_path: Path) -> None:
    save_file(ODD, tmp_path / "odd.safetensors")
    with pytest.raises(InputRefused, match=r"is no \.safetensors") as caught:
        checkpoint.convert(tmp_path / "odd.safetensors", tmp_path / target)
    assert caught.value.remedy == "Name the file to write OUT.safetensors."
    assert [path.name for path in tmp_path.iterdir()] == ["odd.safetensors"]


def test_a_source_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(InputRefused):
        checkpoint.convert(tmp_path / "bad.safetensors", tmp_path / "new.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


def test_converting_in_place_keeps_the_tensors(tmp_path: Path) -> None:
    save_file(ODD, tmp_path / "odd.safetensors")
    checkpoint.convert(tmp_path / "odd.safetensors", tmp_path / "odd.safetensors")
    assert torch.equal(load_file(tmp_path / "odd.safetensors")["encoder.weight"], ODD["encoder.weight"])


@pytest.mark.parametrize(
    ("known", "said"), [(True, "cifar resnet8, 10 classes"), (False, "tensors of a network that no family knows")]
)
def test_the_command_says_which_network_it_was(known: bool, said: str, tmp_path: Path, say: Callable[..., Any]) -> None:
    source, target = tmp_path / "source.safetensors", tmp_path / "target.safetensors"
    save_file(stock("cifar", "resnet8").state_dict() if known else ODD, source)
    told = say("convert", source, target)
    assert (told.code, told.err) == (0, "")
    assert told.out == f"{target}: {said}\n"
    assert target.is_file()


def test_the_command_refuses_another_target(tmp_path: Path, say: Callable[..., Any]) -> None:
    save_file(ODD, tmp_path / "odd.safetensors")
    told = say("convert", tmp_path / "odd.safetensors", tmp_path / "odd.pth")
    assert told.code == 4
    assert "is no .safetensors" in told.err
