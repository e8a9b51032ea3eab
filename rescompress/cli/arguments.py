"""What several verbs are told: a model, its images, a place to write to; and how these are opened."""

from pathlib import Path
from typing import Any

import click

from rescompress import recipe
from rescompress.recipe.overrides import read_value


def model_flags() -> list[click.Parameter]:
    """A model, and the flags that say which network it is."""
    return [
        click.Argument(["model"], metavar="MODEL"),
        click.Option(["--family"], help="Family of a state dict that doesn't fit by itself."),
        click.Option(["--architecture"], help="Architecture of that state dict."),
        click.Option(["--classes"], type=int, help="Outputs of its classifier."),
        click.Option(["--builder"], metavar="MODULE:FUNCTION", help="Your own function that builds the network."),
        data_flag(),
    ]


def data_flag() -> click.Option:
    """Where labelled images come from."""
    return click.Option(["--data"], metavar="NAME", help="Labelled images, as digits or '{imagefolder: {root: DIR}}'.")


def out_flag() -> click.Option:
    """Where everything goes."""
    return click.Option(["-o", "--out"], type=click.Path(path_type=Path), help="Folder for everything that is written.")


def chosen_model(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's model from the flags of ``model_flags``, which leave the given ones."""
    return {"checkpoint": model, **{name: given.pop(name) for name in ("family", "architecture", "classes", "builder")}}


def job_of(name: str, chosen: dict[str, Any], data: str | None, **asked: Any) -> recipe.Recipe:
    """A recipe as a verb's flags say it."""
    said = read_value(data, "--data") if data else None
    return recipe.parse({"name": name, "model": chosen, "data": said, "benchmark": False, **asked})


def load_model(chosen: dict[str, Any]) -> Any:
    """The model that ``chosen_model`` names."""
    from rescompress.pipeline.stages import open_origin

    return open_origin(recipe.parse({"name": "inspect", "model": chosen})).model


def open_data(text: str | None, spec: Any) -> Any:
    """The images that ``--data`` names, if they fit the model; None without it.

    Raises:
        RecipeError: there is no such source, or a knob of it is wrong.
        InputRefused: its files are broken, or its classes aren't the model's.
    """
    from rescompress import data
    from rescompress.context import fit_data

    if text is None:
        return None
    ((source, filled),) = recipe.DATA.check(read_value(text, "--data")).items()
    return fit_data(data.load(source, spec.preprocessing, **filled), spec)
