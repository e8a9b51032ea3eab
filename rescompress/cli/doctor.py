"""What works on this machine, and the exact line that installs the rest."""

from dataclasses import dataclass, field

from rescompress import backends
from rescompress.benchmarking import machine
from rescompress.benchmarking.conditions import conditions, nvml
from rescompress.spec import Environment


@dataclass(frozen=True)
class Target:
    """One runtime as it stands here.

    Attributes:
        rung: the highest rung that an artifact can climb on this machine; empty where nothing can be exported.
        hindrance: a sentence on what hinders more.
        remedy: the line that installs it.
    """

    name: str
    usable: bool
    versions: dict[str, str]
    remedy: str
    rung: str = ""
    hindrance: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The machine and each runtime.

    Attributes:
        conditions: how the machine is set up, which decides whether latencies can be trusted.
    """

    environment: Environment
    targets: tuple[Target, ...]
    conditions: dict[str, str] = field(default_factory=dict)


def diagnose() -> Diagnosis:
    """Say what this machine has: processor, releases, and which runtimes can be exported to and run."""
    targets = tuple(_target(name) for name in backends.names())
    return Diagnosis(machine.environment(), targets, {**conditions(), **nvml.told()})


def _target(name: str) -> Target:
    backend = backends.get(name)
    missing = backend.missing()
    if missing:
        return Target(name, False, {}, f"pip install '{missing}'")
    return Target(name, True, backend.versions(), "", *backend.rung())
