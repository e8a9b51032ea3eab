"""The facts about runtimes."""

from dataclasses import fields, replace
from typing import get_args

import pytest

from rescompress import backends
from rescompress.errors import RecipeError
from rescompress.graph import OPS
from rescompress.schemes import CPU, SCHEMES, QuantScheme, scheme_for


@pytest.mark.parametrize("runtime", SCHEMES)
def test_a_scheme_speaks_of_ops_that_graphs_have(runtime: str) -> None:
    scheme = SCHEMES[runtime]
    known = {*OPS.values(), "slice", "unsqueeze"}  # PyTorch's own names of ops that only move values
    assert scheme.runtime == runtime
    assert {*scheme.quantized_ops, *scheme.passing_ops} <= known
    assert set(scheme.closed_ops) <= set(scheme.quantized_ops)
    assert not set(scheme.passing_ops) & set(scheme.quantized_ops)
    assert {"conv", "linear", "add"} <= set(scheme.quantized_ops)


@pytest.mark.parametrize("runtime", backends.names())
def test_every_backend_follows_its_facts_or_computes_in_float(runtime: str) -> None:
    assert SCHEMES.get(runtime) == backends.get(runtime).SCHEME
    assert (runtime in SCHEMES) == (runtime not in ("eager", "inductor"))


@pytest.mark.parametrize("cpu", get_args(CPU))
def test_only_onnx_runtime_on_arm_differs_by_processor(cpu: CPU) -> None:
    for runtime, scheme in SCHEMES.items():
        found = scheme_for(runtime, cpu)
        differing = {f.name for f in fields(QuantScheme) if getattr(found, f.name) != getattr(scheme, f.name)}
        assert differing == ({"activation_dtype"} if (runtime, cpu) == ("onnxruntime", "arm") else set())


def test_a_fact_of_tensorrt_is_that_zero_is_zero() -> None:
    """`IQuantizeLayer`: INT8 is symmetric only; so is Core ML's default."""
    assert {name for name, scheme in SCHEMES.items() if scheme.symmetric_activations} == {"tensorrt", "coreml"}
    assert all(scheme.activation_dtype == "int8" for scheme in SCHEMES.values() if scheme.symmetric_activations)


def test_an_unknown_runtime_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(RecipeError, match=r"known for tvm.*tensorrt, onnxruntime"):
        scheme_for("tvm")


def test_schemes_are_values() -> None:
    assert replace(SCHEMES["tensorrt"]) == SCHEMES["tensorrt"]
    assert len(set(SCHEMES.values())) == len(SCHEMES)
