"""The command line: one verb per function, one flag per knob, one exit code per kind of failure."""

import sys
import traceback
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import click

from rescompress import catalog
from rescompress.errors import RescompressError

VERBS = {
    "run": ("rescompress.pipeline", "run"),
    "inspect": ("rescompress.inspection", "inspect"),
    "convert": ("rescompress.checkpoint", "convert"),
    "fit": ("rescompress.training", "fit"),
    "prune": ("rescompress.pruning", "prune"),
    "factorize": ("rescompress.factorization", "factorize"),
    "distill": ("rescompress.distillation", "distill"),
    "fuse": ("rescompress.fusion", "fuse"),
    "calibrate": ("rescompress.cli.calibrated", "calibrate"),
    "quantize": ("rescompress.quantization", "quantize"),
    "export": ("rescompress.pipeline", "export"),
    "verify": ("rescompress.verification", "verify"),
    "benchmark": ("rescompress.benchmarking", "benchmark"),
    "compare": ("rescompress.cli.timed", "compare"),
    "report": ("rescompress.reporting", "write"),
    "doctor": ("rescompress.cli.doctor", "diagnose"),
    "recipes": ("rescompress.recipe", "shipped"),
    "schema": ("rescompress.recipe", "json_schema"),
}
"""Each verb and the function that it runs, whose docstring is its help."""
INTERRUPTED = 130
printed = False
"""Whether a document stands on standard output already: a failed check is told in it, and not in a second one."""


class Verbs(click.Group):
    """Subcommands that are imported when they are called, so that ``--help`` doesn't wait for PyTorch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order in which one meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, with its flags read off its function."""
        if cmd_name not in VERBS:
            return None
        from rescompress.cli.verbs import command

        return command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown verb with the nearest one."""
        if args and args[0] not in VERBS:
            raise click.UsageError(f"There is no verb '{args[0]}'. {catalog.suggest(args[0], list(VERBS))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs with their functions' first lines; nothing is imported."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, catalog.summary(*where)) for verb, where in VERBS.items()])


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(package_name="rescompress")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Take a trained ResNet through pruning, distillation and INT8 to an artifact that is proven and timed.

    Start with: rescompress run digits_resnet20
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(guarded(lambda: cli(standalone_mode=False), sys.argv[1:]))


def guarded(call: Callable[[], Any], arguments: list[str]) -> int:
    """Run a verb; an expected failure becomes two sentences and its exit code, never a traceback.

    Args:
        call: what to run.
        arguments: the command line, in which ``--debug`` and ``--format json`` are looked for.
    """
    global printed
    printed = False
    try:
        call()
    except RescompressError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        _tell(error.exit_code, type(error).__name__, error.fact, error.remedy, arguments)
        return error.exit_code
    except click.ClickException as error:
        _tell(2, "UsageError", error.format_message(), "See --help.", arguments)
        return 2
    except (KeyboardInterrupt, click.Abort):
        _tell(
            INTERRUPTED, "Interrupted", "Interrupted.", "What was finished is kept; run it again to go on.", arguments
        )
        return INTERRUPTED
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except Exception as error:
        traceback.print_exc()
        fact = f"{type(error).__name__}: {error}"
        _tell(1, "Bug", fact, "This is a bug in rescompress; please report it with the lines above.", arguments)
        return 1
    return 0


def _tell(code: int, kind: str, fact: str, remedy: str, arguments: list[str]) -> None:
    print(f"error: {fact}\n{remedy}", file=sys.stderr)
    asked = "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
    if asked and not printed:
        from rescompress.artifact import to_json

        failure = {"schema": "rescompress.error/1", "code": code, "kind": kind, "fact": fact, "remedy": remedy}
        sys.stdout.write(to_json(failure).decode())
