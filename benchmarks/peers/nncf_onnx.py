"""NNCF on an ONNX model. Variants: a preset (``performance`` is its default, or ``mixed``); fast bias correction."""

from pathlib import Path

import measured


def quantize(model: Path, images: Path, out: Path, variant: str) -> str:
    """Calibrate on all images and write ``model.onnx``."""
    import nncf
    import numpy as np
    import onnx

    array = np.load(images)
    dataset = nncf.Dataset(range(len(array)), lambda place: {"images": array[place : place + 1]})
    preset = nncf.QuantizationPreset(variant)
    quantized = nncf.quantize(onnx.load(str(model)), dataset, preset=preset, subset_size=len(array))
    onnx.save(quantized, str(out / "model.onnx"))
    return "model.onnx"


if __name__ == "__main__":
    measured.main(quantize, ("nncf", "onnx", "onnxruntime"))
