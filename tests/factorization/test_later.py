"""What comes after factorize copes with the depthwise links of a CP chain."""

from pathlib import Path

import pytest
import torch
from torch import nn

from rescompress import backends, checkpoint, models
from rescompress.context import Context
from rescompress.factorization import factorize
from rescompress.fusion import fuse
from rescompress.pruning import prune
from rescompress.quantization import quantize
from tests.networks import context, noise, stock


@pytest.mark.slow
def test_a_cp_chain_goes_through_all_later_stages(tmp_path: Path) -> None:
    """Its depthwise links are pruned, folded, quantized and exported like any layer."""
    thin = factorize(stock("cifar", "resnet8"), context(), method="cp", energy=0.4, round_to=4)
    assert any(isinstance(one, nn.Conv2d) and one.groups > 1 for one in thin.modules())
    pruned = prune(thin, Context(), ratio=0.3, round_to=1)
    tall = pruned.layer3[0].conv2[1]
    assert 1 < tall.groups == tall.out_channels < thin.layer3[0].conv2[1].groups
    folded = fuse(pruned, Context())
    small = quantize(folded, context())
    for model in (thin, pruned, folded, small):
        checkpoint.save(model, tmp_path / "chain.safetensors")
        loaded = checkpoint.load(tmp_path / "chain.safetensors")
        assert torch.equal(*(models.predict(one, [noise(model)]) for one in (loaded, model)))
    expected, answer = (models.predict(model, [noise(model)]) for model in (pruned, folded))
    assert (answer - expected).abs().max() <= 1e-4 * expected.abs().max()
    onnx = backends.get("onnxruntime")
    folder = tmp_path / "onnx"
    folder.mkdir()
    assert (folder / onnx.export(small, models.spec_of(small), folder)).is_file()
