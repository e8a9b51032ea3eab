"""Help is there at once, and says of every knob what the function's signature and docstring say."""

import subprocess
import sys
from typing import Any, get_args, get_type_hints

import pytest

import rescompress
from rescompress import backends
from rescompress.benchmarking import benchmark
from rescompress.cli import VERBS
from rescompress.knobs import json_schema
from rescompress.quantization import quantize
from rescompress.recipe import order
from rescompress.verification import verify

LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
TURNED = {
    **{name: order.stage(name) for name in order.STAGES},
    "export": backends.get("onnxruntime").export,
    "verify": verify,
    "benchmark": benchmark,
}


def flat(properties: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each knob's schema by name; the fields of a group one by one, the types of an optional knob in one."""
    found = {}
    for name, schema in properties.items():
        if "properties" in schema:
            found.update(flat(schema["properties"]))
        else:
            optional = [part for part in schema.get("anyOf", ()) if part.get("type") not in ("null", "object")]
            found[name] = {**schema, **(optional[0] if optional else {})}
    return found


def words(text: str) -> str:
    return " ".join(text.split())


def test_help_lists_every_verb_and_imports_no_torch():
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rescompress", "--help"], capture_output=True, text=True
    )
    assert ended.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "rescompress.cli" in imported
    assert not imported & {"torch", "numpy", "onnxruntime", "pydantic", "sklearn"}
    shown = [line.split()[0] for line in ended.stdout.partition("Verbs:")[2].splitlines() if line[2:3].strip()]
    assert shown == list(VERBS)


def test_no_argument_shows_the_help(say):
    said = say()
    assert "Verbs:" in said.out + said.err
    assert "error:" not in said.err


def test_version(say):
    assert say("--version").out.split()[-1] == rescompress.__version__


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, say):
    said = say(verb, "--help")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"Usage: rescompress {verb}")
    for flag in ("--format [human|json|quiet]", "--debug", "-h, --help"):
        assert flag in words(said.out)


@pytest.mark.parametrize("verb", TURNED)
def test_help_shows_every_knob_with_limits_default_and_meaning(verb, say):
    shown = words(say(verb, "--help").out)
    for name, schema in flat(json_schema(TURNED[verb])["properties"]).items():
        flag = name.replace("_", "-")
        start = shown.index(f"--no-{flag} " if schema.get("type") == "boolean" else f"--{flag} ")
        end = shown.find(" --", start + 1)
        line = shown[start:] if end < 0 else shown[start:end]
        assert words(schema["description"]).lower() in line.lower() if "description" in schema else True
        for limit, sign in LIMITS.items():
            if limit in schema:
                assert f"{sign} {schema[limit]}" in line
        for choice in schema.get("enum", ()):
            assert str(choice) in line.replace("- ", "-")  # a long line may break at a hyphen
        if not isinstance(schema.get("default"), (dict, type(None))):
            assert f"default {schema['default']}" in line


def test_fields_of_the_schedule_have_their_meaning(say):
    shown = words(say("fit", "--help").out)
    assert "--weight-decay NUMBER L2 penalty on convolution and linear weights" in shown
    assert "--epochs INTEGER Passes over the train split. [>= 1, <= 10000; default 10]" in shown


def test_every_precision_is_a_bare_flag(say):
    shown = words(say("quantize", "--help").out)
    choices = get_args(get_type_hints(quantize)["precision"])
    assert "int8" in choices
    for choice in choices:
        assert f"--{choice} The same as --precision {choice}." in shown


@pytest.mark.parametrize(("wrong", "right"), [("quntize", "quantize"), ("bench", "benchmark"), ("Fuse", "fuse")])
def test_unknown_verb_suggests_the_nearest(wrong, right, say):
    said = say(wrong)
    assert said.code == 2
    assert said.err == f"error: There is no verb '{wrong}'. Did you mean '{right}'?\nSee --help.\n"


def test_unknown_verb_without_a_near_one_lists_all(say):
    said = say("zzz")
    assert all(verb in said.err for verb in VERBS)
