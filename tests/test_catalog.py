"""A folder is a registry, and reading it imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress import catalog, recipe
from rescompress.errors import RecipeError

FOLDERS = (
    *("rescompress.models", "rescompress.data", "rescompress.backends", "rescompress.pruning.importance"),
    *("rescompress.quantization.observers", "rescompress.distillation.losses"),
)


@pytest.mark.parametrize("package", FOLDERS)
def test_the_names_are_the_folders_files(package: str) -> None:
    folder = Path(__file__).parents[1].joinpath(*package.split("."))
    files = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")}
    assert catalog.names(package) == tuple(sorted(files))
    assert files


@pytest.mark.parametrize("package", FOLDERS)
def test_every_file_of_a_folder_loads(package: str) -> None:
    for name in catalog.names(package):
        module = catalog.load(package, name)
        assert module.__name__ == f"{package}.{name}"
        assert (module.__doc__ or "").partition("\n")[0].endswith((".", ")"))


def test_an_unknown_file_is_told_its_neighbour() -> None:
    with pytest.raises(RecipeError, match=r"no 'logit' among the losses\. Did you mean 'logits'\?"):
        catalog.load("rescompress.distillation.losses", "logit")


@pytest.mark.parametrize("name", ["_splits", "__init__", "../errors", "os", ""])
def test_only_files_of_the_folder_load(name: str) -> None:
    with pytest.raises(RecipeError):
        catalog.load("rescompress.data", name)


@pytest.mark.parametrize("package", ["rescompress.errors", "rescompress.nothing"])
def test_what_is_no_folder_is_a_bug_of_ours(package: str) -> None:
    with pytest.raises(ValueError, match="is not a package"):
        catalog.names(package)


def test_suggestions_are_near_or_complete() -> None:
    assert catalog.suggest("resnet8", ["resnet18", "vgg"]) == "Did you mean 'resnet18'?"
    assert catalog.suggest("zzz", ["one", "two"]) == "Choose one of: one, two."
    assert catalog.suggest("zzz", []) == "There is none to choose from."


@given(st.text("abc_8"), st.lists(st.text("abc_8", min_size=1), max_size=5))
def test_a_suggestion_only_names_what_exists(wrong: str, right: list[str]) -> None:
    said = catalog.suggest(wrong, right)
    assert said.endswith((".", "?"))
    if said.startswith("Did you mean"):
        assert said.removeprefix("Did you mean '").removesuffix("'?") in right


def test_a_summary_is_the_docstrings_first_line() -> None:
    for module, function in recipe.STAGES.values():
        loaded = getattr(__import__(module, fromlist=[function]), function)
        assert catalog.summary(module, function) == (loaded.__doc__ or "").partition("\n")[0]


@pytest.mark.parametrize(("module", "function"), [("rescompress.nothing", "x"), ("rescompress.errors", "explain")])
def test_a_summary_of_nothing_is_a_bug_of_ours(module: str, function: str) -> None:
    with pytest.raises(ValueError, match=r"there is no module|has no function"):
        catalog.summary(module, function)


READING = """
import json, sys
from rescompress import catalog
names = [catalog.names(f"rescompress.{folder}") for folder in ("models", "data", "backends")]
said = [catalog.summary(*place) for place in json.loads(sys.argv[1])]
print(json.dumps([names, said, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_reading_names_and_summaries_imports_no_torch() -> None:
    stages = json.dumps(list(recipe.STAGES.values()))
    done = subprocess.run([sys.executable, "-c", READING, stages], capture_output=True, text=True, check=True)
    names, said, imported = json.loads(done.stdout)
    assert all(names)
    assert all(said)
    assert not {"torch", "torchvision", "numpy", "pydantic"} & set(imported)
