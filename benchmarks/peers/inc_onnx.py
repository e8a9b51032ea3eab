"""Intel Neural Compressor 2.6 on an ONNX model: its last release that can. It needs numpy < 2 and onnx 1.16.

There is one variant.
"""

from pathlib import Path
from typing import Any

import measured

BATCH = 8


class Batches:
    """Images with a label that nothing reads, some at a time."""

    batch_size = BATCH

    def __init__(self, array: Any) -> None:
        self.array = array

    def __iter__(self) -> Any:
        """Pairs of images and labels."""
        return ((self.array[start : start + BATCH], 0) for start in range(0, len(self.array), BATCH))


def quantize(model: Path, images: Path, out: Path, variant: str) -> str:
    """Calibrate on the images and write ``model.onnx``."""
    import numpy as np
    from neural_compressor import PostTrainingQuantConfig, quantization, set_workspace

    set_workspace(str(out / "workspace"))  # else it leaves models where it is started
    array = np.load(images)
    asked = PostTrainingQuantConfig(calibration_sampling_size=[len(array)], quant_format="QDQ")
    quantized = quantization.fit(str(model), asked, calib_dataloader=Batches(array))
    if quantized is None:
        raise RuntimeError("Neural Compressor gave no model back")
    quantized.save(str(out / "model.onnx"))
    return "model.onnx"


if __name__ == "__main__":
    measured.main(quantize, ("neural-compressor", "onnxruntime", "onnx"))
