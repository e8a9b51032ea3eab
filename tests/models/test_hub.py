"""A model in its makers' own directory computes what they compute, and goes back into their own class."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rescompress import checkpoint, models
from rescompress.errors import BackendMissing, InputRefused
from rescompress.models._torchvision_import import import_torchvision
from rescompress.spec import IMAGENET
from tests.networks import enliven

SMALL = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2]}
VARIANTS: dict[str, dict[str, Any]] = {
    "basic": {"layer_type": "basic", "num_labels": 5},
    "bottleneck": {"layer_type": "bottleneck", "num_labels": 5},
    "v1 striding": {"layer_type": "bottleneck", "downsample_in_bottleneck": True},
    "strides at once": {"layer_type": "basic", "downsample_in_first_stage": True, "num_labels": 3},
    "backbone": {"layer_type": "basic", "out_features": ["stage1", "stage2"]},
    "backbone's last map": {"layer_type": "bottleneck"},
}
IMAGES = {"size": {"shortest_edge": 48}, "crop_pct": 0.75, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
TIMM = {
    "architecture": "resnet10t",
    "num_classes": 5,
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "crop_pct": 0.5,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.1, 0.2, 0.3],
        "interpolation": "bicubic",
    },
}


def theirs(variant: str, **more: Any) -> Any:
    """A network of transformers' own class with random weights."""
    import_torchvision()
    import transformers

    config = transformers.ResNetConfig(**SMALL, **VARIANTS[variant], **more)
    kind = transformers.ResNetBackbone if "backbone" in variant else transformers.ResNetForImageClassification
    torch.manual_seed(0)
    return kind(config).eval()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a directory as transformers or timm lays it out."""

    def call(config: dict[str, Any], state: dict[str, Tensor], images: dict[str, Any] | None = None) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(state, tmp_path / "model.safetensors")
        if images is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
        return tmp_path

    return call


def noise() -> Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def answers(model: Any) -> Tensor:
    said = model(noise())
    return said.logits if "logits" in said else models.in_rows(said.feature_maps)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_of_transformers_answers_as_there_and_goes_back(variant: str, tmp_path: Path) -> None:
    their = theirs(variant)
    their.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    model = checkpoint.load(tmp_path)
    spec = models.spec_of(model)
    assert torch.equal(models.predict(model, [noise()]), answers(their))
    assert (spec.family, spec.architecture) == ("huggingface", type(their).__name__)
    assert spec.classes == (0 if "backbone" in variant else VARIANTS[variant].get("num_labels", 2))
    assert spec.arguments["depths"] == (1, 2)
    assert (spec.preprocessing.crop, spec.preprocessing.resize) == (48, 64)
    assert (spec.preprocessing.mean, spec.preprocessing.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    with torch.no_grad():
        next(model.parameters()).mul_(0.5)
    checkpoint.save(model, tmp_path / "changed.safetensors")
    their.load_state_dict(load_file(tmp_path / "changed.safetensors"), strict=True)
    assert torch.equal(answers(their), models.predict(model, [noise()]))


def test_older_directories_say_the_size_as_a_number_or_not_at_all(tmp_path: Path) -> None:
    theirs("basic").save_pretrained(tmp_path)
    assert models.spec_of(checkpoint.load(tmp_path)).preprocessing == IMAGENET
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 112, "crop_pct": None}))
    assert models.spec_of(checkpoint.load(tmp_path)).preprocessing.crop == 112


def timms() -> nn.Module:
    import_torchvision()
    import timm

    return enliven(timm.create_model("resnet10t", num_classes=5))


def test_a_network_of_timm_answers_as_there_and_goes_back(write: Callable[..., Path]) -> None:
    their = timms()
    model = checkpoint.load(write(TIMM, their.state_dict()))
    spec = models.spec_of(model)
    assert torch.equal(models.predict(model, [noise()]), models.predict(their, [noise()]))
    assert str(spec) == "timm resnet10t, 5 classes"
    assert (spec.preprocessing.crop, spec.preprocessing.resize) == (64, 128)
    assert (spec.preprocessing.mean, spec.preprocessing.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    with torch.no_grad():
        next(model.parameters()).mul_(0.5)
    folder = write(TIMM, {})
    checkpoint.save(model, folder / "changed.safetensors")
    their.load_state_dict(load_file(folder / "changed.safetensors"), strict=True)
    assert torch.equal(models.predict(their, [noise()]), models.predict(model, [noise()]))


def refusal(place: Path | str) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        checkpoint.load(place)
    for sentence in (caught.value.fact, caught.value.remedy):
        assert re.fullmatch(r"[^\n:]+.*[^ :.][.]", sentence), sentence
        assert not re.search(r"\w(Error|Exception)\b|Traceback", sentence), sentence
    return caught.value


BASIC = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "layer_type": "basic"}
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another kind of model": ({"model_type": "vit"}, {}, "fit no network"),
    "another class": (BASIC | {"architectures": ["ResNetForDepth"]}, {}, "config.json names ResNetForDepth"),
    "other activations": (BASIC | {"hidden_act": "gelu"}, {}, "hidden_act: gelu"),
    "other images": (BASIC | {"num_channels": 1}, {}, "num_channels: 1"),
    "depths of another length": (BASIC | {"depths": [1]}, {}, "doesn't fit|no network that can be built"),
    "widths that are no numbers": (BASIC | {"hidden_sizes": ["wide"]}, {}, "no network that can be built"),
    "blocks of no kind": (BASIC | {"layer_type": "odd"}, {}, "no network that can be built"),
    "a crop larger than the image": (BASIC, {"crop_pct": 1.5}, "impossible crop"),
    "a crop of nothing": (BASIC, {"size": -3}, "impossible crop"),
    "a crop that is no number": (BASIC, {"crop_pct": "most"}, "no network that can be built"),
    "a size that is no number": (BASIC, {"size": {"shortest_edge": []}, "image_mean": 5}, "no network that can be"),
    "timm's impossible crop": (TIMM | {"pretrained_cfg": {"crop_pct": 2}}, {}, "impossible crop"),
    "timm's size of no number": (TIMM | {"pretrained_cfg": {"input_size": 3}}, {}, "no network that can be built"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_configuration_that_makes_no_sense_is_refused(wrong: str, write: Callable[..., Path]) -> None:
    config, images, said = WRONG[wrong]
    assert re.search(said, refusal(write(config, {"weight": torch.ones(2, 3)}, images)).fact)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_directory_without_a_file_is_refused_by_its_name(missing: str, write: Callable[..., Path]) -> None:
    folder = write(BASIC, {"weight": torch.ones(2)})
    (folder / missing).unlink()
    assert f"holds no {missing}" in refusal(folder).fact


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"", b"null"])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_what_is_no_json_object_is_refused(content: bytes, file: str, write: Callable[..., Path]) -> None:
    folder = write(BASIC, {"weight": torch.ones(2)}, {})
    (folder / file).write_bytes(content)
    assert f"{file} holds no JSON object" in refusal(folder).fact


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the hub's own: a snapshot of links to blobs, named after their SHA-256 where they are large."""
    import huggingface_hub

    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir(), snapshot.mkdir(parents=True)
    theirs("basic").save_pretrained(tmp_path / "made")
    for file in (tmp_path / "made").iterdir():
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        blob = blobs / (hashlib.sha256(content).hexdigest() if large else hashlib.sha1(content).hexdigest())
        blob.write_bytes(content)
        (snapshot / file.name).symlink_to(blob)

    def download(name: str, file: str) -> str:
        assert name == "someone/small-resnet"
        if not (snapshot / file).exists():
            raise OSError(f"404 Client Error for {file}.\nRequest ID: 1")
        return str(snapshot / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return snapshot


def test_a_network_on_the_hub_is_loaded_by_its_name(hub: Path) -> None:
    model = checkpoint.load("hf://someone/small-resnet")
    assert torch.equal(models.predict(model, [noise()]), answers(theirs("basic")))


def test_a_download_that_was_broken_is_refused(hub: Path) -> None:
    blob = (hub / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"evil")
    assert "doesn't have the SHA-256 that the hub states" in refusal("hf://someone/small-resnet").fact


def test_a_hub_without_the_weights_is_refused_in_one_sentence(hub: Path) -> None:
    (hub / "model.safetensors").unlink()
    error = refusal("hf://someone/small-resnet")
    assert error.fact == (
        "model.safetensors of hf://someone/small-resnet can't be had: 404 Client Error for model.safetensors."
    )
    assert "Check the name and the network" in error.remedy


def test_no_network_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: (_ for _ in ()).throw(ConnectionError("")))
    wanted = "config.json of hf://someone/small-resnet can't be had: no answer."
    assert refusal("hf://someone/small-resnet").fact == wanted


@pytest.mark.parametrize(
    "place", ["hf://", "hf://resnet", "hf://a/b/c", "hf://../../etc", "s3://a/b", "cifar://resnet20"]
)
def test_a_place_that_names_no_model_is_refused(place: str) -> None:
    assert re.search("names no model|is no place of weights|There is no file", refusal(place).fact)


def test_a_missing_client_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendMissing, match=r"rescompress\[hf\]"):
        checkpoint.load("hf://someone/small-resnet")
