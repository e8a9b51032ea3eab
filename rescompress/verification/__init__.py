"""Does the artifact compute what the model computes, and how accurate is it, in its own runtime and a fresh process?

``inputs`` says what an artifact is shown, ``answers`` gathers what both sides answer, ``layers`` looks inside,
``precision`` reads the audit, ``thresholds`` says how near is near enough, and ``judgement`` says it in sentences.
"""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from torch import nn

from rescompress import metrics, verified
from rescompress.agreement import Evidence, Proportion
from rescompress.artifact import Artifact, Manifest, open_artifact
from rescompress.data import Data
from rescompress.errors import InputRefused
from rescompress.knobs import checked
from rescompress.spec import PrecisionReport, VerificationRow
from rescompress.verification import thresholds
from rescompress.verification.answers import Answers, Array, classes_named, gather
from rescompress.verification.bisection import Findings, look
from rescompress.verification.inputs import sample_images
from rescompress.verification.judgement import crossed, judged
from rescompress.verification.precision import departures
from rescompress.verification.thresholds import LEAST_AGREEMENT, LEAST_SQNR_DB, Percent, SqnrDb
from rescompress.worker import Worker

__all__ = ["LEAST_AGREEMENT", "LEAST_SQNR_DB", "audit", "sample_images", "verify"]
ENOUGH_IMAGES = 20
"""Fewer images of a class say nothing about it: one of twenty is five points."""


@checked
def verify(
    folder: Path,
    model: nn.Module,
    images: Data | None,
    baseline: Path | nn.Module | None = None,
    *,
    min_sqnr_db: SqnrDb = LEAST_SQNR_DB,
    min_agreement: Percent = LEAST_AGREEMENT,
    batch: Annotated[int, Field(ge=1)] = 64,
    bisect: bool = True,
) -> VerificationRow:
    """Run an artifact in a fresh process and compare it with the same model in eager PyTorch.

    Its first answers are kept in ``verified.json`` beside the manifest, so that a benchmark can compare with them what
    it times.

    Args:
        folder: the artifact.
        model: the model that was exported.
        images: labelled images; without them seeded noise is compared, and there is no accuracy.
        baseline: an artifact, or a model to run in eager, with which accuracy is compared image by image.
        min_sqnr_db: least signal to noise ratio of the logits, in dB, for all artifacts or by what they compute in;
            where the model's own noise is larger than a default allows, 6 dB below that noise.
        min_agreement: least share of images, in percent, on which both name the same class, likewise.
        batch: images per call of the runtime.
        bisect: compare layer by layer too, and name the first one whose output departs, where the runtime can show
            what it computes inside.

    Raises:
        InputRefused: the artifact was changed since it was exported, or belongs to another model.
        WorkerCrashed: the runtime died.
    """
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    with Worker(folder) as worker:
        about = worker.about()
        answers = gather(worker, manifest, model, images, batch, folder.name)
        report = TypeAdapter(PrecisionReport).validate_python(worker.audit())
        inside = look(worker, manifest, model, answers.first, about["layers"]) if bisect else Findings()
    _keep(artifact, answers, images)
    wrong, noted = departures(model, manifest, report, has_integers=about["has_integers"])
    evidence = Evidence(
        least_sqnr_db=thresholds.sqnr_db(min_sqnr_db, manifest, answers.self_noise_db),
        least_agreement=thresholds.agreement(min_agreement, manifest, answers.self_agreement),
        self_noise_db=answers.self_noise_db,
        sizes=answers.sizes,
        layers=inside.layers,
        layers_of=inside.layers_of,
    )
    row = _row(manifest, answers, images, _by_label(evidence, answers, images, baseline, batch))
    row = replace(row, failures=(*crossed(row, answers, manifest), *inside.failures, *wrong))
    return judged(row, (*inside.notes, *noted), about["rung"], about["hindrance"])


def audit(folder: Path) -> PrecisionReport:
    """What precision an artifact's layers really have, found out in a fresh process."""
    with Worker(folder) as worker:
        return TypeAdapter(PrecisionReport).validate_python(worker.audit())


def _keep(artifact: Artifact, answers: Answers, images: Data | None) -> None:
    """Leave the first answers beside the manifest, where a benchmark looks for them; a folder may be read-only."""
    theirs = answers.theirs[: verified.IMAGES]
    with contextlib.suppress(InputRefused):
        shown = sample_images(images, artifact.manifest, len(theirs))
        verified.keep(artifact, shown, theirs, alone=not answers.own_ranges)


def _row(manifest: Manifest, answers: Answers, images: Data | None, evidence: Evidence) -> VerificationRow:
    """What the answers tell, not yet judged."""
    right, reference = _right(answers.theirs, answers.labels), _right(answers.ours, answers.labels)
    return VerificationRow(
        label=manifest.label,
        backend=manifest.backend,
        inputs="test split" if images else "noise",
        accuracy=_proportion(right),
        reference_accuracy=_proportion(reference),
        max_abs=float(np.abs(answers.ours - answers.theirs).max()),
        sqnr_db=metrics.sqnr_db(answers.ours, answers.theirs),
        agreement=metrics.agreement(answers.ours, answers.theirs) if answers.self_agreement else Proportion(0, 0),
        precision=manifest.precision,
        failures=(),
        floats=manifest.floats,
        evidence=evidence,
    )


def _by_label(
    evidence: Evidence, answers: Answers, images: Data | None, baseline: Path | nn.Module | None, batch: int
) -> Evidence:
    """The evidence with what labels tell: image by image and class by class, against the baseline if there is one."""
    labels = answers.labels
    right, reference = _right(answers.theirs, labels), _right(answers.ours, labels)
    if images is None or labels is None or right is None or reference is None:
        return evidence
    evidence = replace(evidence, against_eager=metrics.mcnemar(reference, right))
    if baseline is not None:
        reference = classes_named(baseline, images, batch) == labels
        evidence = replace(evidence, against_baseline=metrics.mcnemar(reference, right))
    return replace(evidence, worst_class=metrics.worst_class(reference, right, labels, images.classes, ENOUGH_IMAGES))


def _right(answers: Array, labels: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
    return None if labels is None else answers.argmax(1) == labels


def _proportion(right: NDArray[np.bool_] | None) -> Proportion | None:
    return None if right is None else Proportion(int(right.sum()), len(right))
