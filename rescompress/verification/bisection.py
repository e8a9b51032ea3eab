"""The first layer of an artifact that computes something else, in the file or in what the runtime makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from rescompress.agreement import LayerAgreement
from rescompress.artifact import Manifest
from rescompress.errors import RescompressError
from rescompress.verification.inputs import Shown
from rescompress.verification.layers import compare
from rescompress.verification.thresholds import layer_db
from rescompress.worker import Worker

PIXELS, MOST_IMAGES = 2**16, 8
"""All values inside a network are held at once, some hundred times the image."""


@dataclass(frozen=True)
class Findings:
    """What a look inside showed; the fields are those of ``Evidence``."""

    layers: tuple[LayerAgreement, ...] = ()
    layers_of: str = ""
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def look(worker: Worker, manifest: Manifest, model: nn.Module, first: Shown, of: Sequence[str]) -> Findings:
    """Compare layer by layer what an artifact computes inside, first as its file says, then as its runtime does.

    Args:
        worker: a process that holds the artifact.
        manifest: the artifact's.
        model: the model that was exported.
        first: images to do it on; a few of them are used, or as many as the artifact always takes.
        of: what the backend can show, of ``file`` and ``runtime``.
    """
    if manifest.rounds_weights:
        return Findings(notes=("Exporting rounded its weights, so it isn't compared layer by layer.",))
    if not of:
        return Findings(notes=(f"{manifest.backend} doesn't show what it computes inside, so no layer is named.",))
    side = manifest.model.preprocessing.crop
    count = manifest.knobs.get("batch") or max(1, min(MOST_IMAGES, PIXELS // side**2))
    if count > len(first.labels):
        return Findings(notes=(f"It takes {count} images at once, more than there are, so no layer is named.",))
    found = Findings()
    for source in ("file", "runtime"):
        if source not in of:
            continue
        try:
            values = worker.layers(first.taken[:count], source)
        except RescompressError as error:
            return Findings(notes=(f"No layer is named: {error.fact}",))
        least_db, given = partial(layer_db, manifest=manifest, of=source), manifest.gives_probabilities
        layers = compare(model, first.normalized[:count], values, least_db, probabilities=given)
        found = Findings(layers, source, _failures(layers, source == "runtime" and "file" in of))
        if found.failures:
            return found
    return found


def _failures(layers: Sequence[LayerAgreement], file_is_right: bool) -> tuple[str, ...]:
    """A sentence that names the first layer that departs."""
    first = next((layer for layer in layers if layer.departs), None)
    if first is None:
        return ()
    seen = f", seen at {first.seen_at}" if first.seen_at != first.layer else ""
    where = "The file is right, but in its runtime" if file_is_right else "Layer by layer,"
    return (
        f"{where} {first.layer} is the first to compute something else: {first.own_db:.1f} dB on its own inputs, below "
        f"{first.least_db:g} dB{seen}.",
    )
