"""Does the artifact compute what the model computes, and how accurate is it, in its own runtime and a fresh process?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from torch import fx, nn

from rescompress import data, fakequant, graph, metrics, models, progress
from rescompress.artifact import open_artifact
from rescompress.data import Data
from rescompress.errors import InputRefused
from rescompress.knobs import checked
from rescompress.spec import Precision, PrecisionReport, Preprocessing, Proportion, VerificationRow
from rescompress.worker import Worker

Array = NDArray[np.float32]
LEAST_SQNR_DB: dict[Precision, float] = {
    **{"fp32": 60.0, "w8": 60.0, "w4": 60.0},
    **{"w4a8": 30.0, "int8": 20.0, "dynamic": 20.0},
}
LEAST_AGREEMENT: dict[Precision, float] = {
    **{"fp32": 99.5, "w8": 99.5, "w4": 99.5},
    **{"w4a8": 97.0, "int8": 97.0, "dynamic": 97.0},
}
"""Defaults per precision. Where weights alone are integers, the runtime computes in float, as eager does. INT8 leaves
room for kernels that saturate (x86 without VNNI) and for rounding that flips; nothing saturates with 4-bit weights."""
LIKE_ALONE = {False: "the same image in a batch", True: "eager PyTorch does"}
NOISE_IMAGES, NOISE_MAPS = 64, 4
"""Images of noise where there is no data; feature maps are a thousand times larger than logits."""


@checked
def verify(
    folder: Path,
    model: nn.Module,
    images: Data | None,
    *,
    min_sqnr_db: Annotated[float | None, Field(ge=0)] = None,
    min_agreement: Annotated[float | None, Field(ge=0, le=100)] = None,
    batch: Annotated[int, Field(ge=1)] = 64,
) -> VerificationRow:
    """Run an artifact in a fresh process and compare it with the same model in eager PyTorch.

    Args:
        folder: the artifact.
        model: the model that was exported.
        images: labelled images; without them seeded noise is compared, and there is no accuracy.
        min_sqnr_db: least signal to noise ratio of the logits, in dB; none means 60 where the runtime computes in
            float, 20 for INT8, 30 for INT8 with 4-bit weights.
        min_agreement: least share of images, in percent, on which both name the same class; none means 99.5 where
            the runtime computes in float, 97 for INT8.
        batch: images per call of the runtime.

    Raises:
        InputRefused: the artifact was changed since it was exported, or belongs to another model.
        WorkerCrashed: the runtime died.
    """
    manifest = open_artifact(folder).manifest
    ours, theirs, labels, (expected, alone) = _logits(folder, model, images, batch)
    if ours.shape != theirs.shape:
        raise InputRefused(
            f"The artifact gives {theirs.shape[1]} numbers an image, the model {ours.shape[1]}.",
            "Compare the artifact with the checkpoint that it was exported from.",
        )
    sqnr, agree = metrics.sqnr_db(ours, theirs), _agreement(model, ours, theirs)
    least_sqnr = LEAST_SQNR_DB[manifest.precision] if min_sqnr_db is None else min_sqnr_db
    least_agreement = LEAST_AGREEMENT[manifest.precision] if min_agreement is None else min_agreement
    failures = []
    if not np.isfinite(theirs).all():
        failures.append("Some logits are NaN or infinite.")
    elif sqnr < least_sqnr:
        failures.append(f"The logits' SQNR is {sqnr:.1f} dB, below {least_sqnr:g} dB.")
    if agree and agree.percent < least_agreement:
        failures.append(f"Top-1 agrees with eager on {agree.percent:.2f} % of the images, below {least_agreement:g} %.")
    if metrics.sqnr_db(expected, alone) < least_sqnr:
        failures.append(f"An image alone gives other logits than {LIKE_ALONE[_has_own_ranges(model)]}.")
    return VerificationRow(
        label=manifest.label,
        backend=manifest.backend,
        inputs="test split" if images else "noise",
        accuracy=_accuracy(theirs, labels),
        reference_accuracy=_accuracy(ours, labels),
        max_abs=float(np.abs(ours - theirs).max()),
        sqnr_db=sqnr,
        agreement=agree,
        precision=manifest.precision,
        failures=(*failures, *_silent_floats(folder, model)),
    )


def audit(folder: Path) -> PrecisionReport:
    """What precision an artifact's layers really have, found out in a fresh process."""
    with Worker(folder) as worker:
        return TypeAdapter(PrecisionReport).validate_python(worker.audit())


