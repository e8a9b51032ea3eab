"""One source for every knob: the signature and the docstring."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import ConfigDict, Field

from rescompress import knobs, recipe
from rescompress.errors import RecipeError
from rescompress.knobs import Choice, Folder, Named, check, checked, group_knobs, json_schema, only_item, plain

LOSSES = Folder("rescompress.distillation.losses", "loss")


@dataclass(frozen=True)
class Pace:
    """How fast.

    Attributes:
        speed: metres per second.
        unit: what the display says,
            in letters.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    speed: Annotated[float, Field(gt=0)] = 2.5
    unit: Literal["m", "ft"] = "m"


def walk(
    start: int,
    *,
    steps: Annotated[int, Field(ge=1, le=9)],
    pace: Pace = Pace(),
    loss: Annotated[Choice, LOSSES] = "logits",
    runtime: Annotated[str, Named("rescompress.backends")] = "onnxruntime",
    map_file: Path | None = None,
) -> dict[str, Any]:
    """Walk somewhere.

    Args:
        start: where it begins.
        steps: how many,
            counted from one.
        pace: how fast.
        loss: on the way.
        map_file: none means by heart.

    Returns:
        The knobs.
    """
    return {"start": start, "steps": steps, "pace": pace, "loss": loss, "runtime": runtime, "map_file": map_file}


FILLED = {
    "steps": 3,
    "pace": Pace(),
    "loss": {"logits": {"temperature": 4.0, "alpha": 0.9}},
    "runtime": "onnxruntime",
    "map_file": None,
}


def test_knobs_are_the_keyword_only_parameters_in_order() -> None:
    found = knobs.knobs(walk)
    assert [knob.name for knob in found] == ["steps", "pace", "loss", "runtime", "map_file"]
    assert [knob.required for knob in found] == [True, False, False, False, False]
    assert [knob.help for knob in found] == [
        *("how many, counted from one.", "how fast.", "on the way.", "", "none means by heart.")
    ]


def test_the_fields_of_a_group_are_knobs_too() -> None:
    speed, unit = group_knobs(Pace)
    assert (speed.name, speed.default, speed.help) == ("speed", 2.5, "metres per second.")
    assert (unit.default, unit.help) == ("m", "what the display says, in letters.")


def test_checking_fills_in_every_default() -> None:
    assert check(walk, {"steps": 3}, "walk") == FILLED


def test_values_of_a_recipe_become_python_values() -> None:
    given = {"steps": 3, "pace": {"speed": 1}, "loss": {"logits": {"alpha": 1}}, "map_file": "a/b"}
    found = check(walk, given, "walk")
    assert found["pace"] == Pace(speed=1.0)
    assert found["loss"] == {"logits": {"temperature": 4.0, "alpha": 1.0}}
    assert found["map_file"] == Path("a/b")


@pytest.mark.parametrize(
    ("given", "fact", "remedy"),
    [
        ({}, r"walk needs the knob 'steps'\.", "Give it a value"),
        ({"steps": 0}, "walk: steps must be greater than or equal to 1, but it is 0", "Correct the value"),
        ({"steps": "many"}, "walk: steps must be a valid integer", "Correct the value"),
        ({"step": 3, "steps": 3}, "walk has no knob 'step'", "Did you mean 'steps'?"),
        ({"steps": 3, "start": 1}, "walk has no knob 'start'", ""),
        ({"steps": 3, "pace": {"speed": -1}}, r"walk: pace\.speed must be greater than 0", ""),
        ({"steps": 3, "pace": {"spede": 1}}, r"walk has no knob 'pace\.spede'", ""),
        ({"steps": 3, "pace": {"unit": "mile"}}, r"walk: pace\.unit must be 'm' or 'ft', but it is 'mile'", ""),
        ({"steps": 3, "loss": "logit"}, "no 'logit' among the losses", "Did you mean 'logits'?"),
        ({"steps": 3, "loss": {"logits": {"alpha": 2}}}, "logits: alpha must be less than or equal to 1", ""),
        ({"steps": 3, "loss": {"logits": {"beta": 2}}}, "logits has no knob 'beta'", ""),
        ({"steps": 3, "loss": {"a": {}, "b": {}}}, "names no single choice", "Write a name"),
        ({"steps": 3, "loss": 3}, "names no single choice", "Write a name"),
        ({"steps": 3, "runtime": "onnx-runtime"}, "no 'onnx-runtime' among the backends", "Did you mean 'onnxruntime'"),
        ({"steps": 3, "runtime": 5}, "walk: runtime must be a valid string", ""),
    ],
)
def test_a_wrong_value_is_one_sentence(given: dict[str, Any], fact: str, remedy: str) -> None:
    with pytest.raises(RecipeError, match=fact) as refusal:
        check(walk, given, "walk")
    assert remedy in refusal.value.remedy
    assert "\n" not in str(refusal.value)


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(RecipeError) as refusal:
        check(walk, {"steps": "x" * 500}, "walk")
    assert len(refusal.value.fact) < 200


