"""A stage's knobs, read off its signature and docstring: one source for Python, the recipe and the command line.

A knob is a keyword-only parameter. Its annotation says type and limits, its default is the default, and the ``Args:``
section of the docstring says what it means.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import core_schema

from rescompress import catalog
from rescompress.errors import RecipeError

P = ParamSpec("P")
R = TypeVar("R")
Choice = str | Mapping[str, Mapping[str, Any]]
"""A file of an open folder, as a bare name or as ``{name: {knob: value}}``."""


@dataclass(frozen=True)
class Knob:
    """One keyword-only parameter: what a person may turn."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Folder:
    """Annotation of a knob whose value names a file in an open folder; ``entry`` is the function in each file."""

    package: str
    entry: str

    def check(self, value: Choice) -> dict[str, dict[str, Any]]:
        """``{name: {every knob: value}}`` for a bare name or a partly filled mapping.

        Raises:
            RecipeError: no such file, or a knob of it is wrong.
        """
        name, given = (value, {}) if isinstance(value, str) else only_item(value)
        return {name: check(self._function(name), given or {}, name)}

    def bind(self, value: Choice) -> Callable[..., Any]:
        """The file's entry function with its knobs filled in."""
        ((name, filled),) = self.check(value).items()
        return functools.partial(self._function(name), **filled)

    def module(self, value: Choice) -> Any:
        """The file itself."""
        return catalog.load(self.package, value if isinstance(value, str) else only_item(value)[0])

    def _function(self, name: str) -> Callable[..., Any]:
        return cast(Callable[..., Any], getattr(catalog.load(self.package, name), self.entry))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        options = list(catalog.names(self.package))
        return {
            "anyOf": [{"enum": options}, {"type": "object", "propertyNames": {"enum": options}, "maxProperties": 1}]
        }


@dataclass(frozen=True)
class Named:
    """Annotation of a knob whose value is the bare name of a file in an open folder."""

    package: str

    def check(self, value: str) -> str:
        """The name itself.

        Raises:
            RecipeError: there is no such file.
        """
        catalog.load(self.package, value)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, core_schema.str_schema())

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"enum": list(catalog.names(self.package))}


def knobs(function: Callable[..., Any]) -> tuple[Knob, ...]:
    """The knobs of a function, in the order of its signature."""
    said = _args_section(inspect.getdoc(function) or "")
    return tuple(
        Knob(name, parameter.annotation, parameter.default, said.get(name, ""))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    )


def group_knobs(group: type) -> tuple[Knob, ...]:
    """The fields of a frozen dataclass that is itself one knob, such as a training schedule."""
    hints = get_type_hints(group, include_extras=True)
    said = _args_section(inspect.getdoc(group) or "")
    return tuple(Knob(f.name, hints[f.name], f.default, said.get(f.name, "")) for f in dataclasses.fields(group))


@functools.cache
def schema(function: Callable[..., Any]) -> type[BaseModel]:
    """The knobs of a function as a pydantic model that refuses unknown names."""
    fields: dict[str, Any] = {
        knob.name: (
            Annotated[knob.annotation, Field(description=knob.help)],
            ... if knob.required else Field(default=knob.default, validate_default=True),
        )
        for knob in knobs(function)
    }
    config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    return cast(type[BaseModel], create_model(function.__name__, __config__=config, **fields))


def check(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every knob of a function with its value, checked; defaults filled in.

    Raises:
        RecipeError: an unknown knob, a value of the wrong type or beyond its limits.
    """
    model = schema(function)
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where} takes knobs by name, not {values!r}.", f"Write {where}: {{knob: value}}.")
    try:
        checked = model.model_validate({name: _as_word(value, model, name) for name, value in values.items()})
    except ValidationError as error:
        raise explain(error, where, tuple(model.model_fields)) from None
    filled = {name: getattr(checked, name) for name in model.model_fields}
    getattr(function, "agree", lambda _: None)(filled)
    return filled


def _as_word(value: Any, model: type[BaseModel], name: Any) -> Any:
    """``on`` and ``off`` where YAML has read them as true and false, and they are among a knob's choices."""
    word = {True: "on", False: "off"}[value] if isinstance(value, bool) else None
    known = _words(model.model_fields[name].annotation) if word and name in model.model_fields else set()
    return word if word in known else value


def _words(annotation: Any) -> set[Any]:
    """The choices of a literal, or of a union of literals."""
    parts = get_args(annotation)
    return set(parts) if get_origin(annotation) is Literal else {word for part in parts for word in _words(part)}


def agreeing(rule: Callable[[Mapping[str, Any]], None]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a stage, below ``checked``, some of whose knobs exclude others.

    Args:
        rule: is handed every knob's value, and raises ``RecipeError`` where they contradict each other.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        function.__dict__["agree"] = rule
        return function

    return mark


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a stage so that its knobs are checked however it is called."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return cast(Callable[..., R], function)(*args, **check(function, kwargs, function.__name__))

    return call


def explain(error: ValidationError, where: str, known: tuple[str, ...]) -> RecipeError:
    """The first thing that pydantic found wrong, as one sentence of fact and one of remedy."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return RecipeError(f"{where} has no knob '{name}'.", catalog.suggest(name, known))
    if first["type"] == "missing":
        return RecipeError(f"{where} needs the knob '{name}'.", f"Give it a value: {name}: …")
    said = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    shown = repr(first["input"])
    return RecipeError(
        f"{where}: {name} must be {said}, but it is {shown if len(shown) < 80 else shown[:77] + '...'}.",
        "Correct the value in the recipe or on the command line.",
    )


def only_item(value: Any) -> tuple[str, Any]:
    """Name and content of a mapping with one entry.

    Raises:
        RecipeError: it is no such mapping.
    """
    if not isinstance(value, Mapping) or len(value) != 1:
        raise RecipeError(f"{value!r} names no single choice.", "Write a name, or one 'name: {knob: value}'.")
    ((name, given),) = value.items()
    return str(name), given


def plain(value: Any) -> Any:
    """Knob values as JSON values: groups as mappings, paths as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def json_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The knobs of a function as a JSON schema without references, so that it can stand inside another."""
    whole = schema(function).model_json_schema()
    return cast(dict[str, Any], _resolve(whole, whole.pop("$defs", {})))


def _resolve(part: Any, shared: dict[str, Any]) -> Any:
    if isinstance(part, dict):
        if "$ref" in part:
            rest = {key: item for key, item in part.items() if key != "$ref"}
            return {**_resolve(shared[part["$ref"].rpartition("/")[2]], shared), **rest}
        return {key: _resolve(item, shared) for key, item in part.items()}
    return [_resolve(item, shared) for item in part] if isinstance(part, list) else part


def _args_section(doc: str) -> dict[str, str]:
    """``{name: meaning}`` from the ``Args:`` or ``Attributes:`` section of a Google docstring."""
    match = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if not match:
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in match.group(1).splitlines():
        entry = re.match(r"^ {4}(\w+):\s*(.*)$", line)
        if entry:
            name = entry.group(1)
            found[name] = entry.group(2)
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
