"""What ``import rescompress`` offers: every name in one list, each found where it lives, none imported too early."""

import ast
import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import rescompress


def declared() -> dict[str, str]:
    """Name and home of each import that only type checkers see."""
    tree = ast.parse(Path(rescompress.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {
        name.name: node.module.removeprefix("rescompress.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


def test_the_three_lists_are_one():
    assert declared() == rescompress._HOMES
    assert sorted(declared(), key=str) == sorted(rescompress.__all__)
    assert len(rescompress.__all__) == len(set(rescompress.__all__))


@pytest.mark.parametrize("name", rescompress.__all__)
def test_every_name_is_there_and_has_its_docstring(name):
    found = getattr(rescompress, name)
    assert found is getattr(importlib.import_module(f"rescompress.{rescompress._HOMES[name]}"), name)
    assert found.__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="rescompress has no compress"):
        rescompress.compress  # noqa: B018


def test_version_is_the_distributions():
    assert rescompress.__version__ == metadata.version("rescompress")


def test_import_is_light():
    script = "import sys, rescompress; print([name for name in ('torch', 'numpy', 'click') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
