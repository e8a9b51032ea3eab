"""Weights that torchvision publishes by name, from files that stand in for its server."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rescompress import checkpoint, models
from rescompress.errors import InputRefused
from rescompress.models import torchvision
from rescompress.models._torchvision_import import import_torchvision
from tests.networks import stock

NAME = "resnet18/IMAGENET1K_V1"
STATE = {"fc.weight": torch.ones(2, 3)}


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a file on the server, under its own hash or another, and give the place where PyTorch will cache it."""
    weights = import_torchvision().models.get_model_weights("resnet18").IMAGENET1K_V1
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    (tmp_path / "server").mkdir()

    def call(content: Any = STATE, stated: str | None = None) -> Path:
        made = tmp_path / "server" / "made"
        torch.save(content, made)
        name = f"resnet18-{stated or hashlib.sha256(made.read_bytes()).hexdigest()[:8]}.pth"
        url = made.rename(made.with_name(name)).as_uri()
        monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=url))
        return tmp_path / "hub" / "checkpoints" / name

    return call


def refusal(name: str) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        models.fetch(f"torchvision://{name}")
    assert "\n" not in caught.value.fact
    return caught.value


@pytest.mark.slow
def test_published_weights_are_loaded_by_their_name(publish: Callable[..., Path]) -> None:
    whole = stock("torchvision", "resnet18", 1000, side=64)
    cached = publish(whole.state_dict())
    model = checkpoint.load(f"torchvision://{NAME}")
    images = torch.randn(2, 3, 64, 64)
    assert cached.is_file()
    assert torch.equal(models.predict(model, [images]), models.predict(whole, [images]))
    assert str(models.spec_of(model)) == "torchvision resnet18, 1000 classes"


def test_the_preprocessing_is_the_weights_own() -> None:
    for name, resize in (("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232)):
        weights = import_torchvision().models.get_model_weights("resnet50")[name]
        said = weights.transforms()
        assert (said.resize_size[0], said.crop_size[0]) == (resize, 224)


def test_a_download_runs_nothing_and_says_nothing_on_standard_output(
    publish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output may be one JSON document."""
    asked: list[dict[str, Any]] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: (asked.append(kwargs), load(*args, **kwargs))[1])
    cached = publish()
    file, spec = models.fetch(f"torchvision://{NAME}")
    assert file == cached
    assert (spec.preprocessing.resize, spec.preprocessing.crop) == (256, 224)
    assert [each["weights_only"] for each in asked] == [True]
    assert capsys.readouterr().out == ""
    models.fetch(f"torchvision://{NAME}")
    assert len(asked) == 1


def test_a_file_of_another_hash_is_refused_on_the_way_in(publish: Callable[..., Path]) -> None:
    cached = publish(stated="00000000")
    error = refusal(NAME)
    assert "can't be had: invalid hash value" in error.fact
    assert str(cached) in error.remedy
    assert not cached.exists()


def test_a_file_that_changed_since_is_refused(publish: Callable[..., Path]) -> None:
    cached = publish()
    models.fetch(f"torchvision://{NAME}")
    cached.write_bytes(cached.read_bytes() + b"more")
    error = refusal(NAME)
    assert f"{cached} has the SHA-256 " in error.fact
    assert error.remedy == "Delete it and download it again."


def test_a_known_full_hash_is_compared_in_full(publish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cached = publish()
    monkeypatch.setitem(torchvision.SHA256, cached.name, cached.stem[-8:] + 56 * "0")
    assert "has the SHA-256" in refusal(NAME).fact


class Odd:
    """What a state dict never holds."""


def test_a_file_with_code_in_it_is_refused(publish: Callable[..., Path]) -> None:
    publish({"weight": Odd()})
    assert "holds no plain state dict" in refusal(NAME).fact


def test_no_network_is_refused_in_one_sentence(publish: Callable[..., Path], tmp_path: Path) -> None:
    cached = publish()
    (tmp_path / "server" / cached.name).unlink()
    error = refusal(NAME)
    assert "can't be had" in error.fact
    assert error.remedy == f"Check the network, or put the file at {cached}."


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18/IMAGENET1K_V2", "IMAGENET1K_V1"),
        ("resnet50/IMAGENET1K", "IMAGENET1K_V"),
        ("resnet18", "IMAGENET1K_V1"),
        ("resnt50/IMAGENET1K_V1", "resnet50"),
        ("vgg16/IMAGENET1K_V1", "resnet50"),
        ("/", "resnet50"),
    ],
)
def test_names_that_do_not_exist_suggest_those_that_do(name: str, said: str) -> None:
    assert said in refusal(name).remedy
