"""The verbs that time artifacts, let a gate judge them, and put several runs side by side."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rescompress.cli import show
from rescompress.cli.arguments import data_flag, open_data
from rescompress.cli.flags import options, values
from rescompress.errors import BenchmarkInvalid, RecipeError

if TYPE_CHECKING:
    from rescompress.benchmarking.results import Results
    from rescompress.benchmarking.rules import Rule

Body = Callable[..., None]


def benchmark() -> tuple[Body, list[click.Parameter]]:
    """Time artifacts; keep the results in a file; fail what breaks a rule."""
    from rescompress.benchmarking import benchmark as timed

    def body(artifacts: tuple[Path, ...], data: str | None, out: Path | None, strict: bool, **given: Any) -> None:
        from rescompress.artifact import open_artifact
        from rescompress.benchmarking import gate, results
        from rescompress.verification import sample_images

        rules, before = _rules(given.pop("fail_if")), given.pop("baseline_file")
        against = _baseline(before, rules, len(artifacts))
        _refuse_folder(out)
        opened = [open_artifact(artifact) for artifact in artifacts]
        images = open_data(data, opened[0].manifest.model)
        rings = [sample_images(images, artifact.manifest, 64) for artifact in opened]
        row, raw = timed(artifacts, rings, **values(timed, given))
        found = results.results(row, opened, _command(artifacts, data, given))
        found = replace(found, rules=gate.judge(rules, found, against, before.name if before else ""))
        show.results(results.write(found, raw, out) if out else found)
        if row.verdict == "INVALID" or (strict and row.verdict != "VALID"):
            raise BenchmarkInvalid(f"The timing is {row.verdict}: {row.reasons[0]}", "Time again on a quiet machine.")
        gate.enforce(found.rules, strict)

    return body, [*_benchmark_flags(), *options(timed)]


def compare() -> tuple[Body, list[click.Parameter]]:
    """Put runs and benchmarks side by side; artifacts of the same label and backend are matched."""

    def body(sources: tuple[Path, ...], out: Path | None) -> None:
        from rescompress import progress
        from rescompress.reporting import compared, comparison

        found = comparison.compare(sources)
        written = compared.write(found, out) if out else ()
        show.comparison(found)
        for path in written:
            progress.note(str(path))

    return body, [
        click.Argument(["sources"], nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path)),
        click.Option(["-o", "--out"], type=click.Path(path_type=Path), help="Folder for compare.html and compare.md."),
    ]


def _benchmark_flags() -> list[click.Parameter]:
    return [
        click.Argument(["artifacts"], nargs=-1, required=True, type=click.Path(path_type=Path)),
        data_flag(),
        click.Option(
            ["-o", "--out"], type=click.Path(path_type=Path), metavar="FILE.json", help="File for the results."
        ),
        click.Option(
            ["--fail-if"],
            multiple=True,
            metavar="RULE",
            help='Leave with 6 if this is so, as "p50>+5%", "size>10MB" or "accuracy<-0.5" (points).',
        ),
        click.Option(
            ["--baseline-file"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Results or a run that signed limits are against  [default: the first artifact]",
        ),
        click.Option(
            ["--strict"], is_flag=True, help="Leave with 6 unless the verdict is VALID and all is comparable."
        ),
    ]


def _rules(texts: Sequence[str]) -> "list[Rule]":
    from rescompress.benchmarking import rules

    return [rules.parse(text) for text in texts]


def _baseline(file: Path | None, rules: "Sequence[Rule]", count: int) -> "Results | None":
    """What is in the baseline file, read before anything is timed.

    Raises:
        RecipeError: there is a file but no rule that would look at it, or a rule that has nothing to look at.
        InputRefused: the file is missing, broken, or holds no results.
    """
    from rescompress.benchmarking.gate import AGAINST
    from rescompress.reporting.sources import source

    if file is not None and not rules:
        raise RecipeError("No rule looks at the baseline file.", 'Say what must not be, as in --fail-if "p50>+5%".')
    signed = [rule for rule in rules if rule.relative]
    if signed and file is None and count < 2:
        raise RecipeError(f"{signed[0]} is against nothing: only one artifact is named.", AGAINST)
    return None if file is None else source(file).results


def _refuse_folder(out: Path | None) -> None:
    if out is not None and out.is_dir():
        raise RecipeError(f"{out} is a folder.", f"Name a file: -o {out / 'result.json'}.")


def _command(artifacts: Sequence[Path], data: str | None, given: Mapping[str, Any]) -> str:
    """How it was asked for, without another device's address: results are for publishing."""
    words = ["rescompress", "benchmark", *map(str, artifacts), *(["--data", data] if data else [])]
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", re.sub(r"^(ssh|adb)://.*", r"\1://DEVICE", str(value))]
    return shlex.join(words)
