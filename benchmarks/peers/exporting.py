"""rescompress: a checkpoint to the FP32 ONNX file that the other tools start from."""

from pathlib import Path

import measured


def export(weights: Path, images: Path, out: Path, variant: str) -> str:
    """As ``rescompress export`` does it; neither images nor variant play a part."""
    import rescompress
    from rescompress.context import Context

    model = rescompress.fuse(rescompress.load(weights), Context())
    return str(rescompress.export(model, "onnx", out / "fp32").manifest.entry)


if __name__ == "__main__":
    measured.main(export, ("rescompress", "torch", "onnx"))