def sample_images(images: Data | None, preprocessing: Preprocessing, count: int) -> Array:
    """So many preprocessed test images ``[n, 3, h, w]``; seeded noise where there is no data."""
    batches = (batch for batch, _ in _batches(images, preprocessing, count, count))
    return next(batches)


def _logits(
    folder: Path, model: nn.Module, images: Data | None, batch: int
) -> tuple[Array, Array, list[int], tuple[Array, Array]]:
    """Logits of eager PyTorch and of the artifact, the labels; what the first image alone should give, and gives."""
    preprocessing = models.spec_of(model).preprocessing
    ours, theirs = [], []
    labels: list[int] = []
    alone: Array | None = None
    classifies = models.spec_of(model).output == "logits"
    count = len(images.test) if images else NOISE_IMAGES if classifies else NOISE_MAPS
    with Worker(folder) as worker:
        steps = _batches(images, preprocessing, batch, count)
        for inputs, targets in progress.track(steps, f"verify {folder.name}", -(-count // batch)):
            if alone is None:
                first = inputs[:1].copy()
                alone = worker.run(first)
            theirs.append(worker.run(inputs))
            ours.append(models.predict(model, [torch.from_numpy(inputs)]).numpy())
            labels.extend(targets if classifies else ())
    assert alone is not None
    expected = models.predict(model, [torch.from_numpy(first)]).numpy() if _has_own_ranges(model) else theirs[0][:1]
    return np.concatenate(ours), np.concatenate(theirs), labels, (expected, alone)


def _has_own_ranges(model: nn.Module) -> bool:
    """Whether the images of a batch share ranges that are found at run time, so that neighbours change an answer."""
    return any(site.dynamic for site in fakequant.sites_of(model))


def _silent_floats(folder: Path, model: nn.Module) -> list[str]:
    """A sentence if layers that are INT8 in the model run in something else in the runtime."""
    wanted = _integer_layers(model)
    if not wanted:
        return []
    built = {layer.layer: layer.precision for layer in audit(folder).layers}
    silent = sorted(name for name in wanted if built.get(name) != "int8")
    if not silent:
        return []
    return [f"{len(silent)} of {len(wanted)} layers should run in INT8 and don't, the first of them {silent[0]}."]


def _integer_layers(model: nn.Module) -> set[str]:
    """The layers that multiply INT8 by INT8; no runtime here multiplies INT4, and weight-only layers are float."""
    if not fakequant.sites_of(model):
        return set()
    assert isinstance(model, fx.GraphModule)
    layers = {node: node.args[:2] for node in model.graph.nodes if graph.op_of(node) in ("conv", "linear")}
    found = {node: [fakequant.quantizer_behind(model, source) for source in pair] for node, pair in layers.items()}
    return {graph.name_of(node) for node, (x, w) in found.items() if x and w and w.site.dtype != "int4"}


def _batches(
    images: Data | None, preprocessing: Preprocessing, batch: int, count: int
) -> Iterator[tuple[Array, list[int]]]:
    if images is None:
        side = preprocessing.crop
        noise = np.random.default_rng(0).standard_normal((count, 3, side, side), dtype=np.float32)
        for start in range(0, count, batch):
            yield noise[start : start + batch], []
        return
    for pixels, labels in data.batches(images.test, preprocessing, batch, count):
        yield pixels.numpy(), labels.tolist()


def _agreement(model: nn.Module, ours: Array, theirs: Array) -> Proportion:
    return metrics.agreement(ours, theirs) if models.spec_of(model).output == "logits" else Proportion(0, 0)


def _accuracy(logits: Array, labels: list[int]) -> Proportion | None:
    return metrics.top1(logits, np.asarray(labels)) if labels else None
