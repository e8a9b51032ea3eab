"""The verb that keeps a calibration in a file, from which ``quantize`` takes its ranges for any runtime."""

from pathlib import Path
from typing import Any

from rescompress.cli.arguments import open_data


def calibrate(model: Any, data: str | None, out: Path, **knobs: Any) -> str:
    """Show images to a network once, and keep what every INT8 scheme and observer may ask for.

    Args:
        model: as it was loaded; its BatchNorms are folded first.
        data: what ``--data`` says.
        out: the file; an interrupted calibration goes on from it.
        knobs: of ``quantization.calibration.calibrate``.

    Returns:
        One line on what the file holds.
    """
    from rescompress import models
    from rescompress.context import Context
    from rescompress.fusion import fuse
    from rescompress.quantization import calibration

    context = Context(open_data(data, models.spec_of(model)), reference=model)
    found = calibration.calibrate(fuse(model, context), context, out, **knobs)
    return f"{out}: {len(found.histograms)} values on {found.images} images"
