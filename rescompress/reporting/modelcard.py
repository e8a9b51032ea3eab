"""A model card as Hugging Face lays it out: metadata in YAML, then facts of this run and nothing else."""

from collections.abc import Iterator
from typing import Any

import yaml

from rescompress.reporting import footnotes, snippets, tables, verdict, wording
from rescompress.reporting.markdown import escaped, fenced, grid
from rescompress.reporting.tables import Cell, Kind, Table
from rescompress.reporting.verdict import Candidate
from rescompress.spec import RunReport

LIBRARIES = {"onnxruntime": "onnx", "inductor": "pytorch", "eager": "pytorch"}
"""What the hub calls the library that loads an artifact, where it isn't called as its backend."""
HUB = "hf://"


def render(report: RunReport) -> str:
    """The whole card; what the run doesn't know is left out."""
    front = yaml.safe_dump(metadata(report), sort_keys=False, allow_unicode=True, width=120)
    sections = [
        f"# {escaped(report.name)}",
        _what(report),
        "## How it was made",
        *_made(report),
        "## Results",
        *_results(report),
        "## Intended use and limits",
        *_use(report),
        "## How to run it",
        *_running(report),
        "## Environment",
        "\n".join(f"- {name}: {escaped(value)}" for name, value in footnotes.machine(report.environment)),
        "## Reproduce",
        fenced(report.command),
        fenced(report.recipe_yaml.rstrip("\n"), "yaml"),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def metadata(report: RunReport) -> dict[str, Any]:
    """The card's front matter: only what the run knows.

    Source:
        https://huggingface.co/docs/hub/model-cards#model-card-metadata
    """
    rows, recipe = verdict.candidates(report), _recipe(report)
    measured = [row for row in rows if row.artifact.verification.accuracy]
    licences = {str(row.artifact.knobs["license"]) for row in rows if row.artifact.knobs.get("license")}
    model = recipe.get("model")
    checkpoint = str(model.get("checkpoint") if isinstance(model, dict) else model)
    found: dict[str, Any] = {
        "library_name": LIBRARIES.get(rows[-1].artifact.backend, rows[-1].artifact.backend) if rows else None,
        "license": licences.pop() if len(licences) == 1 else None,
        "pipeline_tag": _task(report),
        "tags": _tags(report),
        "base_model": checkpoint.removeprefix(HUB) if checkpoint.startswith(HUB) else None,
        "datasets": [report.data] if report.data else None,
        "metrics": ["accuracy"] if measured else None,
        "model-index": [_index(report, measured)] if measured else None,
    }
    return {name: value for name, value in found.items() if value}


def _task(report: RunReport) -> str:
    return "image-feature-extraction" if report.spec and report.spec.output == "maps" else "image-classification"


def _tags(report: RunReport) -> list[str]:
    integers = {row.verification.precision for row in report.artifacts} - {"fp32"}
    stages = [row.stage for row in report.stages[1:]]
    return list(dict.fromkeys(["rescompress", "resnet", *stages, *sorted(integers), *_backends(report)]))


def _backends(report: RunReport) -> list[str]:
    return list(dict.fromkeys(row.backend for row in report.artifacts))


def _index(report: RunReport, measured: list[Candidate]) -> dict[str, Any]:
    """Top-1 of every artifact on the test split, as a share."""
    metrics = [
        {
            "type": "accuracy",
            "value": round(row.artifact.verification.accuracy.percent / 100, 6),
            "name": f"top-1 of {row.artifact.label} in {row.artifact.backend}",
        }
        for row in measured
        if row.artifact.verification.accuracy
    ]
    dataset = {"name": report.data or "", "type": report.data or "", "split": "test"}
    task = {"type": _task(report), "name": "Image classification"}
    return {"name": report.name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}


def _recipe(report: RunReport) -> dict[str, Any]:
    content = yaml.safe_load(report.recipe_yaml)
    return content if isinstance(content, dict) else {}


def _what(report: RunReport) -> str:
    chain = " → ".join(row.stage for row in report.stages)
    data = f" Accuracy was measured on the test split of {escaped(report.data)}." if report.data else ""
    return (
        f"{escaped(report.model)}, made smaller and faster by rescompress {escaped(report.tool_version)}: "
        f"{escaped(chain)}.{data} {escaped(verdict.headline(report))}"
    )


def _made(report: RunReport) -> Iterator[str]:
    rows = tuple(
        (
            Cell(stage.label),
            Cell(wording.count(stage.cost.params)),
            Cell(wording.count(stage.cost.macs)),
            _accuracy(stage.accuracy),
        )
        for stage in report.stages
    )
    yield "Stage after stage; what each was told stands in the recipe below."
    yield grid(Table(("Stage", "Parameters", "MACs", "Accuracy in eager PyTorch"), rows))
    if notes := tables.notes(report):
        yield "\n".join(f"- {escaped(note)}" for note in notes)


def _results(report: RunReport) -> Iterator[str]:
    rows = verdict.candidates(report)
    if not rows:
        yield "No artifact was exported."
        return
    columns = ("Artifact", "Runtime", "Integers", "Accuracy", "Rung", "File", "p50", "Latency ratio")
    yield grid(Table(columns, tuple(_row(report, row) for row in rows)))
    rungs = dict.fromkeys(verdict.rung(row) for row in rows)
    yield " ".join(f"{rung}: {wording.RUNGS[rung]}." for rung in rungs)
    if report.benchmark:
        reasons = " ".join(map(escaped, report.benchmark.reasons))
        yield f"The timing is {report.benchmark.verdict}. {reasons}".strip()
    yield "\n".join(f"- {escaped(sentence)}" for sentence in footnotes.meanings(report))


def _row(report: RunReport, row: Candidate) -> tuple[Cell, ...]:
    found, timed = row.artifact.verification, row.latency
    kind: Kind = "void" if report.benchmark and report.benchmark.verdict == "INVALID" else ""
    floats = "" if found.floats == "fp32" else f"else {found.floats.upper()}"
    p50, ratio = Cell("not timed"), Cell("not timed")
    if timed:
        middle = wording.interval(timed.p50_ms, timed.p50_low_ms, timed.p50_high_ms)
        p50 = Cell(f"{wording.real(timed.p50_ms)} ms", middle, kind)
        ends = wording.interval(timed.ratio, timed.ratio_low, timed.ratio_high)
        ratio = Cell(wording.real(timed.ratio), ends, kind)
    return (
        Cell(row.artifact.label),
        Cell(row.artifact.backend),
        Cell(wording.INTEGERS[found.precision], floats),
        _accuracy(found.accuracy),
        Cell(verdict.rung(row)),
        Cell(wording.size(row.artifact.size_bytes)),
        p50,
        ratio,
    )


def _accuracy(found: Any) -> Cell:
    return Cell(wording.percent(found), wording.percent_interval(found))


def _use(report: RunReport) -> Iterator[str]:
    classes = report.spec.classes if report.spec else 0
    of = f" into {classes} classes" if classes else ""
    like = f" of images like those of {escaped(report.data)}" if report.data else ""
    task = "Feature maps" if _task(report) == "image-feature-extraction" else "Classification"
    yield f"{task}{like}{of}. Nothing is known of other images, of other tasks, or of who may be harmed by a mistake."
    said = list(footnotes.limits(report))
    for row in verdict.candidates(report):
        found, name = row.artifact.verification, f"{row.artifact.label} in {row.artifact.backend}"
        said += [f"{name} failed: {failure}" for failure in found.failures]
        worst = found.evidence.worst_class
        if worst and worst.points > 0:
            said.append(
                f"{name} loses most in the class {worst.name}: {worst.points:.1f} points of {worst.images} images."
            )
    said += [row.fact for row in report.rules if row.outcome == "broken"]
    yield "\n".join(f"- {escaped(sentence)}" for sentence in dict.fromkeys(said))


def _running(report: RunReport) -> Iterator[str]:
    rows = verdict.candidates(report)
    if report.spec is None:
        yield "This report doesn't tell how images are prepared; run the recipe again with this release."
        return
    how, normalized = (
        report.spec.preprocessing,
        not rows or not all(snippets.takes_pixels(row.artifact) for row in rows),
    )
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (how.mean, how.std))
    yield (
        f"An image is decoded to RGB, its shorter side is resized to {how.resize} pixels (bilinear, antialiased), its "
        f"centre is cropped to {how.crop} {wording.TIMES} {how.crop}, and its values are divided by 255, less the mean "
        f"({mean}), over the standard deviation ({std})."
    )
    yield fenced(snippets.prepare(how, normalized=normalized), "python")
    for row in rows:
        yield f"### {escaped(row.artifact.label)} in {escaped(row.artifact.backend)}"
        if snippets.takes_pixels(row.artifact):
            yield "It takes pixels, and scales and normalizes them by itself."
        yield fenced(snippets.run(row.artifact), "python")
