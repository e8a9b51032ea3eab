"""Stand-ins for a vendor's package that offer no name which the package doesn't have, and note what is used of it.

`vendor_api.json` says what there is. A name that isn't in it is an ``AttributeError``, a keyword that isn't a
``TypeError``, as in the package itself. What a method does is told by the test that needs it.
"""

import functools
import json
import re
import types
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

API = json.loads((Path(__file__).parent / "vendor_api.json").read_text())
Behaviours = Mapping[str, Callable[..., Any]]


def violation(api: Mapping[str, Any], use: str) -> str | None:
    """Why a package doesn't offer what was used of it; None where it does.

    Args:
        api: of one release, from `vendor_api.json`.
        use: ``Enum.MEMBER``, ``Class.property``, ``Class.property=``, or a call by its arguments: ``Class(1)``,
            ``Class.method(2, keyword)``, ``function(1, keyword)``.
    """
    found = re.fullmatch(r"(\w+)(?:\.(\w+))?(=|\((.*)\))?", use)
    assert found, use
    owner, member, form, arguments = found.groups()
    if owner in api["enums"]:
        return None if member in api["enums"][owner] else f"{owner} has no {member}"
    if owner in api["classes"]:
        members = api["classes"][owner]
        if member is None:
            return _unbound(members.get("__init__"), arguments or "", owner)
        if member not in members:
            return f"{owner} has no {member}"
        told = members[member]
        if told in ("ro", "rw"):
            return f"{owner}.{member} can't be called" if form == f"({arguments})" else _unset(told, form, use)
        return _unbound(told, arguments or "", f"{owner}.{member}") if arguments is not None else f"{use} is a method"
    if owner in api["functions"]:
        return _unbound(api["functions"][owner], arguments or "", owner)
    return f"there is no {owner}"


def _unset(told: str, form: str | None, use: str) -> str | None:
    return f"{use} can't be set" if form == "=" and told == "ro" else None


def _unbound(overloads: list[list[str]] | None, arguments: str, name: str) -> str | None:
    """Why no overload takes so many positional arguments and these keywords."""
    if not overloads:
        return None  # the package doesn't tell
    count, *keywords = arguments.replace(" ", "").split(",") if arguments else ["0"]
    for parameters in overloads:
        names = [parameter.rstrip("?") for parameter in parameters]
        given = {*names[: int(count)], *keywords}
        needed = {parameter for parameter in parameters if not parameter.endswith("?")}
        if int(count) <= len(names) and set(keywords) <= set(names[int(count) :]) and needed <= given:
            return None
    return f"{name} takes {overloads}, not ({arguments})"


class Thing:
    """An object of a vendor's class: state under names of its own, everything else checked and noted."""

    def __init__(self, vendor: "Vendor", kind: str, **state: Any) -> None:
        self.__dict__.update(vendor=vendor, kind=kind, state=state)

    def __getattr__(self, name: str) -> Any:
        vendor, kind = self.vendor, self.kind
        told = vendor.api["classes"][kind].get(name, "absent")
        if told == "absent":
            raise AttributeError(f"{kind} of {vendor.release} has no {name}")
        if told in ("ro", "rw"):
            vendor.note(f"{kind}.{name}")
            behaviour = vendor.behaviours.get(f"{kind}.{name}")
            return behaviour(self) if behaviour else self.state[name]
        return functools.partial(vendor.call, f"{kind}.{name}", self)

    def __setattr__(self, name: str, value: Any) -> None:
        self.vendor.note(f"{self.kind}.{name}=")
        self.state[name] = value

    def __int__(self) -> int:
        return int(self.state["address"])

    def __bytes__(self) -> bytes:
        return bytes(self.state["content"])


class _Maker:
    """A vendor's class as it is called: to make an object, or for a static method."""

    def __init__(self, vendor: "Vendor", kind: str) -> None:
        self._vendor, self._kind = vendor, kind

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._vendor.make(self._kind, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._vendor.static, f"{self._kind}.{name}")


class Vendor:
    """One package of one release.

    Args:
        api: its name in `vendor_api.json`.
        behaviours: what its classes, methods and functions do, by ``Class``, ``Class.method`` or ``function``.
        release: said instead of the true one.
    """

    def __init__(self, api: str, behaviours: Behaviours, release: str | None = None) -> None:
        self.api = API[api]
        self.release = release or self.api["release"]
        self.behaviours = behaviours
        self.used: set[str] = set()

    def note(self, use: str) -> None:
        """Remember a use, or refuse it as the package would."""
        wrong = violation(self.api, use)
        if wrong:
            raise (TypeError if "takes" in wrong else AttributeError)(f"{self.release}: {wrong}")
        self.used.add(use)

    def call(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Note a call and do what the test says; the object itself is the first argument of a method."""
        return self._called(name, len(arguments) - ("." in name), *arguments, **keywords)

    def static(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """The same for a method that is called on its class."""
        return self._called(name, len(arguments), *arguments, **keywords)

    def _called(self, name: str, count: int, *arguments: Any, **keywords: Any) -> Any:
        self.note(f"{name}({', '.join([str(count), *keywords])})")
        behaviour = self.behaviours.get(name)
        if behaviour is None:
            raise NotImplementedError(f"The fake doesn't know what {name} does.")
        return behaviour(*arguments, **keywords)

    def module(self, name: str, bases: tuple[str, ...] = ()) -> types.ModuleType:
        """The package as a module.

        Args:
            name: by which it is imported.
            bases: classes that are inherited from; their constants are numbers.
        """
        module = types.ModuleType(name)
        module.__version__ = self.release  # type: ignore[attr-defined]
        for enum, members in self.api["enums"].items():
            setattr(module, enum, self._enum(enum, members))
        for kind in self.api["classes"]:
            made = self._base(kind) if kind in bases else _Maker(self, kind)
            setattr(module, kind, type(kind, (Exception,), {}) if kind.endswith("Error") else made)
        for function in self.api["functions"]:
            setattr(module, function, functools.partial(self.call, function))
        return module

    def make(self, kind: str, *arguments: Any, **keywords: Any) -> Any:
        """An object of a class."""
        self.note(f"{kind}({', '.join([str(len(arguments)), *keywords])})")
        behaviour = self.behaviours.get(kind)
        return behaviour(*arguments, **keywords) if behaviour else Thing(self, kind)

    def _enum(self, enum: str, members: list[str]) -> Any:
        note, values = self.note, IntEnum(enum, members, start=0)  # type: ignore[misc]

        class Noting:
            def __getattr__(self, member: str) -> Any:
                note(f"{enum}.{member}")
                return values[member]

        return Noting()

    def _base(self, kind: str) -> type:
        """A class to inherit from; what overrides a method must bear a name that the package calls."""
        note, members = self.note, self.api["classes"][kind]
        constants = {name: place for place, name in enumerate(sorted(members)) if members[name] in ("ro", "rw")}

        class Meta(type):
            def __getattribute__(cls, name: str) -> Any:
                if name in constants:
                    note(f"{kind}.{name}")
                    return constants[name]
                return super().__getattribute__(name)

        class Base(metaclass=Meta):
            def __init__(self) -> None:
                note(f"{kind}(0)")

            def __init_subclass__(cls) -> None:
                for name, value in vars(cls).items():
                    if callable(value) and not name.startswith("_") and name in members:
                        code = value.__code__
                        note(f"{kind}.{name}(0, {', '.join(code.co_varnames[1 : code.co_argcount])})")

        return Base
