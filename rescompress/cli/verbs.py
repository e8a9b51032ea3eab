"""What each verb does: read flags, call the function, show its result on standard output."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from rescompress import catalog, progress, recipe
from rescompress.cli import VERBS, show, timed
from rescompress.cli.arguments import chosen_model, data_flag, job_of, load_model, model_flags, open_data, out_flag
from rescompress.cli.flags import options, shared_options, values
from rescompress.errors import RecipeError
from rescompress.recipe import order

Body = Callable[..., None]


def command(verb: str) -> click.Command:
    """A verb with its flags."""
    body, parameters = _BODIES[verb]() if verb in _BODIES else _stage(verb)
    common = [
        click.Option(
            ["--format", "form"], type=click.Choice(["human", "json", "quiet"]), default="human", help="Output."
        ),
        click.Option(["--debug"], is_flag=True, help="Show tracebacks of expected failures."),
    ]

    def call(form: str, debug: bool, **given: Any) -> None:
        form = form if os.environ.get("RANK", "0") == "0" else "quiet"  # of several processes, one speaks
        progress.quiet = form == "quiet"
        show.form = form
        try:
            body(**given)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read our output has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    summary = catalog.summary(*VERBS[verb])
    return click.Command(verb, params=[*parameters, *common], callback=call, help=summary)


def _run() -> tuple[Body, list[click.Parameter]]:
    def body(recipe_: str, out: Path | None, sets: tuple[str, ...], dry_run: bool) -> None:
        from rescompress import pipeline

        job = recipe.read(recipe_, sets)
        if dry_run:
            show.lines(pipeline.plan(job, out))
            return
        words = ["rescompress", "run", recipe_, *(f"--set {text}" for text in sets), *(["-o", str(out)] if out else [])]
        show.report(pipeline.run(job, out, command=" ".join(words)))

    return body, [
        click.Argument(["recipe_"], metavar="RECIPE"),
        out_flag(),
        click.Option(
            ["--set", "sets"], multiple=True, metavar="KEY=VALUE", help="Override a value, as stages.prune.ratio=0.5."
        ),
        click.Option(["--dry-run"], is_flag=True, help="Print what would be done, and do nothing."),
    ]


def _stage(verb: str) -> tuple[Body, list[click.Parameter]]:
    """A stage's verb runs a recipe of that one stage, so that it is resumable, verified and reported like any other."""
    function = order.stage(verb)

    def body(
        model: str,
        data: str | None,
        to: str | None,
        out: Path | None,
        seed: int,
        max_accuracy_drop: float | None,
        **given: Any,
    ) -> None:
        from rescompress import pipeline

        steps: list[Any] = [{verb: values(function, given)}]
        if verb in order.NEEDS:
            steps.insert(0, order.NEEDS[verb])
        asked = {"seed": seed, "stages": steps, "max_accuracy_drop": max_accuracy_drop}
        job = job_of(verb, chosen_model(model, given), data, export=to.split(",") if to else (), **asked)
        show.report(pipeline.run(job, out))

    return body, [
        *model_flags(),
        click.Option(["--to"], metavar="FORMAT[,FORMAT]", help="Export to these, and verify there."),
        out_flag(),
        click.Option(["--seed"], type=int, default=0, help="Every random choice is drawn from this."),
        click.Option(["--max-accuracy-drop"], type=float, help="Gate: most points of top-1 that may be lost."),
        *options(function),
    ]


def _inspect() -> tuple[Body, list[click.Parameter]]:
    from rescompress import inspection

    def body(model: str, data: str | None, out: Path | None, images: int | None, **given: Any) -> None:
        from rescompress import models
        from rescompress.reporting.inspection import write

        if model.lower().endswith(".onnx"):
            if data is not None:
                raise RecipeError("An ONNX graph is looked at, not run.", "Leave --data out.")
            found = inspection.inspect_onnx(model)
        else:
            opened = load_model(chosen_model(model, given))
            knobs = values(inspection.inspect, {"images": images})
            found = inspection.inspect(opened, open_data(data, models.spec_of(opened)), **knobs)
        show.inspection(found)
        for path in write(found, out) if out else ():
            progress.note(str(path))

    return body, [*model_flags(), out_flag(), *options(inspection.inspect)]


def _convert() -> tuple[Body, list[click.Parameter]]:
    def body(model: str, target: Path, data: str | None, **given: Any) -> None:
        from rescompress import checkpoint
        from rescompress.pipeline.stages import spec_of

        found = checkpoint.convert(model, target, spec_of(recipe.ModelChoice(**chosen_model(model, given))))
        show.lines([f"{target}: {found or 'tensors of a network that no family knows'}"])

    target = click.Argument(["target"], type=click.Path(path_type=Path), metavar="OUT.safetensors")
    model, *flags = model_flags()
    return body, [model, target, *flags]


