"""From YAML to a checked Recipe, or one sentence of what is wrong: every knob is checked before any tensor moves."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import core_schema

from rescompress import catalog, knobs
from rescompress.artifact import digest
from rescompress.backends import FORMATS
from rescompress.benchmarking import rules
from rescompress.errors import RecipeError
from rescompress.knobs import Choice, Folder, Named
from rescompress.recipe.order import STAGES, check_order, function, stage
from rescompress.recipe.overrides import override_value
from rescompress.spec import Preprocessing

DATA = Folder("rescompress.data", "load")
EXPORT = Folder("rescompress.backends", "export")
TRACKERS = Named("rescompress.training.trackers")
VERIFY = ("rescompress.verification", "verify")
BENCHMARK = ("rescompress.benchmarking", "benchmark")
SHIPPED = (Path(__file__).parents[1] / "_recipes", Path(__file__).parents[2] / "recipes")
"""Where recipes lie in an installed package, and in a checkout."""


@dataclass(frozen=True)
class Step:
    """One stage of a recipe with all its knobs."""

    stage: str
    knobs: dict[str, Any]


class _Steps:
    """Annotation of the list of stages: each is a name, or one ``name: {knob: value}``."""

    def check(self, value: Any) -> tuple[Step, ...]:
        if not isinstance(value, (list, tuple)):
            raise RecipeError("stages is not a list.", "Write one stage a line: - prune: {ratio: 0.3}")
        steps = tuple(item if isinstance(item, Step) else self._step(item) for item in value)
        check_order([step.stage for step in steps])
        return steps

    def _step(self, item: Any) -> Step:
        name, given = (item, {}) if isinstance(item, str) else knobs.only_item(item)
        return Step(name, knobs.check(stage(name), given or {}, name))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        forms = {name: knobs.json_schema(stage(name)) for name in STAGES}
        mapping = {"type": "object", "properties": forms, "additionalProperties": False, "maxProperties": 1}
        return {"type": "array", "items": {"anyOf": [{"enum": list(STAGES)}, mapping]}}


class _Targets:
    """Annotation of the targets: one or several, each a name, or one ``name: {knob: value}``."""

    def check(self, value: Any) -> tuple[dict[str, dict[str, Any]], ...]:
        wanted = value if isinstance(value, (list, tuple)) else [value]
        pairs = ((item, {}) if isinstance(item, str) else knobs.only_item(item) for item in wanted)
        found = tuple(target(name, given or {}) for name, given in pairs)
        names = [knobs.only_item(one)[0] for one in found]
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(f"{name} is named twice as a target.", "Use two recipes, or `rescompress export`.")
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        one = EXPORT.__get_pydantic_json_schema__(schema, handler)
        one["anyOf"].append({"enum": list(FORMATS)})
        return {"anyOf": [one, {"type": "array", "items": one}]}


class _Trackers:
    """Annotation of the trackers: one or several files of the folder."""

    def check(self, value: Any) -> tuple[str, ...]:
        wanted = [value] if isinstance(value, str) else value
        return tuple(TRACKERS.check(name) for name in wanted)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "array", "items": TRACKERS.__get_pydantic_json_schema__(schema, handler)}


class _Rules:
    """Annotation of the latency gate: one or several rules such as ``p50>+5%``."""

    def check(self, value: Any) -> tuple[str, ...]:
        wanted = [value] if isinstance(value, str) else value
        return tuple(str(rules.parse(str(text))) for text in wanted)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


class Knobs:
    """Annotation of a mapping that holds the knobs of one function, named by module and function."""

    def __init__(self, where: tuple[str, str]) -> None:
        self._where = where

    def check(self, value: Any) -> dict[str, Any]:
        """Every knob with its value."""
        if value is not None and not isinstance(value, Mapping):
            raise ValueError("a mapping of knobs")
        return knobs.check(function(*self._where), value or {}, self._where[1])

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return knobs.json_schema(function(*self._where))


class ModelChoice(BaseModel):
    """The trained network to start from: a checkpoint, or a stock network with random weights to be trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str | None = Field(None, description="checkpoint or state dict, or the name of a shipped model")
    family: str | None = Field(None, description="family of a state dict; found by itself where it fits")
    architecture: str | None = Field(None, description="architecture of a state dict; found by itself where it fits")
    classes: int | None = Field(None, ge=0, description="outputs of the classifier; 0 where there is none")
    builder: str | None = Field(None, description="your own function that builds the network: package.module:function")
    arguments: dict[str, Any] = Field({}, description="further arguments of the family's build function")
    preprocessing: Preprocessing | None = Field(None, description="how its images are prepared, if not as is usual")

    @field_validator("classes")
    @classmethod
    def _several(cls, value: int | None) -> int | None:
        if value == 1:
            raise ValueError("at least 2, or 0 where there is no classifier")
        return value


