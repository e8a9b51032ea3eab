"""Export each stage, read off its real precision, compare it with eager PyTorch, and time all of them together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from rescompress import __version__, artifact, backends, cost, fakequant, knobs, models, progress
from rescompress.artifact import MANIFEST, SCHEMA, Artifact, Manifest, digest, open_artifact
from rescompress.benchmarking import benchmark, machine
from rescompress.data import Data
from rescompress.errors import InputRefused, RescompressError
from rescompress.pipeline.branches import of_target
from rescompress.pipeline.folder import RunFolder
from rescompress.pipeline.stages import load_stage
from rescompress.recipe import Recipe
from rescompress.sites import precision_of
from rescompress.spec import ArtifactRow, BenchmarkRow, Environment, StageRow
from rescompress.verification import audit, sample_images, verify

RING = 64
RAW = "latency-ns.json"


def prove(
    job: Recipe, folder: RunFolder, stages: Sequence[StageRow], opened: Data | None
) -> tuple[tuple[ArtifactRow, ...], tuple[str, ...]]:
    """Export, audit and verify the recipe's stages for each of its targets.

    Returns:
        The rows, and a sentence for each target that failed with an expected error.
    """
    rows, failed = [], []
    for target in job.export:
        name, filled = knobs.only_item(target)
        own = of_target(stages, name)
        chosen = own if job.prove == "all" else (own[0], *own[1:][-1:])
        try:
            first: Path | None = None
            for stage in chosen:
                rows.append(_prove_one(job, folder, stage, name, filled, opened, first))
                first = first or folder.path / rows[-1].folder
        except RescompressError as error:
            failed.append(f"{name} failed: {error.fact}")
            progress.note(failed[-1])
    return tuple(rows), tuple(failed)


def export_artifact(
    model: nn.Module,
    backend: str,
    filled: dict[str, Any],
    folder: Path,
    *,
    label: str,
    source: str,
    source_sha256: str,
    key: str,
    recipe: str = "",
) -> Artifact:
    """Let a backend write a model's artifact, with a manifest beside it, atomically.

    Where the format has a place for it, the file itself says which recipe and checkpoint it came from.
    """
    spec = models.spec_of(model)

    notes: list[str] = []
    given = {**filled, **_origin(backend, filled, {"recipe": recipe, "source_sha256": source_sha256})}

    def fill(empty: Path) -> str:
        with progress.gathered() as said:
            entry = backends.require(backend).export(model, spec, empty, **given)
        notes.extend(said)
        return entry

    def describe(entry: str, files: dict[str, str]) -> Manifest:
        precision = precision_of(fakequant.sites_of(model))
        known = (SCHEMA, __version__, backend, label, precision, entry, files, spec, source, source_sha256, key)
        return Manifest(*known, knobs.plain(filled), tuple(notes), cost.layer_costs(model))

    return artifact.write_artifact(folder, fill, describe)


def time(
    job: Recipe, folder: RunFolder, rows: Sequence[ArtifactRow], opened: Data | None, environment: Environment
) -> BenchmarkRow | None:
    """Time all artifacts that run on this machine's own device, interleaved; None where there is nothing to time."""
    rows = [row for row in rows if row.highest == "L3"]
    if job.benchmark is False or not rows:
        return None
    key = digest([[row.sha256 for row in rows], job.benchmark, machine.fingerprint(environment)])
    found = folder.row("benchmark", key, BenchmarkRow)
    if found is not None:
        return found
    folders = [folder.path / row.folder for row in rows]
    rings = [sample_images(opened, open_artifact(place).manifest, RING) for place in folders]
    asked = job.benchmark
    if asked["profile"] is None:
        asked = {**asked, "profile": asked["scenario"] == "interleaved" and not asked["device"]}
    row, raw = benchmark(folders, rings, **asked)
    artifact.write_bytes(folder.rows / RAW, artifact.to_json(raw))
    row = replace(row, raw=f"rows/{RAW}")
    folder.keep_row("benchmark", key, row)
    return row


def _prove_one(
    job: Recipe,
    folder: RunFolder,
    stage: StageRow,
    backend: str,
    filled: dict[str, Any],
    opened: Data | None,
    baseline: Path | None,
) -> ArtifactRow:
    place = folder.artifacts / backend / stage.label
    rung = backends.get(backend).rung()
    built, model = _built(folder, stage, backend, filled, place)
    shown = [opened.fingerprint if opened else None, knobs.plain(job.verify)]
    row_key = digest([built.sha256, *shown, rung, open_artifact(baseline).sha256 if baseline else None])
    name = f"{backend}-{stage.label}"
    row = folder.row(name, row_key, ArtifactRow)
    if row is None:
        row = ArtifactRow(
            label=stage.label,
            backend=backend,
            folder=str(place.relative_to(folder.path)),
            sha256=built.sha256,
            size_bytes=built.size_bytes,
            precision=audit(place),
            verification=verify(place, model or load_stage(folder, stage), opened, baseline, **job.verify),
            highest=rung[0],
            hindrance=rung[1],
            notes=built.manifest.notes,
            entry=built.manifest.entry,
            knobs=built.manifest.knobs,
        )
        folder.keep_row(name, row_key, row)
    return row


def _built(
    folder: RunFolder, stage: StageRow, backend: str, filled: dict[str, Any], place: Path
) -> tuple[Artifact, nn.Module | None]:
    """A stage's artifact, and the model if it had to be loaded for that."""
    key = digest([stage.sha256, backend, knobs.plain(filled), backends.get(backend).versions(), __version__])
    if built := _existing(place, key):
        return built, None
    progress.note(f"export {stage.label} to {backend}")
    source, model = f"../../../stages/{stage.checkpoint}", load_stage(folder, stage)
    known = {"label": stage.label, "source": source, "source_sha256": stage.sha256, "key": key, "recipe": stage.key}
    return export_artifact(model, backend, filled, place, **known), model


def _origin(backend: str, filled: dict[str, Any], origin: dict[str, str]) -> dict[str, Any]:
    """The ``metadata`` of a backend that takes any, with where the model came from, as far as it is known."""
    if "metadata" not in {knob.name for knob in knobs.knobs(backends.get(backend).export)}:
        return {}
    return {"metadata": {**{key: value for key, value in origin.items() if value}, **(filled.get("metadata") or {})}}


def _existing(place: Path, key: str) -> Artifact | None:
    if not (place / MANIFEST).exists():
        return None
    try:
        built = open_artifact(place)
    except InputRefused:
        return None
    return built if built.manifest.key == key else None