def _calibrate() -> tuple[Body, list[click.Parameter]]:
    from rescompress.cli.calibrated import calibrate
    from rescompress.quantization import calibration

    def body(model: str, data: str | None, out: Path, **given: Any) -> None:
        opened = load_model(chosen_model(model, given))
        show.lines([calibrate(opened, data, out, **values(calibration.calibrate, given))])

    file = click.Option(["-o", "--out"], required=True, type=click.Path(path_type=Path), help="File of the statistics.")
    return body, [*model_flags(), file, *options(calibration.calibrate)]


def _export() -> tuple[Body, list[click.Parameter]]:
    from rescompress import backends

    def body(model: str, data: str | None, to: str, out: Path | None, **given: Any) -> None:
        from rescompress import pipeline

        names = to.split(",")
        _refuse_idle({name for name in given if given[name] is not None}, names)
        targets = [{name: values(backends.get(name).export, given) or {}} for name in names]
        job = job_of("export", chosen_model(model, given), data, export=targets)
        show.report(pipeline.run(job, out))

    names = sorted(backends.names(), key=lambda name: name != "onnxruntime")
    flags = shared_options({name: backends.get(name).export for name in names})
    target = click.Option(["--to"], required=True, metavar="FORMAT[,FORMAT]", help="File formats or runtimes.")
    return body, [*model_flags(), target, out_flag(), *flags]


def _refuse_idle(given: set[str], names: Sequence[str]) -> None:
    """Refuse a flag that no target takes.

    Raises:
        RecipeError: there is one.
    """
    from rescompress import backends
    from rescompress.knobs import knobs

    taken = {knob.name for name in names for knob in knobs(backends.get(name).export)}
    for name in sorted(given - taken - {"family", "architecture", "classes", "builder"}):
        flag = f"--{name.replace('_', '-')}"
        raise RecipeError(
            f"{' and '.join(names)} know no {flag}.", f"Leave it out; they take {', '.join(sorted(taken))}."
        )


def _verify() -> tuple[Body, list[click.Parameter]]:
    from rescompress.verification import verify

    def body(artifact: Path, reference: str | None, baseline: Path | None, data: str | None, **given: Any) -> None:
        from rescompress import checkpoint
        from rescompress.artifact import open_artifact
        from rescompress.errors import GateFailed

        manifest = open_artifact(artifact).manifest
        source = reference or str(artifact / manifest.source)
        if not reference and not (manifest.source and Path(source).is_file()):
            raise RecipeError("The artifact doesn't say which checkpoint it came from.", "Name it with --reference.")
        opened = open_data(data, manifest.model)
        row = verify(artifact, checkpoint.load(source), opened, baseline, **values(verify, given))
        show.verification(row)
        if row.failures:
            raise GateFailed(row.failures[0], "Export the model again, or look for what changed in between.")

    return body, [
        click.Argument(["artifact"], type=click.Path(path_type=Path)),
        click.Option(
            ["--reference"], metavar="CHECKPOINT", help="The model that was exported  [default: as the artifact says]"
        ),
        click.Option(["--baseline"], type=click.Path(path_type=Path), help="An artifact to compare accuracy with."),
        data_flag(),
        *options(verify),
    ]


def _report() -> tuple[Body, list[click.Parameter]]:
    def body(run: Path, out: Path | None) -> None:
        from rescompress import reporting

        folder = out or (run if run.is_dir() else run.parent)
        show.lines(str(path) for path in reporting.write(reporting.read(run), folder))

    return body, [click.Argument(["run"], type=click.Path(path_type=Path)), out_flag()]


def _doctor() -> tuple[Body, list[click.Parameter]]:
    def body() -> None:
        from rescompress.cli.doctor import diagnose

        show.diagnosis(diagnose())

    return body, []


def _recipes() -> tuple[Body, list[click.Parameter]]:
    def body(name: str | None) -> None:
        if name is None:
            show.recipes({key: _first_comment(path) for key, path in recipe.shipped().items()})
        elif show.form == "json":
            show.document(recipe.read(name).filled())
        elif show.form == "human":
            click.echo(recipe.find(name).read_text("utf-8"), nl=False)

    return body, [click.Argument(["name"], required=False)]


def _schema() -> tuple[Body, list[click.Parameter]]:
    def body(of: str) -> None:
        from rescompress import reporting

        if show.form != "quiet":
            show.document(recipe.json_schema() if of == "recipe" else reporting.json_schema(of))

    kinds = click.Choice(["recipe", "report", "bench", "compare"])
    return body, [click.Option(["--of"], type=kinds, default="recipe", help="Whose.  [default: recipe]")]


_BODIES: dict[str, Callable[[], tuple[Body, list[click.Parameter]]]] = {
    "run": _run,
    "inspect": _inspect,
    "convert": _convert,
    "calibrate": _calibrate,
    "export": _export,
    "verify": _verify,
    "benchmark": timed.benchmark,
    "compare": timed.compare,
    "report": _report,
    "doctor": _doctor,
    "recipes": _recipes,
    "schema": _schema,
}


def _first_comment(path: Path) -> str:
    return path.read_text("utf-8").partition("\n")[0].lstrip("# ")
