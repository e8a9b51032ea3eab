"""ModelOpt's quantization of an ONNX model, the rest in FP32. Variants: its calibrations ``entropy`` and ``max``."""

from pathlib import Path

import measured


def quantize(model: Path, images: Path, out: Path, variant: str) -> str:
    """Calibrate on the CPU and write ``model.onnx``."""
    import numpy as np
    from modelopt.onnx.quantization import quantize as modelopt_quantize

    modelopt_quantize(
        str(model),
        quantize_mode="int8",
        calibration_data={"images": np.load(images)},
        calibration_method=variant,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out / "model.onnx"),
    )
    return "model.onnx"


if __name__ == "__main__":
    measured.main(quantize, ("nvidia-modelopt", "onnxruntime", "onnx"))
