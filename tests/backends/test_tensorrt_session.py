"""The runner on a fake GPU: right answers at any batch, device times, graphs, and nothing left behind."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rescompress import models
from rescompress.artifact import Artifact
from rescompress.backends import _tensorrt_run as running
from rescompress.backends import tensorrt
from rescompress.errors import BackendMissing, InputRefused, ResourceExhausted
from rescompress.metrics import sqnr_db
from rescompress.progress import gathered
from tests.fakes.gpu import D2H_MS, H2D_MS, Machine
from tests.fakes.gpu_engines import COMPUTE_MS
from tests.fakes.gpu_story import artifact, export_once, network
from tests.networks import noise

pytest.importorskip("onnxruntime", reason="The fake engine computes in ONNX Runtime.")

pytestmark = pytest.mark.xdist_group("tensorrt")  # they share an export


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "cache"))
    export_once(monkeypatch)
    return Machine().install(monkeypatch)


@pytest.fixture
def made(machine: Machine, tmp_path: Path) -> Iterator[Artifact]:
    yield artifact(tmp_path / "artifact", floats="fp32", max_batch=4)
    assert (machine.contexts, machine.memory, machine.graphs_alive) == (0, {}, 0)


def expected(count: int) -> tuple[np.ndarray, np.ndarray]:
    images = noise(network(), count)
    return images.numpy(), models.predict(network(), [images]).numpy()


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_any_number_of_images_gives_their_logits(made: Artifact, count: int) -> None:
    images, logits = expected(count)
    with tensorrt.load(made, threads=1) as session:
        assert sqnr_db(logits, session.run(images)) > 90


def test_a_batch_that_changes_gives_right_answers_each_time(made: Artifact, machine: Machine) -> None:
    images, logits = expected(4)
    with tensorrt.load(made, threads=1) as session:
        for count in (4, 1, 2, 2, 1, 4, 4):
            assert sqnr_db(logits[:count], session.run(images[:count])) > 90
    assert machine.launches == 7


def test_a_fixed_batch_is_padded_and_split(machine: Machine, tmp_path: Path) -> None:
    made = artifact(tmp_path / "fixed", floats="fp32", batch=4)
    assert machine.configs[0].state["profiles"] == []
    images, logits = expected(6)
    with tensorrt.load(made, threads=1) as session:
        assert sqnr_db(logits, session.run(images)) > 90
        assert sqnr_db(logits[:1], session.run(images[:1])) > 90


def test_a_batch_below_the_profile_is_padded(machine: Machine, tmp_path: Path) -> None:
    made = artifact(tmp_path / "least", floats="fp32", min_batch=2, opt_batch=2, max_batch=3)
    images, logits = expected(4)
    with tensorrt.load(made, threads=1) as session:
        assert sqnr_db(logits, session.run(images)) > 90


def test_pixels_go_in_as_bytes_and_probabilities_come_out(machine: Machine, tmp_path: Path) -> None:
    made = artifact(tmp_path / "pixels", floats="fp32", preprocess=True, softmax=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    how = models.spec_of(network()).preprocessing
    images = ((pixels / 255 - np.array(how.mean)) / np.array(how.std)).transpose(0, 3, 1, 2).astype(np.float32)
    import torch

    wanted = models.predict(network(), [torch.from_numpy(images)]).softmax(1).numpy()
    with tensorrt.load(made, threads=1) as session:
        np.testing.assert_allclose(session.run(pixels), wanted, atol=1e-5)


def test_copies_and_work_are_timed_apart_over_all_batches(made: Artifact) -> None:
    with tensorrt.load(made, threads=1) as session:
        assert isinstance(session, running.EngineSession)
        session.run(expected(4)[0])
        assert session.last_times_ms == running.Times(H2D_MS, COMPUTE_MS, D2H_MS)
        session.run(expected(9)[0])
        assert session.last_times_ms == running.Times(3 * H2D_MS, 3 * COMPUTE_MS, 3 * D2H_MS)
        assert session.compute_ns == round(3e6 * COMPUTE_MS)


def test_without_cuda_bindings_kernels_are_launched_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "cache"))
    export_once(monkeypatch)
    machine = Machine().install(monkeypatch, graphs=False)
    made = artifact(tmp_path / "artifact", floats="fp32")
    images, logits = expected(2)
    with gathered() as notes, tensorrt.load(made, threads=1) as session:
        for _ in range(2):
            assert sqnr_db(logits, session.run(images)) > 90
    assert machine.launches == 0
    assert notes == ["Kernels are launched one by one: a CUDA graph needs cuda-bindings."]


def test_an_engine_that_cant_be_captured_runs_all_the_same(
    made: Artifact, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = machine.trt.behaviours["IExecutionContext.execute_async_v3"]
    monkeypatch.setitem(
        machine.trt.behaviours,
        "IExecutionContext.execute_async_v3",
        lambda context, handle: handle not in machine.captures and behaviour(context, handle),
    )
    images, logits = expected(2)
    with gathered() as notes, tensorrt.load(made, threads=1) as session:
        for _ in range(2):
            assert sqnr_db(logits, session.run(images)) > 90
    assert notes == ["Kernels are launched one by one: TensorRT can't run the engine: no reason given."]
    assert machine.captures == {}


def test_an_engine_that_fails_says_so(made: Artifact, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with tensorrt.load(made, threads=1) as session:
        session.run(expected(1)[0])
        monkeypatch.setitem(machine.trt.behaviours, "IExecutionContext.execute_async_v3", lambda *_: False)
        with pytest.raises(RuntimeError, match="can't run the engine"):
            session.run(expected(2)[0])


def test_images_of_another_size_are_refused(made: Artifact) -> None:
    with tensorrt.load(made, threads=1) as session, pytest.raises(InputRefused, match=r"\(3, 32, 32\).*\(3, 8, 8\)"):
        session.run(np.zeros((1, 3, 8, 8), np.float32))


def test_a_gpu_without_memory_says_which_knob_helps(
    made: Artifact, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = machine.pycuda.behaviours["mem_alloc"]
    monkeypatch.setitem(machine.pycuda.behaviours, "mem_alloc", lambda size: behaviour(size << 20))
    with pytest.raises(ResourceExhausted) as caught:
        tensorrt.load(made, threads=1)
    assert "max_batch" in caught.value.remedy


def test_libraries_that_dont_start_are_said_to(
    made: Artifact, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def null(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")  # what 11.4's bindings raise

    monkeypatch.setitem(machine.trt.behaviours, "Runtime", null)
    with pytest.raises(BackendMissing, match="can't start"):
        tensorrt.load(made, threads=1)


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        (("tensorrt", "pycuda", "gpu"), "tensorrt, pycuda and a CUDA device are missing here."),
        (("pycuda",), "pycuda is missing here."),
        (("gpu",), "a CUDA device is missing here."),
        ((), ""),
    ],
)
def test_what_is_missing_is_said_exactly(
    lacking: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine().install(monkeypatch)
    real = running.util.find_spec
    monkeypatch.setattr(running.util, "find_spec", lambda name: None if name in lacking else real(name))
    if "gpu" in lacking:
        monkeypatch.setattr(running, "_devices", lambda: 0)
    assert running.hindrance() == sentence
    assert tensorrt.rung() == (("L1", sentence) if sentence else ("L3", ""))


def test_old_releases_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine("t10", version="10.3.0").install(monkeypatch)
    assert tensorrt.rung() == ("L1", "TensorRT 10.3.0 is older than 10.12.")


def test_this_machines_driver_is_asked_without_any_package() -> None:
    assert running._devices() >= 0


def test_without_a_gpu_a_stand_in_takes_any_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_once(monkeypatch)
    monkeypatch.setattr(running, "_devices", lambda: 0)
    made = artifact(tmp_path / "artifact", "int8", batch=4)
    images = noise(network("int8"), 6)
    with tensorrt.load(made, threads=1) as session:
        answer = session.run(images.numpy())
    assert sqnr_db(models.predict(network("int8"), [images]).numpy(), answer) > 20
    assert sorted(path.name for path in made.folder.iterdir()) == ["model.onnx"]
