"""rescompress: fuse, quantize and export a checkpoint; the variant is a JSON object of quantize's knobs."""

import json
from pathlib import Path

import measured


def quantize(weights: Path, images: Path, out: Path, variant: str) -> str:
    """As ``rescompress quantize`` does it, with these calibration images; the time holds the ONNX export too."""
    import numpy as np
    import torch

    import rescompress
    from rescompress.context import Context
    from rescompress.data import Data, InMemory

    with np.load(images) as pack:
        split = InMemory(torch.from_numpy(pack["images"]), torch.from_numpy(pack["labels"]))
    model = rescompress.load(weights)
    classes = tuple(f"class {k}" for k in range(rescompress.models.spec_of(model).classes))
    context = Context(Data("images", classes, split, split, split, images.stem), reference=model)
    knobs = {"calibration_images": len(split), **json.loads(variant)}
    quantized = rescompress.quantize(rescompress.fuse(model, context), context, **knobs)
    return str(rescompress.export(quantized, knobs.get("runtime", "onnxruntime"), out).manifest.entry)


if __name__ == "__main__":
    measured.main(quantize, ("rescompress", "torch", "onnx"))
