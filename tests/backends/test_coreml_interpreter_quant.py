"""MIL's integer operations, against the specification's formulas in exact arithmetic."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rescompress.backends import _coreml_interpreter
from rescompress.backends import _coreml_interpreter_quant as quant
from rescompress.backends._coreml_interpreter_file import unpack_bits
from tests.backends.mil import loaded, needs_coremltools, noise, together

Array = NDArray[Any]
LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}
X = noise(2, 3, 4) * 3
GENERATOR = np.random.default_rng(3)
WEIGHT = GENERATOR.integers(-128, 128, (4, 3, 2), dtype=np.int8)
SCALES, ZEROS = np.array([0.5, 0.01, 2.0, 0.125], np.float32), np.array([0, -3, 100, -128], np.int8)


def rounded(value: float, scale: float, zero: int, dtype: str) -> int:
    """``clip(round(value / scale) + zero)``; Python rounds fractions exactly, halves to even."""
    low, high = LIMITS[dtype]
    return min(max(round(Fraction(value) / Fraction(scale)) + zero, low), high)


@given(
    values=st.lists(st.integers(-2000, 2000), min_size=1, max_size=8),
    exponent=st.integers(-4, 4),
    dtype=st.sampled_from(("int8", "uint8")),
    data=st.data(),
)
def test_quantize_rounds_halves_to_even_and_saturates(values, exponent, dtype, data):
    scale, zero = 2.0**exponent, data.draw(st.integers(*LIMITS[dtype]))
    x = torch.tensor(values) * scale / 4  # quotients are whole numbers, quarters and halves
    kind = quant.INTEGERS[dtype]
    got = quant.quantize(x, torch.tensor(scale), dtype, torch.tensor(zero, dtype=kind))
    assert got.dtype == kind
    assert got.tolist() == [rounded(value, scale, zero, dtype) for value in x.tolist()]
    back = quant.dequantize(got, torch.tensor(scale), torch.tensor(zero, dtype=kind))
    assert back.tolist() == [(number - zero) * scale for number in got.tolist()]


@given(
    codes=st.lists(st.integers(0, 255), min_size=1, max_size=40),
    bits=st.sampled_from((1, 2, 3, 4, 6, 8)),
    signed=st.booleans(),
)
def test_integers_of_few_bits_come_back_out_of_their_bytes(codes, bits, signed):
    codes = [code % 2**bits for code in codes]
    whole = sum(code << (bits * place) for place, code in enumerate(codes))  # from the lowest bit upwards
    packed = np.frombuffer(whole.to_bytes((len(codes) * bits + 7) // 8, "little"), np.uint8)
    expected = [code - 2**bits if signed and code >= 2 ** (bits - 1) else code for code in codes]
    assert unpack_bits(packed, bits, len(codes), signed=signed).tolist() == expected


CASES: dict[str, tuple[Any, Any]] = {
    "whole": (
        lambda mb, x, **_: mb.cast(
            x=mb.quantize(input=x, scale=np.float32(0.05), zero_point=np.int8(7), output_dtype="int8"), dtype="fp32"
        ),
        lambda: np.vectorize(lambda v: rounded(float(v), float(np.float32(0.05)), 7, "int8"))(X),
    ),
    "unsigned": (
        lambda mb, x, **_: mb.cast(x=mb.quantize(input=x, scale=np.float32(0.5), output_dtype="uint8"), dtype="fp32"),
        lambda: np.vectorize(lambda v: rounded(float(v), 0.5, 0, "uint8"))(X),
    ),
    "channels": (
        lambda mb, x, **_: mb.cast(
            x=mb.quantize(input=x, scale=SCALES, zero_point=ZEROS, axis=-1, output_dtype="int8"), dtype="fp32"
        ),
        lambda: np.stack(
            [
                np.vectorize(lambda v, k=k: rounded(float(v), float(SCALES[k]), int(ZEROS[k]), "int8"))(X[..., k])
                for k in range(4)
            ],
            -1,
        ),
    ),
    "dequantize": (
        lambda mb, **_: mb.dequantize(input=WEIGHT, scale=SCALES, zero_point=ZEROS, axis=0),
        lambda: (WEIGHT.astype(int) - ZEROS[:, None, None].astype(int)) * SCALES[:, None, None].astype(float),
    ),
    "dequantize_plain": (
        lambda mb, **_: mb.dequantize(input=WEIGHT, scale=np.float32(0.25)),
        lambda: WEIGHT.astype(int) * 0.25,
    ),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, Array]:
    return together({name: body for name, (body, _) in CASES.items()}, x=X)


@needs_coremltools
@pytest.mark.parametrize("name", CASES)
def test_operation_computes_the_formula_of_the_specification(name, answers):
    np.testing.assert_allclose(answers[name], CASES[name][1](), rtol=1e-6)


def affine(mb: Any, **_: Any) -> Any:
    return mb.constexpr_affine_dequantize(quantized_data=WEIGHT, zero_point=ZEROS, scale=SCALES, axis=0)


PALETTE, INDICES = noise(16), GENERATOR.integers(0, 16, (3, 7), dtype=np.uint8)
NIBBLES = np.array([*INDICES.flatten(), 0], np.uint8)
MASK = GENERATOR.integers(0, 2, (3, 7), dtype=np.uint8)
KEPT = noise(int(MASK.sum()))


@needs_coremltools
def test_constants_of_ios16_are_decompressed():
    packed = NIBBLES[::2] | (NIBBLES[1::2] << 4)
    cases = {
        "affine": affine,
        "palette": lambda mb, **_: mb.constexpr_lut_to_dense(
            indices=packed, lut=PALETTE, shape=np.array([3, 7], np.uint32)
        ),
        "sparse": lambda mb, **_: mb.constexpr_sparse_to_dense(
            nonzero_data=KEPT, mask=np.packbits(MASK, bitorder="little"), shape=np.array([3, 7], np.uint32)
        ),
        "half": lambda mb, **_: mb.constexpr_cast(source_val=noise(3, 5, dtype=np.float16), output_dtype="fp32"),
    }
    answers = together(cases, "iOS16", x=X)
    expected = (WEIGHT.astype(int) - ZEROS[:, None, None].astype(int)) * SCALES[:, None, None].astype(float)
    np.testing.assert_allclose(answers["affine"], expected, rtol=1e-6)
    np.testing.assert_array_equal(answers["palette"], [[PALETTE[index] for index in row] for row in INDICES])
    sparse = np.zeros((3, 7), np.float32)
    sparse[np.nonzero(MASK)] = KEPT
    np.testing.assert_array_equal(answers["sparse"], sparse)
    np.testing.assert_array_equal(answers["half"], noise(3, 5, dtype=np.float16))


def blocks(dtype: type[np.integer[Any]], low: int, high: int) -> tuple[Array, Array, Array]:
    data = GENERATOR.integers(low, high + 1, (4, 6), dtype=dtype)
    return data, GENERATOR.integers(low, high + 1, (2, 3), dtype=dtype), np.abs(noise(2, 3)) + 0.1


@needs_coremltools
def test_constants_of_ios18_are_decompressed():
    from coremltools.converters.mil.mil import types

    data, offsets, scales = blocks(np.int8, -8, 7)
    small, pairs = data.astype(types.np_int4_dtype), GENERATOR.integers(0, 4, (4, 6), dtype=np.uint8)
    tables, vectors = noise(2, 1, 4, 1, seed=5), noise(1, 1, 4, 3, seed=6)
    indices = pairs.astype(types.np_uint2_dtype)
    cases = {
        "bytes": lambda mb, **_: mb.constexpr_blockwise_shift_scale(data=data, scale=scales, offset=offsets),
        "nibbles": lambda mb, **_: mb.constexpr_blockwise_shift_scale(data=small, scale=scales),
        "tables": lambda mb, **_: mb.constexpr_lut_to_dense(indices=indices, lut=tables),
        "vectors": lambda mb, **_: mb.constexpr_lut_to_dense(indices=indices, lut=vectors, vector_axis=0),
        "sparse": lambda mb, **_: mb.constexpr_sparse_to_dense(
            nonzero_data=KEPT, mask=MASK.astype(types.np_uint1_dtype)
        ),
    }
    answers = together(cases, "iOS18", x=X)
    for i, j in np.ndindex(4, 6):
        block = (i // 2, j // 2)
        scale, shifted = float(scales[block]), int(data[i, j]) - int(offsets[block])
        assert answers["bytes"][i, j] == pytest.approx(scale * shifted, rel=1e-6)
        assert answers["nibbles"][i, j] == pytest.approx(scale * int(data[i, j]), rel=1e-6)
        assert answers["tables"][i, j] == tables[i // 2, 0, pairs[i, j], 0]
        for k in range(3):
            assert answers["vectors"][3 * i + k, j] == vectors[0, 0, pairs[i, j], k]
    sparse = np.zeros((3, 7), np.float32)
    sparse[np.nonzero(MASK)] = KEPT
    np.testing.assert_array_equal(answers["sparse"], sparse)


@needs_coremltools
def test_constants_are_decompressed_once(monkeypatch):
    called = []
    real = quant.OPS["constexpr_affine_dequantize"]

    def counted(quantized_data: Any, zero_point: Any, scale: Any, axis: Any) -> Any:
        called.append(1)
        return real(quantized_data, zero_point, scale, axis)

    monkeypatch.setitem(_coreml_interpreter.OPS, "constexpr_affine_dequantize", counted)
    program = loaded(lambda mb, x: mb.mul(x=x, y=mb.reduce_mean(x=affine(mb))), {"x": X})
    for _ in range(3):
        program.run({"x": X})
    assert called == [1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: quant.quantize(torch.ones(2), torch.tensor(1.0), "int4"),
        lambda: quant.quantize(torch.ones(2), torch.tensor(1.0), "int8", torch.tensor(1, dtype=torch.uint8)),
        lambda: quant.quantize(torch.ones(2, 3), torch.ones(2), "int8"),
        lambda: quant.quantize(torch.ones(2, 3), torch.ones(2), "int8", None, torch.tensor(1)),
        lambda: quant.constexpr_blockwise_shift_scale(torch.ones(4, 6), torch.ones(3, 6)),
        lambda: quant.constexpr_blockwise_shift_scale(torch.ones(4, 6), torch.ones(2, 6), torch.ones(1, 6)),
        lambda: quant.constexpr_lut_to_dense(torch.tensor([3], dtype=torch.uint8), torch.ones(1, 2, 1)),
        lambda: quant.constexpr_lut_to_dense(torch.tensor([1], dtype=torch.uint8), torch.ones(1, 2, 3)),
        lambda: quant.constexpr_lut_to_dense(
            torch.ones(3, dtype=torch.uint8), torch.ones(5), torch.tensor([8], dtype=torch.int32)
        ),
        lambda: quant.constexpr_lut_to_dense(
            torch.ones(3, dtype=torch.uint8), torch.ones(4), torch.tensor([8], dtype=torch.int32)
        ),
        lambda: quant.constexpr_sparse_to_dense(torch.ones(3), torch.tensor([1, 1, 0])),
        lambda: quant.constexpr_cast(torch.ones(3), "int32"),
    ],
)
def test_what_the_specification_rules_out_is_refused(call):
    with pytest.raises(ValueError, match=r"dtype|zero|scale|blocks|offset|palettes|table|bytes|mask"):
        call()
