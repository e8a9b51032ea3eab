"""Every recipe that is shipped can be run: it parses, and its name is its file's."""

import copy
from pathlib import Path

import pytest
import yaml

import rescompress
from rescompress import recipe
from rescompress.errors import RecipeError
from rescompress.recipe.order import STAGES, together

FILES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def test_there_are_recipes_and_all_are_shipped():
    assert {file.stem for file in FILES} == set(recipe.shipped())
    assert "digits_resnet20" in recipe.shipped()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipe_parses_and_bears_its_files_name(file):
    job = recipe.read(file)
    assert job.name == file.stem
    assert recipe.read(file.stem).digest == job.digest
    assert recipe.parse(job.filled()).digest == job.digest


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipe_says_first_what_it_is_for(file):
    assert file.read_text("utf-8").startswith("# ")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipe_fits_the_schema(file):
    """The structure only: which keys there may be, at the top and in each stage."""
    schema, content = recipe.json_schema(), yaml.safe_load(file.read_text("utf-8"))
    assert set(schema["required"]) <= set(content) <= set(schema["properties"])
    names, mapping = schema["properties"]["stages"]["items"]["anyOf"]
    for stage in content.get("stages", ()):
        if isinstance(stage, str):
            assert stage in names["enum"]
        else:
            ((name, given),) = stage.items()
            assert set(given) <= set(mapping["properties"][name]["properties"])


def test_what_trains_is_shared_by_all_processes():
    assert [name for name in STAGES if together(name, {})] == ["fit", "distill"]
    assert together("quantize", {"qat": "learned"})
    assert together("quantize", {"qat": "fixed"})
    assert not together("quantize", {"qat": "off"})
    assert not together("prune", {"qat": "learned"})


def test_a_target_that_is_named_twice_is_refused():
    with pytest.raises(RecipeError, match=r"^onnxruntime is named twice as a target"):
        recipe.parse({"name": "twice", "model": "digits_resnet20", "export": ["onnx", "onnxruntime"]})


def test_plain_values_take_overrides_and_stay_as_they_are() -> None:
    content = {"name": "one", "model": "digits_resnet20", "stages": [{"prune": {"ratio": 0.3}}]}
    before = copy.deepcopy(content)
    assert recipe.parse(content, ["stages.prune.ratio=0.5"]).stages[0].knobs["ratio"] == 0.5
    assert content == before


def test_a_run_takes_plain_values(tmp_path: Path) -> None:
    content = {"name": "one", "model": "digits_resnet20", "stages": ["fuse"]}
    report = rescompress.run(content, tmp_path, overrides=["name=two"])
    assert report.name == "two"
    assert [row.stage for row in report.stages] == ["baseline", "fuse"]
