"""A session in a process of its own: whatever happens in there, the parent gets an answer or one of our errors."""

import subprocess
import sys
import time

import numpy as np
import pytest

from rescompress import backends, errors, serving, worker
from rescompress.artifact import open_artifact
from rescompress.errors import BackendMissing, InputRefused, RescompressError, WorkerCrashed
from rescompress.pipeline.proof import export_artifact
from rescompress.spec import ModelSpec, Preprocessing
from rescompress.worker import Worker
from tests.networks import fused, noise

SPEC = ModelSpec("none", "none", 4, Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
IMAGES = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)


def test_answers_are_the_sessions_as_float32(odd):
    with Worker(odd(SPEC), threads=3) as session:
        session.ready()
        for count in (5, 1, 2):
            logits = session.run(IMAGES[:count])
            assert (logits.shape, logits.dtype) == ((count, 4), np.float32)
            np.testing.assert_allclose(logits[:, 0], IMAGES[:count].mean((1, 2, 3)), rtol=1e-5)
            assert (logits[:, 1:] == [count, 3, 3]).all()


def test_images_need_not_be_contiguous_float32(odd):
    with Worker(odd(SPEC)) as session:
        turned = np.asarray(IMAGES, np.float64).transpose(0, 1, 3, 2)[::2]
        np.testing.assert_allclose(session.run(turned)[:, 0], IMAGES[::2].mean((1, 2, 3)), rtol=1e-5)


def test_audit_comes_through(odd):
    with Worker(odd(SPEC)) as session:
        assert session.audit() == {
            "layers": [{"layer": "conv1", "op": "conv", "precision": "int8"}],
            "op_counts": {"QLinearConv": 1},
            "int8_nodes": {"correct": 0, "total": 0},
            "notes": [],
        }


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow) if each == "inductor" else each for each in backends.names()]
)
def test_a_real_runtime_answers_as_in_this_process(name, tmp_path):
    backend, model = backends.get(name), fused("cifar", "resnet8")
    if backend.missing():
        pytest.skip(f"{name} is not installed")
    export_artifact(model, name, {}, tmp_path / name, label=name, source="", source_sha256="", key="")
    artifact, images = open_artifact(tmp_path / name), noise(model, 3).numpy()
    with Worker(tmp_path / name) as session, backend.load(artifact, threads=1) as here:
        np.testing.assert_array_equal(session.run(images), here.run(images))
        if backend.rung()[0] == "L3":
            session.hold(images)
            assert min(session.time(0, batch=2, at_least=3)) > 0
        else:
            with pytest.raises(BackendMissing, match=f"^{name} can't be timed here: "):
                session.hold(images)
        assert len(session.audit()["layers"]) == len(backend.audit(artifact).layers)


def test_times_come_in_nanoseconds(odd):
    with Worker(odd(SPEC)) as session:
        session.hold(IMAGES)
        assert len(session.time(0, batch=2, at_least=7)) == 7
        started = time.perf_counter_ns()
        times = session.time(0.05, batch=5)
        assert 0 < sum(times) < time.perf_counter_ns() - started


@pytest.mark.parametrize("moment", ["loading", "running"])
@pytest.mark.parametrize(
    ("fate", "said"),
    [("aborts", "died with status -6"), ("leaves", "status 3: last words"), ("is wrong", "status 1: ValueError: odd")],
)
def test_crash_is_an_expected_error(moment, fate, said, odd):
    folder = odd(SPEC, **{moment: fate})
    with Worker(folder) as session, pytest.raises(WorkerCrashed) as caught:
        session.run(IMAGES)
    assert caught.value.exit_code == 10
    assert str(folder) in caught.value.fact
    assert said in caught.value.fact
    assert "\n" not in caught.value.fact


def test_crash_while_large_images_are_sent(odd):
    with Worker(odd(SPEC, loading="aborts")) as session, pytest.raises(WorkerCrashed):
        session.run(np.zeros((400, 3, 64, 64), np.float32))


@pytest.mark.parametrize("moment", ["loading", "running"])
@pytest.mark.parametrize("kind", ["InputRefused", "BackendMissing", "ResourceExhausted"])
def test_refusal_arrives_as_the_same_class(moment, kind, odd):
    with Worker(odd(SPEC, **{moment: kind})) as session, pytest.raises(RescompressError) as caught:
        session.run(IMAGES)
    assert type(caught.value) is getattr(errors, kind)
    assert (caught.value.fact, caught.value.remedy) == ("It can't.", "Don't.")


def test_worker_goes_on_after_a_refusal(odd):
    with Worker(odd(SPEC, running="InputRefused")) as session:
        for _ in range(2):
            with pytest.raises(InputRefused):
                session.run(IMAGES)
        assert session.audit()["op_counts"] == {"QLinearConv": 1}


@pytest.mark.parametrize("moment", ["loading", "running"])
def test_what_a_runtime_prints_breaks_no_message(moment, odd, capfd):
    with Worker(odd(SPEC, **{moment: "talks"})) as session:
        for count in (1, 3):
            assert session.run(IMAGES[:count]).shape == (count, 4)
    assert capfd.readouterr() == ("", "")


def test_worker_that_hangs_is_ended(odd, monkeypatch):
    monkeypatch.setattr(worker, "TIMEOUT_S", 1)
    with Worker(odd(SPEC, running="hangs")) as session, pytest.raises(WorkerCrashed, match="no answer for 1 s"):
        session.run(IMAGES)


def test_changed_artifact_is_refused(odd):
    folder = odd(SPEC)
    (folder / "fates.json").write_text("{ }")
    with Worker(folder) as session, pytest.raises(InputRefused, match="was changed"):
        session.ready()


def test_process_ends_with_the_block(odd):
    with Worker(odd(SPEC)) as session:
        session.ready()
        process = session._process
        assert process.poll() is None
    assert process.returncode == 0


def test_process_ends_with_its_parent(odd):
    """Also where the parent is killed: nobody is left who would hold a core or a file."""
    script = f"""
import os, signal
from pathlib import Path
from rescompress.worker import Worker
with Worker(Path({str(odd(SPEC))!r})) as session:
    session.ready()
    print(session._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    child = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).stdout)
    for _ in range(500):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True).stdout.strip()
        if not state or state.startswith("Z"):
            return
        time.sleep(0.01)
    pytest.fail("the worker outlived its parent")


def test_fresh_process_tells_its_start_its_first_query_and_its_memory(odd):
    begin = time.monotonic()
    with Worker(odd(SPEC)) as session:
        session.ready()
        started_ms = (time.monotonic() - begin) * 1e3
        cold = session.cold()
        assert 0 < cold.load_ms <= started_ms
        assert cold.first_ms is None
        session.run(IMAGES)
        first_ms = session.cold().first_ms
        session.run(IMAGES)
        assert session.cold().first_ms == first_ms > 0
        assert session.cold().load_ms == cold.load_ms


def test_peak_memory_is_the_kernels_high_water_mark(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t   123 kB\nVmRSS:\t  100 kB\n")
    assert serving.peak_rss_bytes(status) == 123 * 1024
    assert serving.peak_rss_bytes(tmp_path / "none") is None