class Recipe(BaseModel):
    """One job: a model, its data, the stages, the targets, and what must hold in the end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the run's folder")
    seed: int = Field(0, ge=0, description="every random choice is drawn from this")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where training runs: auto, cpu, cuda or cuda:N"
    )
    trackers: Annotated[tuple[str, ...], _Trackers()] = Field((), description="tools in which training is watched")
    model: ModelChoice = Field(description="the trained network to start from")
    data: Annotated[Choice, DATA] | None = Field(None, description="labelled images")
    stages: Annotated[tuple[Step, ...], _Steps()] = Field((), description="what happens to the model, in this order")
    export: Annotated[tuple[Choice, ...], _Targets()] = Field((), description="formats or runtimes to export to")
    prove: Literal["all", "ends"] = Field("all", description="export and time every stage, or only first and last")
    max_accuracy_drop: float | None = Field(None, ge=0, description="gate: most points of top-1 that may be lost")
    fail_if: Annotated[tuple[str, ...], _Rules()] = Field((), description="gate: what no artifact may be, as p50>+5%")
    baseline_file: str | None = Field(None, description="results or a run that signed limits of fail_if are against")
    verify: Annotated[dict[str, Any], Knobs(VERIFY)] = Field({}, validate_default=True)
    benchmark: Annotated[dict[str, Any], Knobs(BENCHMARK)] | Literal[False] = Field({}, validate_default=True)

    @field_validator("model", mode="before")
    @classmethod
    def _checkpoint(cls, value: Any) -> Any:
        return {"checkpoint": value} if isinstance(value, str) else value

    def filled(self) -> dict[str, Any]:
        """The recipe as plain values with all defaults filled in."""
        plain = self.model_dump(mode="python", exclude={"stages"})
        plain["stages"] = [{step.stage: step.knobs} for step in self.stages]
        return cast(dict[str, Any], knobs.plain(plain))

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that change with every value of the recipe."""
        return digest(self.filled())[:8]


def read(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, or from one that is shipped, by its name.

    Args:
        path: the file.
        overrides: ``key.path=value`` each; a stage is found by name or number, as in ``stages.prune.ratio=0.5``.

    Raises:
        RecipeError: the file is missing or no YAML, or a key or value of it is wrong.
    """
    found = find(path)
    try:
        content = yaml.safe_load(found.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).replace("\n", " ")
        raise RecipeError(f"{found} is no YAML: {first}.", "Correct the file.") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{found} holds no mapping.", "A recipe starts with 'name: …'.")
    return parse(content, overrides)


def parse(content: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Check a recipe that is given as plain values.

    Args:
        content: the recipe; it is not edited.
        overrides: as of ``read``.

    Raises:
        RecipeError: a key or value of it is wrong.
    """
    whole = copy.deepcopy(dict(content))
    for override in overrides:
        override_value(whole, override)
    try:
        job = Recipe.model_validate(whole)
    except ValidationError as error:
        raise knobs.explain(error, "The recipe", tuple(Recipe.model_fields)) from None
    if job.max_accuracy_drop is not None and job.data is None:
        raise RecipeError("max_accuracy_drop needs labelled images.", "Name a data source with --data, or data: in it.")
    if job.baseline_file is not None and not job.fail_if:
        raise RecipeError("No rule looks at the baseline_file.", 'Say what must not be: fail_if: "p50>+5%".')
    return job


def json_schema() -> dict[str, Any]:
    """The recipe's JSON schema, by which editors complete and check a YAML file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {file.stem: file for folder in SHIPPED for file in sorted(folder.glob("*.yaml"))}


def find(path: Path | str) -> Path:
    """The file itself, or the shipped recipe of this name.

    Raises:
        RecipeError: there is neither.
    """
    file = Path(path)
    if file.is_file():
        return file
    if str(path) in shipped():
        return shipped()[str(path)]
    raise RecipeError(f"There is no recipe {path}.", catalog.suggest(file.stem, sorted(shipped())))


def target(name: str, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{backend: {every export knob: value}}`` for a backend or a file format and some knobs.

    Raises:
        RecipeError: there is no such backend, or a knob is wrong.
    """
    return EXPORT.check({FORMATS.get(name, name): given})
