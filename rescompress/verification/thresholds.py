"""How near an artifact has to come to its model: defaults by precision, and what the model's own noise excuses."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Field, WithJsonSchema

from rescompress.agreement import Proportion
from rescompress.artifact import Manifest
from rescompress.backends import ROUNDED
from rescompress.cpu import kernels
from rescompress.spec import Floats, Precision

Level = Literal["fp32", "fp16", "bf16", "int8", "w4a8", "dynamic", "weights8", "palette6", "palette4"]
"""What is computed in, where it decides how near an artifact can come."""
LEAST_SQNR_DB: dict[Level, float] = {
    **{"fp32": 60.0, "fp16": 40.0, "bf16": 22.0},
    **{"w4a8": 30.0, "int8": 20.0, "dynamic": 20.0},
    **{"weights8": 30.0, "palette6": 15.0, "palette4": 6.0},
}
LEAST_AGREEMENT: dict[Level, float] = {
    **{"fp32": 99.5, "fp16": 98.0, "bf16": 95.0},
    **{"w4a8": 97.0, "int8": 97.0, "dynamic": 97.0},
    **{"weights8": 97.0, "palette6": 90.0, "palette4": 50.0},
}
"""Of the logits. INT8 leaves room for kernels that saturate (x86 without VNNI) and for rounding that flips; nothing
saturates with 4-bit weights. Where weights alone are integers, the runtime computes in float, as eager does."""
STORED: dict[str, Level] = {"int8": "weights8", "palette6": "palette6", "palette4": "palette4"}
"""What Core ML's exporter rounds by itself, which eager PyTorch knows nothing of; by its knob ``weights``."""


def _filled(defaults: dict[Level, float], given: Any) -> Any:
    """One number for all levels, or the defaults where a mapping says nothing."""
    if isinstance(given, (int, float)):
        return dict.fromkeys(defaults, given)
    return {**defaults, **given} if isinstance(given, dict) else given


@dataclass(frozen=True)
class _Said:
    """Limits of each number of a mapping, for the help; pydantic checks them where the number stands."""

    metadata: tuple[Ge | Le, ...]


def _schema(limits: dict[str, float]) -> WithJsonSchema:
    number = {"type": "number", **limits}
    return WithJsonSchema({"anyOf": [number, {"type": "object", "additionalProperties": number}]})


SqnrDb = Annotated[
    dict[Level, Annotated[float, Field(ge=0)]],
    BeforeValidator(lambda given: _filled(LEAST_SQNR_DB, given)),
    _schema({"minimum": 0}),
    _Said((Ge(0),)),
]
Percent = Annotated[
    dict[Level, Annotated[float, Field(ge=0, le=100)]],
    BeforeValidator(lambda given: _filled(LEAST_AGREEMENT, given)),
    _schema({"minimum": 0, "maximum": 100}),
    _Said((Ge(0), Le(100))),
]
"""Thresholds by level, as a person may write them: one number for all, or some levels' own."""
LEAST_LAYER_DB: dict[Floats, float] = {"fp32": 80.0, "fp16": 40.0, "bf16": 22.0}
"""Of a layer on its own inputs, which leaves only the last bits of a sum: 127 dB and more in FP32 where it is right."""
LEAST_ROUNDED_DB: dict[Floats, float] = {"fp32": 50.0, "fp16": 30.0, "bf16": 15.0}
"""Of a value that is rounded to integers: a step more or less where a sum lies on an edge, 72 dB and more in FP32."""
LEAST_UNSEEN_DB = 15.0
"""Of such a value behind others that nobody sees, or where the runtime's kernels may saturate."""
ROOM_DB = 6.0
"""How far below the model's own noise an artifact may be, where that noise is what limits it."""


def level(precision: Precision) -> Level | None:
    """The integers that are computed in; None where they are only stored."""
    return None if precision in ("fp32", "w8", "w4") else precision  # type: ignore[return-value]


def least(table: dict[Level, float], manifest: Manifest) -> float:
    """The threshold of an artifact: that of its integers or floats; of its FP16 or BF16 too where that is lower."""
    integers = level(manifest.precision) or STORED.get(manifest.knobs.get("weights", ""))
    if integers is None:
        return table[manifest.floats]
    return table[integers] if manifest.floats == "fp32" else min(table[integers], table[manifest.floats])


def sqnr_db(asked: dict[Level, float], manifest: Manifest, self_noise_db: float) -> float:
    """The threshold of the logits; the model's own noise lowers the default, but nothing stricter that is asked for."""
    wanted, usual = least(asked, manifest), least(LEAST_SQNR_DB, manifest)
    return wanted if wanted > usual else min(wanted, self_noise_db - ROOM_DB)


def agreement(asked: dict[Level, float], manifest: Manifest, own: Proportion) -> float:
    """The threshold of top-1 agreement, likewise: a model that moves by a millionth may disagree with itself."""
    wanted, usual = least(asked, manifest), least(LEAST_AGREEMENT, manifest)
    return wanted if wanted > usual or not own else min(wanted, wanted - 100 + own.percent)


def layer_db(name: str, unseen: int, manifest: Manifest, of: str) -> float:
    """The threshold of a value inside.

    Args:
        name: of the value.
        unseen: roundings before it that the runtime doesn't show: each flips some values, and the next one more.
        manifest: the artifact's.
        of: the ``file`` or the ``runtime``.
    """
    if not (unseen or name.endswith(ROUNDED) or manifest.precision == "dynamic"):
        return LEAST_LAYER_DB[manifest.floats]
    rounded = max(LEAST_ROUNDED_DB[manifest.floats] - ROOM_DB * unseen, LEAST_UNSEEN_DB)
    saturates = of == "runtime" and kernels("auto") == "avx2"
    return min(rounded, LEAST_UNSEEN_DB) if saturates else rounded
