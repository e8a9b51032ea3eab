"""An OpenVINO IR as few bytes: each constant once, names that don't count, no white space between elements."""

import re
from pathlib import Path
from typing import Any


def tidy(network: Any) -> None:
    """Store equal small constants once, and number what has no name by its place, in place.

    Args:
        network: an ``openvino.Model``.
    """
    first: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
    for op in network.get_ordered_ops():
        if op.get_type_name() == "Constant" and op.get_byte_size() <= 64:
            values = op.data
            key = (str(op.get_element_type()), tuple(values.shape), values.tobytes())
            kept = first.setdefault(key, op)
            if kept is not op:
                for reader in op.output(0).get_target_inputs():
                    reader.replace_source_output(kept.output(0))
    for place, op in enumerate(network.get_ordered_ops()):
        if re.fullmatch(r"[A-Z][A-Za-z]*_\d+", op.get_friendly_name()):
            op.set_friendly_name(f"{op.get_type_name()}_{place}")  # else it counts what this process made before


def compact(path: Path) -> None:
    """Remove the white space between the elements of an IR's description.

    Args:
        path: the ``.xml`` file.
    """
    path.write_text(re.sub(r">\s+<", "><", path.read_text("utf-8")), "utf-8")
