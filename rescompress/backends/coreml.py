"""Core ML on Apple's devices: an ML program in FP16, with INT8 by our scales; off macOS an interpreter runs it."""

import json
import platform
from dataclasses import asdict
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rescompress.artifact import Artifact
from rescompress.backends import Images
from rescompress.errors import InputRefused, RecipeError
from rescompress.schemes import COREML
from rescompress.spec import ModelSpec, PrecisionReport, Rung

if TYPE_CHECKING:
    from torch import nn

    from rescompress.backends._coreml_session import CoremlSession
    from rescompress.sites import Site

SCHEME = COREML
PACKAGE = "model.mlpackage"
ENTRY = f"{PACKAGE}/Manifest.json"
REQUIREMENT = "rescompress[coreml]"
PACKAGES = ("coremltools",)
System = Literal["iOS15", "iOS16", "iOS17", "iOS18", "iOS26"]
_ORDER = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26")


def missing() -> str | None:
    """The pip requirement that is not installed here, or None."""
    absent = [package for package in PACKAGES if util.find_spec(package) is None]
    return REQUIREMENT if absent else None


def rung() -> tuple[Rung, str]:
    """The highest rung that an artifact can climb on this machine, and what hinders more."""
    if platform.system() == "Darwin":
        return "L3", ""
    return "L2", (
        "Core ML predicts on macOS only; an interpreter of the saved program stands in, which says nothing about the "
        "Neural Engine."
    )


def versions() -> dict[str, str]:
    """Releases of the packages that make and run the artifact."""
    return {package: metadata.version(package) for package in PACKAGES}


def export(
    model: "nn.Module",
    spec: ModelSpec,
    folder: Path,
    *,
    floats: Literal["fp32", "fp16"] = "fp16",
    preprocess: bool = False,
    softmax: bool = False,
    labels: tuple[str, ...] = (),
    batch: Annotated[int, Field(ge=1)] | None = None,
    weights: Literal["kept", "int8", "palette6", "palette4"] = "kept",
    minimum_deployment_target: System | None = None,
    author: str = "",
    license: str = "",
    description: str = "",
    version: str = "",
) -> str:
    """Write ``model.mlpackage``: an ML program whose integers have the scales that the model was quantized with.

    Args:
        model: float or quantized.
        spec: the model's.
        folder: an empty folder.
        floats: what is computed in where integers aren't; the Neural Engine computes in FP16 only.
        preprocess: the input is an RGB image, which the program scales and normalizes; one at a time.
        softmax: give probabilities instead of logits.
        labels: names of the classes: the program is a classifier, which needs softmax, and takes one image at a time.
        batch: images at a time; none leaves it free from 1 to 64.
        weights: kept as the model has them, or stored in INT8 per channel, or as indices into a palette of 64 or 16
            values a layer.
        minimum_deployment_target: the oldest system that it must run on, macOS of the same year included; none takes
            iOS 17, or iOS 18 for weights of 4 bits.
        author: for the model's card.
        license: for the model's card.
        description: for the model's card.
        version: for the model's card.

    Raises:
        RecipeError: two knobs exclude each other, or the model needs a newer system.
        InputRefused: the model's ranges are found at run time, or coremltools can't convert it.
    """
    from rescompress import fakequant
    from rescompress.backends import _coreml_program, _coreml_write

    sites = fakequant.sites_of(model)
    count = _batch(batch, preprocess, labels)
    _check(spec, sites, softmax, labels, weights)
    program, names = _coreml_program.program_of(model, spec, count, preprocess=preprocess, softmax=softmax)
    outputs = _coreml_program.outputs_of(program, softmax)
    form = _coreml_write.Form(
        floats=floats,
        target=_target(minimum_deployment_target, sites, weights),
        batch=count,
        preprocess=preprocess,
        outputs=tuple(outputs.values()),
        labels=labels,
        weights=weights,
        card={"author": author, "license": license, "shortDescription": description, "versionString": version},
        metadata=_notes(spec, {**names, **{new: names[old] for old, new in outputs.items() if old in names}}),
    )
    _coreml_write.write(program, spec, form, folder / PACKAGE)
    return ENTRY


def load(artifact: Artifact, *, threads: int) -> "CoremlSession":
    """Load an artifact: in Core ML on macOS, elsewhere in the interpreter on so many threads."""
    from rescompress.backends._coreml_session import CoremlSession

    return CoremlSession(artifact.entry.parent, threads)


def audit(artifact: Artifact) -> PrecisionReport:
    """Precision of each convolution, linear layer, add and pool, read off the saved program."""
    from rescompress.backends import _coreml_audit

    return _coreml_audit.report(artifact.entry.parent)


def written_layers(artifact: Artifact, images: Images) -> dict[str, NDArray[np.float32]]:
    """Values that the saved program computes, by their names in the network, op by op in the interpreter."""
    from rescompress.backends import _coreml_layers

    return _coreml_layers.written(artifact.entry.parent, images)


def _batch(batch: int | None, preprocess: bool, labels: tuple[str, ...]) -> int | None:
    if not preprocess and not labels:
        return batch
    if batch not in (None, 1):
        raise RecipeError(
            f"Core ML takes images, and classifies, one at a time, not {batch}.", "Leave batch out, or set it to 1."
        )
    return 1


def _check(spec: ModelSpec, sites: "tuple[Site, ...]", softmax: bool, labels: tuple[str, ...], weights: str) -> None:
    """Refuse knobs that exclude each other, and models that Core ML has no words for."""
    if softmax and (spec.output != "logits" or not spec.classes):
        raise RecipeError("softmax needs logits, but the network has no classifier.", "Leave softmax out.")
    if labels and not softmax:
        raise RecipeError("A Core ML classifier gives a probability to each label.", "Set softmax too.")
    if labels and (len(labels) != spec.classes or len(set(labels)) != len(labels)):
        raise RecipeError(
            f"{len(set(labels))} different labels were given for {spec.classes} classes.", "Name each class once."
        )
    if weights != "kept" and sites:
        raise RecipeError(
            f"The model's weights are integers already, so they can't be stored as {weights}.", "Leave weights out."
        )
    if any(site.dynamic for site in sites):
        raise InputRefused(
            "Core ML has no ranges that are found at run time.", "Quantize with int8, or export to onnx."
        )


def _target(asked: System | None, sites: "tuple[Site, ...]", weights: str) -> System:
    """The oldest system that has what the model needs: constants in integers, activations in INT8, weights in INT4."""
    needs: System = "iOS15"
    if sites or weights != "kept":
        needs = "iOS16"
    if any(not site.is_weight for site in sites):
        needs = "iOS17"
    if any(site.dtype == "int4" for site in sites):
        needs = "iOS18"
    if asked is None:
        return max(needs, "iOS17", key=_ORDER.index)
    if _ORDER.index(asked) < _ORDER.index(needs):
        raise RecipeError(
            f"What the model is quantized to needs {needs}, but minimum_deployment_target is {asked}.",
            f"Set minimum_deployment_target to {needs}, or leave it out.",
        )
    return asked


def _notes(spec: ModelSpec, names: dict[str, str]) -> dict[str, str]:
    """What the card tells beside its own fields."""
    from rescompress.backends._coreml_write import LAYERS

    shown = {"model": spec, "version": metadata.version("rescompress"), **asdict(spec.preprocessing)}
    return {
        **{f"rescompress.{key}": str(value) for key, value in shown.items()},
        LAYERS: json.dumps(names, sort_keys=True),
    }
