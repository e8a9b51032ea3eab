"""The GPU's clock and CUDA graphs: on a fake GPU that counts nanoseconds, and on a real one where there is one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rescompress import models
from rescompress.artifact import Artifact, Manifest
from rescompress.backends import Clocked, _cuda, eager
from rescompress.errors import RecipeError
from rescompress.metrics import sqnr_db
from tests.networks import fused, noise


class Gpu:
    """A clock that work moves on, events that read it, and graphs that replay what was captured."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.events = 0
        self.captured: list[Any] | None = None

    def work(self, ms: float) -> None:
        if self.captured is None:
            self.ms += ms
        else:
            self.captured.append(ms)


class Event:
    """As ``torch.cuda.Event``; a time that nobody waited for can't be read."""

    def __init__(self, gpu: Gpu, enable_timing: bool) -> None:
        assert enable_timing
        gpu.events += 1
        self.gpu, self.waited, self.ms = gpu, False, 0.0

    def record(self) -> None:
        self.ms, self.waited = self.gpu.ms, False

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, end: "Event") -> float:
        return end.ms - self.ms


class Graph:
    """As ``torch.cuda.CUDAGraph``."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.work = gpu, list[float]()

    def replay(self) -> None:
        for ms in self.work:
            self.gpu.work(ms)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()

    class Stream:
        def wait_stream(self, other: object) -> None:
            assert isinstance(other, Stream)

    @contextlib.contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        gpu.captured = graph.work
        yield
        gpu.captured = None

    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(gpu, enable_timing))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(gpu))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return gpu


def export(folder: Path, **knobs: Any) -> Artifact:
    model = fused("cifar", "resnet8")
    spec = models.spec_of(model)
    entry = eager.export(model, spec, folder, **knobs)
    return Artifact(folder, Manifest("", "", "eager", "", "fp32", entry, {entry: ""}, spec, "", "", "", knobs))


def test_the_gpus_clock_counts_calls_and_nothing_between_them(gpu: Gpu) -> None:
    def twice(images: Tensor) -> Tensor:
        gpu.work(len(images))
        return images * 2

    watch = _cuda.Stopwatch(twice)
    assert watch.ns is None
    for counts in ((3,), (1, 2, 5), (4, 4)):
        watch.reset()
        for count in counts:
            gpu.work(100)  # a copy
            assert torch.equal(watch(torch.ones(count)), torch.full((count,), 2.0))
        assert watch.ns == sum(counts) * 10**6
    assert gpu.events == 2 * 3
    watch.reset()
    assert watch.ns is None


def test_what_is_recorded_is_replayed_by_shape(gpu: Gpu) -> None:
    called = []

    def function(images: Tensor) -> Tensor:
        called.append(len(images))
        gpu.work(len(images))
        return images * 2

    replayed = _cuda.recorded(function)
    for count in (1, 3):
        replayed(torch.ones(count))
    assert called == [1] * (_cuda.WARM_UP + 1) + [3] * (_cuda.WARM_UP + 1)
    for count in (1, 3, 3, 1):
        before = gpu.ms
        replayed(torch.ones(count))
        assert gpu.ms - before == count
    assert len(called) == 2 * (_cuda.WARM_UP + 1)


def test_a_session_tells_the_devices_time_of_its_last_run(gpu: Gpu, tmp_path: Path) -> None:
    """Where it runs on a GPU; here its network stands in for one that does."""
    with eager.load(export(tmp_path), threads=1) as session:
        assert isinstance(session, Clocked)
        images = noise(fused("cifar", "resnet8"), 4).numpy()
        session.run(images)
        assert session.compute_ns is None

        def slow(given: Tensor) -> Tensor:
            gpu.work(len(given))
            return session.module(given)

        session._compute = session._watch = _cuda.Stopwatch(slow)
        for count in (4, 1, 2):
            session.run(images[:count])
            assert session.compute_ns == count * 10**6


def test_graphs_need_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="CUDA graphs need a GPU"):
        export(tmp_path, cuda_graphs=True)


@pytest.mark.gpu
def test_a_recorded_function_follows_its_input() -> None:
    twice = _cuda.recorded(lambda images: images * 2)
    for count, value in ((2, 1.0), (2, 3.0), (5, 4.0), (2, 5.0)):
        assert torch.equal(twice(torch.full((count,), value, device="cuda")).cpu(), torch.full((count,), 2 * value))


@pytest.mark.gpu
@pytest.mark.parametrize("floats", ["fp32", "fp16", "bf16"])
def test_a_graph_computes_what_kernels_one_by_one_compute(floats: str, tmp_path: Path) -> None:
    images = noise(fused("cifar", "resnet8"), 5).numpy()
    answers = []
    for graphs in (False, True):
        (tmp_path / str(graphs)).mkdir()
        artifact = export(tmp_path / str(graphs), device="cuda", floats=floats, cuda_graphs=graphs)
        with eager.load(artifact, threads=1) as session:
            runs = [session.run(images[:count]) for count in (5, 2, 5)]
            assert session.compute_ns
            assert 1_000 < session.compute_ns < 10**9
        np.testing.assert_array_equal(runs[0], runs[2])
        answers.append(runs[0])
    assert sqnr_db(answers[0], answers[1]) > (90 if floats == "fp32" else 35)


@pytest.mark.gpu
def test_the_device_is_never_slower_than_the_host_that_waits_for_it(tmp_path: Path) -> None:
    import time

    images = noise(fused("cifar", "resnet8"), 64).numpy()
    with eager.load(export(tmp_path, device="cuda"), threads=1) as session:
        session.run(images)
        begin = time.perf_counter_ns()
        session.run(images)
        host = time.perf_counter_ns() - begin
        assert session.compute_ns
        assert session.compute_ns < host
