"""The house keeps its own rules: short files, short functions, docstrings, tests that mirror the package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "rescompress").rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 300, 40
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def lines_of_code(function: Function, source: list[str]) -> int:
    """Lines of a function from ``def`` to its end without docstring, comments and empty lines."""
    taken = range(function.lineno, function.end_lineno + 1)
    first = function.body[0]
    if ast.get_docstring(function):
        taken = [line for line in taken if not first.lineno <= line <= first.end_lineno]
    return sum(bool(source[line - 1].strip()) and not source[line - 1].strip().startswith("#") for line in taken)


def public(tree: ast.Module) -> Iterator[ast.AST]:
    """The functions, classes and methods that have a public name all the way."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            inner = node.body if isinstance(node, ast.ClassDef) else []
            yield from (part for part in inner if isinstance(part, Function) and not part.name.startswith("_"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_file_is_short_and_says_what_it_is_for(file):
    source = file.read_text("utf-8").splitlines()
    tree = ast.parse("\n".join(source))
    assert len(source) <= LONGEST_FILE
    assert ast.get_docstring(tree)
    long = {function.name: lines_of_code(function, source) for function in functions(tree)}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}
    assert [node.name for node in public(tree) if not ast.get_docstring(node)] == []


def test_every_folder_of_tests_mirrors_one_of_the_package():
    folders = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*") if path.is_dir()}
    mirrored = {folder for folder in folders if not set(folder.parts) & {"fakes", "golden", "hooks", "__pycache__"}}
    assert {str(folder) for folder in mirrored if not (ROOT / "rescompress" / folder).is_dir()} == set()


def test_what_the_readme_says_to_make_can_be_made():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    said = set()
    for page in ("README.md", "CONTRIBUTING.md"):
        said |= set(re.findall(r"\bmake (\w+)", (ROOT / page).read_text("utf-8")))
    assert {"demo", "test"} <= said & targets
    commands = {word for word in said if f"make {word}" in _code(ROOT / "README.md")}
    assert commands <= targets


def _code(page: Path) -> str:
    """The blocks of shell commands of a page."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