def test_a_checked_function_checks_however_it_is_called() -> None:
    step = checked(walk)
    assert step(7, steps=3) == {"start": 7, **FILLED}
    assert [knob.name for knob in knobs.knobs(step)] == [knob.name for knob in knobs.knobs(walk)]
    assert step.__doc__ == walk.__doc__
    with pytest.raises(RecipeError, match="walk needs the knob 'steps'"):
        step(7)  # type: ignore[call-arg]


def test_a_folders_choice_is_bound_with_its_knobs() -> None:
    bound = LOSSES.bind({"logits": {"alpha": 0.5}})
    assert bound.keywords == {"temperature": 4.0, "alpha": 0.5}  # type: ignore[attr-defined]
    assert LOSSES.check({"logits": None}) == LOSSES.check("logits")


@pytest.mark.parametrize("value", [{}, {"a": 1, "b": 2}, [], None, 3])
def test_no_single_item_is_refused(value: Any) -> None:
    with pytest.raises(RecipeError, match="names no single choice"):
        only_item(value)


def test_plain_values_are_json() -> None:
    value = {"pace": Pace(), "path": Path("a/b"), "pair": (1, 2.5), "none": None, 3: True}
    assert plain(value) == {
        "pace": {"speed": 2.5, "unit": "m"},
        "path": "a/b",
        "pair": [1, 2.5],
        "none": None,
        "3": True,
    }


def test_the_schema_stands_alone_and_knows_the_folders() -> None:
    schema = json_schema(walk)
    assert "$ref" not in json.dumps(schema)
    assert schema["required"] == ["steps"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["steps"] == {"description": "how many, counted from one.", "maximum": 9, "minimum": 1} | {
        key: properties["steps"][key] for key in ("title", "type")
    }
    assert properties["pace"]["properties"]["unit"]["enum"] == ["m", "ft"]
    assert "logits" in properties["loss"]["anyOf"][0]["enum"]
    assert "onnxruntime" in properties["runtime"]["enum"]


@pytest.mark.parametrize("name", recipe.STAGES)
def test_every_knob_of_every_stage_is_explained(name: str) -> None:
    for knob in knobs.knobs(recipe.stage(name)):
        assert knob.help.endswith("."), f"{name} doesn't say what {knob.name} means"


@pytest.mark.parametrize("name", recipe.STAGES)
def test_the_filled_knobs_of_every_stage_read_back(name: str) -> None:
    """A run writes its recipe with the defaults filled in; reading that must give the same run."""
    stage = recipe.stage(name)
    filled = check(stage, {}, name)
    assert check(stage, filled, name) == filled
    assert check(stage, json.loads(json.dumps(plain(filled))), name) == filled
    json.dumps(json_schema(stage))


def test_on_and_off_are_words_where_a_knob_has_them():
    """YAML 1.1 reads them as true and false."""

    def stage(
        model, *, remedy: Literal["auto", "on", "off"] | Literal["x"] = "auto", flag: bool = True, text: str = ""
    ):
        """Do something."""

    filled = knobs.check(stage, {"remedy": True, "flag": False}, "stage")
    assert filled == {"remedy": "on", "flag": False, "text": ""}
    assert knobs.check(stage, {"remedy": False}, "stage")["remedy"] == "off"
    with pytest.raises(RecipeError, match="text must be"):
        knobs.check(stage, {"text": True}, "stage")
