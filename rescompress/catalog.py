"""A folder is a registry: the file's name is the name in the recipe."""

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from rescompress.errors import RecipeError


@cache
def names(package: str) -> tuple[str, ...]:
    """Names of the files in a package's folder, sorted; nothing in the folder is imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"{package} is not a package")
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    return tuple(sorted(entry.name for entry in found if not entry.name.startswith("_")))


def load(package: str, name: str) -> ModuleType:
    """Import one file of a folder.

    Raises:
        RecipeError: the folder holds no such file.
    """
    if name not in names(package):
        kind = package.rpartition(".")[2].replace("_", " ")
        raise RecipeError(f"There is no '{name}' among the {kind}.", suggest(name, names(package)))
    return importlib.import_module(f"{package}.{name}")


def suggest(wrong: str, right: Sequence[str]) -> str:
    """One sentence of remedy for a name that does not exist: the nearest one, or all of them."""
    near = difflib.get_close_matches(wrong, right, n=1)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Choose one of: {', '.join(right)}." if right else "There is none to choose from."


def summary(module: str, function: str) -> str:
    """First line of a function's docstring, read from the source so that nothing is imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {module}")
    for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise ValueError(f"{module} has no function {function}")
