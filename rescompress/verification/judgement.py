"""What is wrong with an artifact, and what a person should know about one that isn't, in sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from rescompress import metrics
from rescompress.agreement import McNemar
from rescompress.artifact import Manifest
from rescompress.spec import Rung, VerificationRow
from rescompress.verification.answers import Answers

CHANCE = 0.05
"""A split less likely than this by chance alone is worth a note."""
PROVEN: Rung = "L2"
"""The highest rung that running without a clock can prove."""


def crossed(row: VerificationRow, answers: Answers, manifest: Manifest) -> Iterator[str]:
    """The thresholds that an artifact's answers cross, a sentence each."""
    what = "probabilities" if manifest.gives_probabilities else "logits"
    limits = row.evidence
    if not np.isfinite(answers.ours).all():
        yield f"Some {what} of eager PyTorch itself are NaN or infinite."
    if not np.isfinite(answers.theirs).all():
        yield f"Some {what} are NaN or infinite."
    elif not row.sqnr_db >= limits.least_sqnr_db:
        yield f"The {what}' SQNR is {row.sqnr_db:.1f} dB, below {limits.least_sqnr_db:g} dB."
    share = row.agreement.percent
    if row.agreement and share < limits.least_agreement:
        yield f"Top-1 agrees with eager on {share:.2f} % of the images, below {limits.least_agreement:g} %."
    for size, (expected, given) in answers.few.items():
        if not metrics.sqnr_db(expected, given) >= limits.least_sqnr_db:
            alone = "An image alone gives" if size == 1 else f"{size} images at once give"
            like = (
                "eager PyTorch does"
                if answers.own_ranges
                else f"the same {'image' if size == 1 else 'ones'} in a batch"
            )
            yield f"{alone} other {what} than {like}."


def judged(row: VerificationRow, notes: Sequence[str], rung: Rung, hindrance: str) -> VerificationRow:
    """The row with the rung that it proves, and with its notes.

    Args:
        row: its failures are known.
        notes: sentences.
        rung: the highest that the backend can climb on this machine.
        hindrance: what hinders more; below L2 something stood in for the runtime.
    """
    stood_in = hindrance if rung < PROVEN else ""
    highest = min(rung, "L1" if row.failures else PROVEN)
    evidence = replace(row.evidence, stood_in=stood_in, notes=(*notes, *_split(row)))
    return replace(row, rung=highest, evidence=evidence)


def _split(row: VerificationRow) -> Iterator[str]:
    """What McNemar's test says where chance is no good explanation."""
    pairs = {"eager PyTorch": row.evidence.against_eager, "the baseline": row.evidence.against_baseline}
    for other, found in pairs.items():
        if isinstance(found, McNemar) and found.p < CHANCE:
            yield (
                f"Against {other} it loses {found.lost} images and wins {found.won}: p = {found.p:.2g} (McNemar), so "
                "more than chance."
            )
