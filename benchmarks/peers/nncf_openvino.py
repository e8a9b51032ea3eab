"""NNCF on an OpenVINO model. Variants: a preset (`performance` is its default, or `mixed`); fast bias correction."""

from pathlib import Path

import measured


def quantize(model: Path, images: Path, out: Path, variant: str) -> str:
    """Calibrate on all images and write ``model.xml`` and ``model.bin``."""
    import nncf
    import numpy as np
    import openvino

    array = np.load(images)
    dataset = nncf.Dataset(range(len(array)), lambda place: array[place : place + 1])
    preset = nncf.QuantizationPreset(variant)
    quantized = nncf.quantize(openvino.Core().read_model(model), dataset, preset=preset, subset_size=len(array))
    openvino.save_model(quantized, out / "model.xml", compress_to_fp16=False)
    return "model.xml"


if __name__ == "__main__":
    measured.main(quantize, ("nncf", "openvino"))
