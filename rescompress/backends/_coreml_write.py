"""A program as a saved ``.mlpackage`` whose bytes depend on nothing but the model and the knobs."""

import contextlib
import gc
import hashlib
import io
import json
import logging
import shutil
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from rescompress.backends._coreml_program import BATCHES
from rescompress.errors import InputRefused
from rescompress.spec import ModelSpec

INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
MODEL, WEIGHTS = "com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"
LAYERS = "rescompress.layers"
"""Metadata that gives the layers' names in the network for those in the program, which may hold no dots."""
_BITS = {"palette6": 6, "palette4": 4}
_DATE = "com.github.apple.coremltools.conversion_date"


@dataclass(frozen=True)
class Form:
    """What a program is written as.

    Attributes:
        floats: ``fp32`` or ``fp16``.
        target: the oldest system that it must run on, as coremltools names it.
        batch: images at a time; None where it is free.
        preprocess: the input is an image.
        outputs: their names.
        labels: names of the classes, where it says which class it sees.
        weights: ``kept``, or what they are compressed to.
        card: author, license, shortDescription and versionString of the model's card.
        metadata: more of the card, by name.
    """

    floats: str
    target: str
    batch: int | None
    preprocess: bool
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    weights: str
    card: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def write(program: ExportedProgram, spec: ModelSpec, form: Form, package: Path) -> None:
    """Convert a program and save it.

    Args:
        program: as ``_coreml_program.program_of`` makes it.
        spec: the model's.
        form: what it is written as.
        package: the folder to make.

    Raises:
        InputRefused: coremltools can't convert the program.
    """
    failure = ""
    with quietly():
        try:
            card = _save(program, spec, form, package)
        except Exception as error:  # converters raise whatever their ops raise
            failure = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        gc.collect()  # programs are full of cycles, and their weights lie in temporary folders
        if failure:
            raise InputRefused(f"coremltools can't convert the model: {failure}.", "Export to onnx.")
        _settle(card, form, package)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence coremltools: it logs which of its parts are missing off macOS, warns of newer releases and draws bars."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _converted(program: ExportedProgram, spec: ModelSpec, form: Form) -> Any:
    import coremltools as ct
    import numpy as np

    if form.preprocess:
        taken = ct.ImageType(INPUT, (1, *spec.input_shape), scale=1 / 255, color_layout=ct.colorlayout.RGB)
    else:
        count = form.batch or ct.RangeDim(1, BATCHES, default=1)
        taken = ct.TensorType(INPUT, (count, *spec.input_shape), dtype=np.float32)
    return ct.convert(
        program,
        convert_to="mlprogram",
        inputs=[taken],
        outputs=[ct.TensorType(name, dtype=np.float32) for name in form.outputs],
        classifier_config=ct.ClassifierConfig(list(form.labels)) if form.labels else None,
        compute_precision={"fp16": ct.precision.FLOAT16, "fp32": ct.precision.FLOAT32}[form.floats],
        minimum_deployment_target=ct.target[form.target],
        skip_model_load=True,
    )


def _save(program: ExportedProgram, spec: ModelSpec, form: Form, package: Path) -> Any:
    """Save the package as coremltools does, and give back its specification."""
    model = _compressed(_converted(program, spec, form), form.weights)
    model.save(str(package))
    return model.get_spec()


def _compressed(model: Any, weights: str) -> Any:
    """The model with all weights of more than one dimension as integers, or as indices into palettes."""
    if weights == "kept":
        return model
    from coremltools.optimize import coreml as optimize

    if weights == "int8":
        config = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=0
        )
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=config))
    palette = optimize.OpPalettizerConfig(mode="kmeans", nbits=_BITS[weights], weight_threshold=0)
    return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palette))


def _settle(spec: Any, form: Form, package: Path) -> None:
    """Complete the card, and replace what differs from run to run: dates, random identifiers, the order of maps."""
    card = spec.description.metadata
    for name, value in form.card.items():
        setattr(card, name, value)
    card.userDefined.pop(_DATE, None)
    card.userDefined.update(form.metadata)
    data = package / "Data"
    (data / MODEL).write_bytes(spec.SerializeToString(deterministic=True))
    for path in package.iterdir():
        if path != data:  # a map for ExecuTorch's debugger, and a manifest with random identifiers
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    items = {
        _identifier(data / MODEL): ("CoreML Model Specification", MODEL),
        _identifier(*sorted((data / WEIGHTS).iterdir())): ("CoreML Model Weights", WEIGHTS),
    }
    entries = {
        identifier: {"author": "com.apple.CoreML", "description": said, "name": Path(path).name, "path": path}
        for identifier, (said, path) in items.items()
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": next(iter(items))}
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n", "utf-8")
    for path in package.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _identifier(*files: Path) -> str:
    """A UUID made of files' contents."""
    h = hashlib.sha256()
    for file in files:
        h.update(file.name.encode() + file.read_bytes())
    return str(uuid.UUID(bytes=h.digest()[:16], version=4))
