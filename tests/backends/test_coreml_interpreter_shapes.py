"""Each MIL operation that moves values or changes shapes and types, against NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rescompress.backends import _coreml_interpreter_shapes as shapes
from tests.backends.mil import loaded, needs_coremltools, noise, together

Array = NDArray[Any]
X, Y = noise(2, 3, 4, 6) * 5, noise(2, 3, 4, 6, seed=1)
FLAT = X.reshape(6, 24)


def as_floats(mb: Any, x: Any) -> Any:
    return mb.cast(x=x, dtype="fp32")


def flat(mb: Any, x: Any) -> Any:
    return mb.reshape(x=x, shape=FLAT.shape)


CASES: dict[str, tuple[Any, Any]] = {
    "reshape": (lambda mb, x, **_: mb.reshape(x=x, shape=[6, -1]), lambda: X.reshape(6, 24)),
    "reshape_zero": (lambda mb, x, **_: mb.reshape(x=x, shape=[0, -1, 1, 0]), lambda: X.reshape(2, 12, 1, 6)),
    "reshape_wider": (lambda mb, x, **_: mb.reshape(x=x, shape=[0, 2, -1, 0]), lambda: X.reshape(2, 2, 6, 6)),
    "transpose": (lambda mb, x, **_: mb.transpose(x=x, perm=[0, 3, 1, 2]), lambda: np.moveaxis(X, 3, 1)),
    "expand_dims": (lambda mb, x, **_: mb.expand_dims(x=flat(mb, x), axes=[-1, 1]), lambda: FLAT[:, None, :, None]),
    "squeeze": (
        lambda mb, x, **_: mb.squeeze(x=mb.expand_dims(x=flat(mb, x), axes=[0, 2]), axes=[2]),
        lambda: FLAT[None],
    ),
    "squeeze_all": (lambda mb, x, **_: mb.squeeze(x=mb.expand_dims(x=flat(mb, x), axes=[0, 2])), lambda: FLAT),
    "concat": (lambda mb, x, y: mb.concat(values=[x, y], axis=1), lambda: np.concatenate([X, Y], 1)),
    "concat_interleaved": (
        lambda mb, x, y: mb.concat(values=[x, y], axis=1, interleave=True),
        lambda: np.stack([X[:, 0], Y[:, 0], X[:, 1], Y[:, 1], X[:, 2], Y[:, 2]], 1),
    ),
    "concat_one": (lambda mb, x, **_: mb.concat(values=[x], axis=1), lambda: X),
    "stack": (lambda mb, x, y: mb.stack(values=[x, y], axis=-1), lambda: np.stack([X, Y], -1)),
    "tile": (lambda mb, x, **_: mb.tile(x=x, reps=[1, 2, 1, 3]), lambda: np.tile(X, (1, 2, 1, 3))),
    "split": (lambda mb, x, **_: mb.split(x=x, num_splits=3, axis=-1)[1], lambda: X[..., 2:4]),
    "split_sizes": (lambda mb, x, **_: mb.split(x=x, split_sizes=[1, 4, 1], axis=3)[1], lambda: X[..., 1:5]),
    "slice": (
        lambda mb, x, **_: mb.slice_by_index(x=x, begin=[0, 1, -3, 0], end=[2, 3, 4, 6], stride=[1, 1, 1, 2]),
        lambda: X[:, 1:3, -3:4, ::2],
    ),
    "slice_masked": (
        lambda mb, x, **_: mb.slice_by_index(
            x=x,
            begin=[1, 1, 2, 1],
            end=[1, 1, 1, 5],
            stride=[1, 1, 2, 2],
            begin_mask=[True, False, False, False],
            end_mask=[True, False, True, False],
            squeeze_mask=[False, True, False, False],
        ),
        lambda: X[:, 1, 2::2, 1:5:2],
    ),
    "slice_by_size": (
        lambda mb, x, **_: mb.slice_by_size(x=x, begin=[1, 0, 1, 2], size=[1, -1, 2, -1]),
        lambda: X[1:, :, 1:3, 2:],
    ),
    "pad": (
        lambda mb, x, **_: mb.pad(x=x, pad=[1, 2, 0, 3], constant_val=np.float32(-2)),
        lambda: np.pad(X, [(0, 0), (0, 0), (1, 2), (0, 3)], constant_values=-2),
    ),
    "pad_channels": (
        lambda mb, x, **_: mb.pad(x=x, pad=[0, 0, 1, 2, 0, 0, 0, 0]),
        lambda: np.pad(X, [(0, 0), (1, 2), (0, 0), (0, 0)]),
    ),
    "pad_reflect": (
        lambda mb, x, **_: mb.pad(x=x, pad=[1, 2, 3, 0], mode="reflect"),
        lambda: np.pad(X, [(0, 0), (0, 0), (1, 2), (3, 0)], "reflect"),
    ),
    "pad_replicate": (
        lambda mb, x, **_: mb.pad(x=x, pad=[0, 0, 0, 0, 1, 2, 3, 0], mode="replicate"),
        lambda: np.pad(X, [(0, 0), (0, 0), (1, 2), (3, 0)], "edge"),
    ),
    "shape": (lambda mb, x, **_: as_floats(mb, mb.shape(x=x)), lambda: np.array([2, 3, 4, 6])),
    "gather": (lambda mb, x, **_: mb.gather(x=x, indices=[[2, 0]], axis=1), lambda: X[:, [[2, 0]]]),
    "gather_shape": (
        lambda mb, x, **_: as_floats(mb, mb.gather(x=mb.shape(x=x), indices=[3, 1])),
        lambda: np.array([6, 3]),
    ),
    "cast_int": (lambda mb, x, **_: as_floats(mb, mb.cast(x=x, dtype="int32")), lambda: np.trunc(X)),
    "cast_bool": (
        lambda mb, x, **_: as_floats(mb, mb.cast(x=mb.relu(x=x), dtype="bool")),
        lambda: X > 0,
    ),
    "cast_half": (lambda mb, x, **_: as_floats(mb, mb.cast(x=x, dtype="fp16")), lambda: X.astype(np.float16)),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, Array]:
    return together({f"the_{name}": body for name, (body, _) in CASES.items()}, x=X, y=Y)


@needs_coremltools
@pytest.mark.parametrize("name", CASES)
def test_operation_does_what_numpy_does(name, answers):
    expected = CASES[name][1]()
    got = answers[f"the_{name}"]
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected.astype(np.float32))


@needs_coremltools
def test_a_slice_of_values_that_are_only_known_at_run_time():
    program = loaded(
        lambda mb, x, at: mb.slice_by_size(x=x, begin=at, size=[1, 1, 1, 1]), {"x": X, "at": np.zeros(4, np.int32)}
    )
    (answer,) = program.run({"x": X, "at": np.array([1, 2, 3, 4], np.int32)}).values()
    assert answer.item() == X[1, 2, 3, 4]


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: shapes.cast(x, "float8"),
        lambda x: shapes.cast(x * 1000, "int8"),
        lambda x: shapes.cast(x - 2, "uint8"),
        lambda x: shapes.squeeze(x, ints(0)),
        lambda x: shapes.tile(x, ints(2)),
        lambda x: shapes.split(x, ints(1)[0]),
        lambda x: shapes.split(x, ints(1)[0], ints(2)[0]),
        lambda x: shapes.split(x, ints(1)[0], None, ints(1, 1)),
        lambda x: shapes.slice_by_index(x, ints(1, 2), ints(0, 0), ints(-1, 1)),
        lambda x: shapes.pad(x, ints(1, 1), "symmetric"),
        lambda x: shapes.pad(x, ints(1, -1)),
        lambda x: shapes.gather(x, ints(-1)),
        lambda x: shapes.gather(x, ints(2), ints(0)[0]),
        lambda x: shapes.gather(x, ints(0), ints(1)[0], ints(1)[0]),
        lambda x: shapes.classify(x, ("cat", "dog", "bird")),
        lambda x: shapes.classify(x[:1], ("cat", "dog")),
    ],
)
def test_what_the_specification_leaves_open_is_refused(call):
    with pytest.raises(ValueError, match=r"dtype|fit|axes|reps|split|stride|mode|indices|batch_dims|probabilities"):
        call(torch.ones(2, 3))
