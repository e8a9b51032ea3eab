"""ONNX Runtime's quantize_static: its defaults, or the settings that its documentation advises on x86.

Variants: ``default`` (s8 activations, s8 weights per tensor, min-max), or the calibration method ``minmax``,
``entropy`` or ``percentile`` with u8 activations and s8 weights per channel after ``quant_pre_process``.
"""

from pathlib import Path
from typing import Any

import measured

BATCH = 8


def quantize(model: Path, images: Path, out: Path, variant: str) -> str:
    """Calibrate on the images and write ``model.onnx``."""
    import numpy as np
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    array = np.load(images)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Hands out the images, some at a time."""

        def __init__(self) -> None:
            self.parts = iter(range(0, len(array), BATCH))

        def get_next(self) -> dict[str, Any] | None:
            """The next images, or None."""
            start = next(self.parts, None)
            return None if start is None else {"images": array[start : start + BATCH]}

    target = out / "model.onnx"
    if variant == "default":
        quantization.quantize_static(str(model), str(target), Reader())
        return target.name
    prepared = out / "prepared.onnx"
    quant_pre_process(str(model), str(prepared))
    quantization.quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        calibrate_method={
            "minmax": quantization.CalibrationMethod.MinMax,
            "entropy": quantization.CalibrationMethod.Entropy,
            "percentile": quantization.CalibrationMethod.Percentile,
        }[variant],
    )
    prepared.unlink()
    return target.name


if __name__ == "__main__":
    measured.main(quantize, ("onnxruntime", "onnx"))
