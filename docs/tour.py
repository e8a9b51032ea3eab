"""A tour of rescompress in Python: from a trained ResNet to a verified INT8 file. Run it: python docs/tour.py"""

import tempfile
from pathlib import Path

import rescompress

# A model is a plain nn.Module that knows which stock network it came from. This one is shipped: a ResNet-20 of He et
# al. 2015, trained on handwritten digits. Your own would be rescompress.load("my_resnet50.pth").
model = rescompress.load("digits_resnet20")
before = rescompress.total_cost(model)
print(f"{before.params:,} parameters, {before.macs:,} MACs")

# The context is what a stage may know of the world: images, a seed, and the untouched model as teacher.
ctx = rescompress.Context.of(model, "digits", seed=0)

# A stage is a function from model to model. Its keyword arguments are its knobs: the same names, limits and defaults
# as in a recipe and on the command line. It never edits its argument.
small = rescompress.prune(model, ctx, ratio=0.4, round_to=16)
after = rescompress.total_cost(small)
print(f"pruned: {after.params / before.params:.2f}x the parameters, {after.macs / before.macs:.2f}x the MACs")

# Pruning costs accuracy; imitating the untouched model brings it back. One epoch shows the call; the recipe takes
# fifteen.
taught = rescompress.distill(small, ctx, schedule=rescompress.Schedule(epochs=1, batch=64))

# Each BatchNorm folds into its convolution, then weights and activations go to INT8.
int8 = rescompress.quantize(rescompress.fuse(taught, ctx), ctx)

with tempfile.TemporaryDirectory() as folder:
    # A checkpoint is one safetensors file that rebuilds the cut network bit by bit; nothing is ever unpickled.
    rescompress.save(int8, Path(folder) / "int8.safetensors")
    again = rescompress.load(Path(folder) / "int8.safetensors")

    # An artifact is a folder with a manifest. It is judged where it runs: in its own runtime, in a fresh process.
    artifact = rescompress.export(again, "onnx", Path(folder) / "onnx")
    row = rescompress.verify(artifact.folder, again, ctx.data)
    agreement = f"top-1 agreement {row.agreement.percent:.1f} %"
    print(f"ONNX Runtime: {artifact.size_bytes:,} bytes, SQNR {row.sqnr_db:.1f} dB, {agreement}")
    assert not row.failures, row.failures

# All of this, with resuming, a gate on accuracy, timing and a report, is one recipe: rescompress run digits_resnet20
