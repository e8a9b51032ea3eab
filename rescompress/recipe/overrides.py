"""Override single values of a recipe before it is checked: ``--set stages.prune.ratio=0.5``."""

from typing import Any

import yaml

from rescompress import catalog
from rescompress.errors import RecipeError


def override_value(content: dict[str, Any], override: str) -> None:
    """Set one value in a tree of mappings and lists."""
    path, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override} sets nothing.", "Write --set key.path=value.")
    *parents, last = path.split(".")
    here: Any = content
    for part in parents:
        here = _descend(here, part, path)
    value = read_value(text, f"--set {path}")
    if isinstance(here, list):
        place = _place(here, last, path)
        here[place] = {last: value} if not last.isdigit() else value
    else:
        here[last] = value


def read_value(text: str, where: str) -> Any:
    """A value as YAML writes it.

    Raises:
        RecipeError: it is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        first = str(error).partition("\n")[0]
        raise RecipeError(f"{where}: {text!r} is no YAML: {first}.", "Quote it, or close its brackets.") from None


def _descend(here: Any, part: str, path: str) -> Any:
    if isinstance(here, list):
        place = _place(here, part, path)
        if isinstance(here[place], str):
            here[place] = {here[place]: {}}
        name = next(iter(here[place]))
        here[place][name] = here[place][name] or {}
        return here[place][name]
    value = here.get(part)
    if not isinstance(value, (dict, list)):
        short = {"model": {"checkpoint": value}, "data": {value: {}}}
        here[part] = short.get(part, {}) if isinstance(value, str) else {}
    return here[part]


def _place(items: list[Any], part: str, path: str) -> int:
    """Where in a list of stages a name or a number points to."""
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [item if isinstance(item, str) else next(iter(item)) for item in items]
    if part not in names:
        raise RecipeError(f"--set {path}: there is no '{part}' in the list.", catalog.suggest(part, names))
    return names.index(part)
