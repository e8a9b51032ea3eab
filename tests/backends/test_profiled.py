"""Which backends tell how long their layers take, and that they are asked alike."""

import inspect

from rescompress import backends


def test_those_with_a_profiler_are_asked_alike() -> None:
    telling = {name: backends.get(name) for name in backends.names()}
    telling = {name: backend for name, backend in telling.items() if isinstance(backend, backends.Profiled)}
    assert set(telling) == {"eager", "onnxruntime", "openvino", "tensorrt"}
    for backend in telling.values():
        wanted = list(inspect.signature(backends.Profiled.profile).parameters)[1:]
        assert list(inspect.signature(backend.profile).parameters) == wanted
