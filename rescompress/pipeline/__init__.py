"""The story of one run: load, stages, export, audit, verify, gate, benchmark, report; each step resumable."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from rescompress import __version__, artifact, backends, data, knobs, processes, progress, recipe, reporting
from rescompress.artifact import Artifact
from rescompress.benchmarking import gate, machine, results, rules
from rescompress.context import fit_data
from rescompress.data import Data
from rescompress.errors import GateFailed, TargetsFailed
from rescompress.pipeline import branches, proof
from rescompress.pipeline.folder import RunFolder
from rescompress.pipeline.picture import picture
from rescompress.pipeline.stages import Origin, open_origin, run_stages
from rescompress.recipe import Recipe
from rescompress.reporting import sources
from rescompress.reporting.sources import Source
from rescompress.spec import REPORT_SCHEMA, ArtifactRow, GateRow, RuleRow, RunReport, StageRow

__all__ = ["export", "plan", "run"]

RUNS = Path("runs")


def run(
    job: Recipe | Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    overrides: Sequence[str] = (),
    command: str | None = None,
) -> RunReport:
    """Do one job from checkpoint to report; what an earlier run of the same job finished is not done again.

    Args:
        job: a recipe, checked or as plain values, its file, or the name of a shipped one.
        out: the run's folder; None means ``runs/NAME-DIGEST``.
        overrides: ``key.path=value`` each, set before the recipe is checked.
        command: how the user said it; shown in the report.

    Raises:
        GateFailed: the result is less accurate than the recipe allows, or computes something else. The artifacts stay.
        TargetsFailed: some targets could not be exported. The others stay.
        BenchmarkInvalid: a rule of ``fail_if`` is broken, or there is nothing to judge it by.
        RescompressError: whatever else is expected to go wrong.
    """
    if not isinstance(job, Recipe):
        job = recipe.parse(job, overrides) if isinstance(job, Mapping) else recipe.read(job, overrides)
    with processes.joined():
        return _run(job, out, command) if processes.is_main() else _follow(job, out)


def _run(job: Recipe, out: Path | str | None, command: str | None) -> RunReport:
    for target in job.export:
        backends.require(_only(target))
    origin = open_origin(job)
    opened = _open_data(job, origin)
    folder = _folder(job, out)
    before = sources.source(Path(job.baseline_file)) if job.baseline_file else None
    with folder.locked():
        processes.wait()
        text = yaml.safe_dump(job.filled(), sort_keys=False, allow_unicode=True)
        artifact.write_bytes(folder.path / "recipe.yaml", text.encode())
        environment = machine.environment()
        artifact.write_bytes(folder.path / "environment.json", artifact.to_json(environment))
        stages = run_stages(job, folder, origin, opened)
        artifacts, failed = proof.prove(job, folder, stages, opened)
        timed = proof.time(job, folder, artifacts, opened, environment)
        report = RunReport(
            schema=REPORT_SCHEMA,
            name=job.name,
            tool_version=__version__,
            model=str(origin.spec),
            data=opened.source if opened else None,
            command=command or f"rescompress run {folder.path / 'recipe.yaml'}",
            recipe_yaml=text,
            stages=stages,
            artifacts=artifacts,
            benchmark=timed,
            gate=_gate(job, stages, artifacts),
            environment=environment,
            network=picture(folder, stages, opened),
            spec=origin.spec,
        )
        report = replace(report, rules=_judge(job, report, before))
        reporting.write(report, folder.path)
    progress.note(f"report: {folder.path / 'report.html'}")
    processes.wait()
    _pass(report, folder.path, failed)
    return report


def plan(job: Recipe, out: Path | str | None = None) -> tuple[str, ...]:
    """What ``run`` would do, a line a step; nothing is loaded or written."""
    path = Path(out) if out else RUNS / f"{job.name}-{job.digest}"
    model = job.model.model_dump(exclude_defaults=True)
    lines = [f"folder: {path}", f"model: {_flow(model)}", f"data: {_flow(job.data)}"]
    lines += [f"stage {one.index}: {one.step.stage} {_flow(one.step.knobs)}" for one in branches.plan(job)]
    lines += [f"export: {_only(target)}, {job.prove} stages, each audited and verified" for target in job.export]
    if job.export and job.benchmark is not False:
        lines.append(f"benchmark: {_flow(job.benchmark)}")
    if job.max_accuracy_drop is not None:
        lines.append(f"gate: at most {job.max_accuracy_drop:g} points of top-1 lost")
    lines += [f"gate: not {rule}, against {job.baseline_file or 'the baseline'}" for rule in job.fail_if]
    return tuple(lines)


def export(model: nn.Module, to: str, out: Path | str, **knobs: object) -> Artifact:
    """Export one model for one runtime into a folder, atomically.

    Args:
        model: a model that carries its spec, float or quantized.
        to: a file format such as ``onnx``, or a runtime.
        out: the artifact's folder; what stood there is replaced.
        knobs: the backend's export knobs.

    Raises:
        BackendMissing: the runtime's packages are not installed.
        RecipeError: a knob is wrong.
    """
    backends.require(to)
    ((name, filled),) = recipe.target(to, knobs).items()
    return proof.export_artifact(model, name, filled, Path(out), label="model", source="", source_sha256="", key="")


def _folder(job: Recipe, out: Path | str | None) -> RunFolder:
    return RunFolder(Path(out) if out else RUNS / f"{job.name}-{job.digest}", job.name)


def _follow(job: Recipe, out: Path | str | None) -> RunReport:
    """Take part in the stages that are shared, and read what the main process reports. All see the same folder."""
    origin = open_origin(job)
    folder = _folder(job, out)
    processes.wait()
    run_stages(job, folder, origin, _open_data(job, origin))
    processes.wait()
    report = reporting.read(folder.path)
    _pass(report, folder.path, ())
    return report


def _open_data(job: Recipe, origin: Origin) -> Data | None:
    if job.data is None:
        return None
    ((source, filled),) = recipe.DATA.check(job.data).items()
    return fit_data(data.load(source, origin.spec.preprocessing, **filled), origin.spec)


def _gate(job: Recipe, stages: Sequence[StageRow], artifacts: Sequence[ArtifactRow]) -> GateRow | None:
    """Accuracy of the last stage against the baseline, in each runtime; in eager PyTorch if nothing was exported."""
    if job.max_accuracy_drop is None:
        return None
    pairs = [("eager PyTorch", stages[0].accuracy, stages[-1].accuracy)]
    if artifacts:
        last = {row.backend: row.verification.accuracy for row in artifacts}
        first = {row.backend: row.verification.accuracy for row in reversed(artifacts)}
        pairs = [(name, first[name], accuracy) for name, accuracy in last.items()]
    drops = {name: base.percent - final.percent for name, base, final in pairs if base and final}
    reasons = [
        f"{name} lost {drop:.2f} points of top-1; {job.max_accuracy_drop:g} are allowed."
        for name, drop in drops.items()
        if drop > job.max_accuracy_drop
    ]
    return GateRow(job.max_accuracy_drop, max(drops.values(), default=None), not reasons, tuple(reasons))


def _judge(job: Recipe, report: RunReport, before: Source | None) -> tuple[RuleRow, ...]:
    """What the recipe's rules find of each artifact."""
    asked, found = [rules.parse(text) for text in job.fail_if], results.of_report(report)
    return gate.judge(asked, found, before.results, before.name) if before else gate.judge(asked, found)


def _pass(report: RunReport, folder: Path, failed: Sequence[str]) -> None:
    """Turn what the report found wrong into the exit code that says so."""
    reasons = list(report.gate.reasons) if report.gate else []
    reasons += [f"{row.label}: {reason}" for row in report.artifacts for reason in row.verification.failures]
    if reasons:
        raise GateFailed(reasons[0], f"Everything is kept for study in {folder}; see report.html there.")
    if failed:
        raise TargetsFailed(failed[0], f"The other targets are in {folder}.")
    gate.enforce(report.rules)


def _only(target: object) -> str:
    return knobs.only_item(target)[0]


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(knobs.plain(value), default_flow_style=True, width=10_000).removesuffix("...\n").strip()
