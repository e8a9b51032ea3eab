"""Keras' files give the network that Keras trained: its formula, written down anew from its own weights, agrees."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rescompress import checkpoint, models
from rescompress.models import keras

BLOCKS = (3, 4, 6, 3)
CLASSES = 5
EPS = 1.001e-5
MEAN_BGR = (103.939, 116.779, 123.68)
"""What Keras' mode ``caffe`` subtracts."""
Weights = dict[str, np.ndarray]


def convolutions() -> Iterator[tuple[str, int, int, int]]:
    """Name, kernel, inputs and outputs of each one, in the order in which Keras' summary lists them."""
    yield "conv1", 7, 3, 64
    inputs = 64
    for stage, blocks in enumerate(BLOCKS, 2):
        middle = 2 ** (4 + stage)
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}"
            yield f"{name}_1", 1, inputs, middle
            yield f"{name}_2", 3, middle, middle
            if block == 1:
                yield f"{name}_0", 1, inputs, 4 * middle
            yield f"{name}_3", 1, middle, 4 * middle
            inputs = 4 * middle


@cache
def weights() -> Weights:
    """Random weights by layer and variable, as ``conv2_block1_0_conv/kernel``."""
    random = np.random.default_rng(0)
    made: Weights = {}
    for name, side, inputs, outputs in convolutions():
        spread = np.sqrt(2 / (side * side * inputs))
        made[f"{name}_conv/kernel"] = spread * random.standard_normal((side, side, inputs, outputs), np.float32)
        made[f"{name}_conv/bias"] = random.uniform(-0.1, 0.1, outputs)
        made[f"{name}_bn/gamma"] = random.uniform(0.5, 1.5, outputs) * (0.3 if name.endswith("_3") else 1)
        made[f"{name}_bn/beta"] = random.uniform(-0.2, 0.2, outputs)
        made[f"{name}_bn/moving_mean"] = random.uniform(-0.2, 0.2, outputs)
        made[f"{name}_bn/moving_variance"] = random.uniform(0.5, 1.5, outputs)
    made["predictions/kernel"] = 0.05 * random.standard_normal((2048, CLASSES))
    made["predictions/bias"] = random.standard_normal(CLASSES)
    return {name: value.astype(np.float32) for name, value in made.items()}


def by_layer() -> Weights:
    """Under the names of a ``.h5`` file."""
    named = {}
    for name, value in weights().items():
        layer, leaf = name.split("/")
        named[f"{layer}/{layer}/{leaf}:0"] = value
    return named


def by_number() -> Weights:
    """Under the names of a ``.weights.h5`` file, where layers of a kind are counted."""
    named = {f"layers/dense/vars/{i}": weights()[f"predictions/{leaf}"] for i, leaf in enumerate(("kernel", "bias"))}
    for place, (name, *_) in enumerate(convolutions()):
        number = f"_{place}" if place else ""
        for i, leaf in enumerate(("kernel", "bias")):
            named[f"layers/conv2d{number}/vars/{i}"] = weights()[f"{name}_conv/{leaf}"]
        for i, leaf in enumerate(("gamma", "beta", "moving_mean", "moving_variance")):
            named[f"layers/batch_normalization{number}/vars/{i}"] = weights()[f"{name}_bn/{leaf}"]
    return named


def by_root() -> Weights:
    """As a whole saved model has them, with its optimizer's beside them."""
    odd = {"optimizer_weights/adam/conv1_conv/kernel:0": np.zeros((7, 7, 3, 64), np.float32)}
    return {f"model_weights/{name}": value for name, value in by_layer().items()} | odd


FILES = {"legacy.h5": by_layer, "whole.h5": by_root, "new.weights.h5": by_number}


def reference(rgb: Tensor) -> Tensor:
    """Keras' ResNet50 without its softmax, in double precision, from images of 0 to 255."""
    x = rgb.double().flip(1) - torch.tensor(MEAN_BGR, dtype=torch.float64)[:, None, None]
    x = F.relu(_norm("conv1", _conv("conv1", F.pad(x, (3, 3, 3, 3)), 2)))
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, blocks in enumerate(BLOCKS, 2):
        for block in range(1, blocks + 1):
            name, stride = f"conv{stage}_block{block}", 2 if block == 1 and stage > 2 else 1
            kept = _norm(f"{name}_0", _conv(f"{name}_0", x, stride)) if block == 1 else x
            y = F.relu(_norm(f"{name}_1", _conv(f"{name}_1", x, stride)))
            y = F.relu(_norm(f"{name}_2", _conv(f"{name}_2", F.pad(y, (1, 1, 1, 1)))))
            x = F.relu(_norm(f"{name}_3", _conv(f"{name}_3", y)) + kept)
    return x.mean((2, 3)) @ _get("predictions/kernel") + _get("predictions/bias")


def _get(name: str) -> Tensor:
    return torch.from_numpy(weights()[name]).double()


def _conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Without padding, from a kernel of height, width, inputs, outputs."""
    return F.conv2d(x, _get(f"{name}_conv/kernel").permute(3, 2, 0, 1), _get(f"{name}_conv/bias"), stride)


def _norm(name: str, x: Tensor) -> Tensor:
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    scale, shift, mean, variance = (_get(f"{name}_bn/{leaf}")[:, None, None] for leaf in leaves)
    return scale * (x - mean) / torch.sqrt(variance + EPS) + shift


def write(path: Path, named: Weights) -> Path:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'rescompress[keras]'")
    with h5py.File(path, "w") as file:
        for name, value in named.items():
            file[name] = value
    return path


def agrees_with_the_formula(path: Path) -> None:
    model = checkpoint.load(path)
    spec = models.spec_of(model)
    assert str(spec) == f"keras ResNet50, {CLASSES} classes"
    rgb = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(each)[:, None, None] for each in (spec.preprocessing.mean, spec.preprocessing.std))
    wanted = reference(rgb)
    answer = models.predict(model, [(rgb / 255 - mean) / std])
    assert (answer - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_keras_weights_compute_what_keras_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors of a file; how they come out of one is tested beside, and below in full."""
    tensors = {name: torch.from_numpy(value) for name, value in by_layer().items()}
    monkeypatch.setattr(checkpoint.statedict, "read", lambda path: tensors)
    path = tmp_path / "legacy.h5"
    path.touch()
    agrees_with_the_formula(path)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_every_layout_of_keras_computes_what_keras_computes(file: str, tmp_path: Path) -> None:
    agrees_with_the_formula(write(tmp_path / file, FILES[file]()))


def test_both_ways_of_naming_give_the_same_tensors() -> None:
    one, other = (keras.adopt({n: torch.from_numpy(v) for n, v in named().items()}) for named in (by_layer, by_number))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_strides_are_keras_own() -> None:
    model = models.outline(models.spec("keras", "ResNet50", CLASSES))
    for stage in (2, 3, 4):
        first = model.get_submodule(f"layer{stage}.0")
        assert (first.conv1.stride, first.conv2.stride, first.downsample[0].stride) == ((2, 2), (1, 1), (2, 2))
