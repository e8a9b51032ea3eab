"""Flags read off knobs: type, limits, default and meaning come from the function's signature and docstring."""

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import yaml

from rescompress import catalog
from rescompress.knobs import Folder, Knob, Named, group_knobs, knobs

BARE = ("precision", "floats")
"""Knobs whose choices are flags of their own."""


def options(function: Callable[..., Any]) -> list[click.Parameter]:
    """One flag per knob of a function; the fields of a group of knobs are flags of their own."""
    made: list[click.Parameter] = []
    for knob in knobs(function):
        for name, inner in _flat(knob):
            made.append(_option(name, inner))
            if inner.name in BARE:
                made += [_bare(inner.name, choice) for choice in get_args(_bare_type(inner.annotation))]
    return made


def shared_options(functions: Mapping[str, Callable[..., Any]]) -> list[click.Parameter]:
    """One flag per knob that any of several functions has, with whose it is; the first one's meaning stands for all."""
    owners: dict[tuple[str, ...], list[str]] = {}
    made: dict[tuple[str, ...], click.Option] = {}
    for name, function in functions.items():
        for option in options(function):
            assert isinstance(option, click.Option)
            flags = tuple(option.opts)
            owners.setdefault(flags, []).append(name)
            made.setdefault(flags, option)
    for flags, option in made.items():
        option.help = f"{option.help}  ({', '.join(owners[flags])})"
    return list(made.values())


def values(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that were given on the command line, as the function takes them."""
    found: dict[str, Any] = {}
    for knob in knobs(function):
        for name, inner in _flat(knob):
            value = given.get(name)
            if value is None:
                continue
            if inner is knob:
                found[knob.name] = value
            else:
                found.setdefault(knob.name, {})[inner.name] = value
    return found


def _flat(knob: Knob) -> Iterator[tuple[str, Knob]]:
    """A knob by its flag's name; a group's fields one by one."""
    if isinstance(knob.annotation, type) and dataclasses.is_dataclass(knob.annotation):
        for inner in group_knobs(knob.annotation):
            yield inner.name, inner
    else:
        yield knob.name, knob


def _option(name: str, knob: Knob) -> click.Option:
    flag = "--" + name.replace("_", "-")
    kind = _bare_type(knob.annotation)
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=_help(knob))
    return click.Option([flag, name], type=_Value(knob), default=None, help=_help(knob), metavar=_metavar(knob))


def _bare(knob: str, choice: str) -> click.Option:
    """A choice as a flag of its own, such as ``--int8``."""
    flag = click.Option([f"--{choice}", knob], flag_value=choice, help=f"The same as --{knob} {choice}.")
    flag.default = None
    return flag


class _Value(click.ParamType[Any]):
    """A knob's value as YAML writes it; the limits are checked where all knobs are."""

    def __init__(self, knob: Knob) -> None:
        self.name = _metavar(knob).lower()
        self._text = _bare_type(knob.annotation) in (str, Path)
        self._many = get_origin(_bare_type(knob.annotation)) is tuple

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read numbers, names, lists and ``{name: {knob: value}}``."""
        if self._many and isinstance(value, str) and not value.startswith("["):
            return [part.strip() for part in value.split(",")]
        if not isinstance(value, str) or self._text:
            return value
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            self.fail(f"{value!r} can't be read.", param, ctx)


def _help(knob: Knob) -> str:
    facts = [limit for limit in (_choices(knob), _limits(knob)) if limit]
    if not knob.required and knob.default is not None:
        facts.append(f"default {list(knob.default) if isinstance(knob.default, tuple) else knob.default}")
    meaning = knob.help[:1].upper() + knob.help[1:]
    return f"{meaning}  [{'; '.join(facts)}]" if facts else meaning


def _choices(knob: Knob) -> str:
    kind = _bare_type(knob.annotation)
    for note in _notes(knob.annotation):
        if isinstance(note, (Folder, Named)):
            return " | ".join(catalog.names(note.package))
    return " | ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else ""


def _limits(knob: Knob) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [limit for note in _notes(knob.annotation) for limit in getattr(note, "metadata", ())]
    found = [
        f"{sign} {getattr(limit, name)}" for limit in limits for name, sign in signs.items() if hasattr(limit, name)
    ]
    return ", ".join(found)


def _metavar(knob: Knob) -> str:
    kind = _bare_type(knob.annotation)
    if get_origin(kind) is Literal or _choices(knob):
        return "NAME"
    return {int: "INTEGER", float: "NUMBER", Path: "FILE"}.get(kind, "TEXT")


def _notes(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(note for kind in get_args(annotation) for note in _notes(kind))
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def _bare_type(annotation: Any) -> Any:
    """The type without its notes and without None."""
    if get_origin(annotation) is Annotated:
        return _bare_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _bare_type(rest[0]) if len(rest) == 1 else annotation
    return annotation
