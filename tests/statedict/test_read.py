"""Tensors come out of honest files to the bit; what lies, crashes or hangs its own process ends in one sentence."""

import collections
import pickle
import random
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rescompress import statedict
from rescompress.errors import BackendMissing, InputRefused, RescompressError, ResourceExhausted
from rescompress.statedict import __main__ as process
from rescompress.statedict import hdf5, sandbox
from tests.pipeline.conftest import HOOKS
from tests.statedict.files import STATE, legacy_of, refusal, saved, text, write, zip_of
from tests.statedict.test_scan import mutated

unpickled: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class" and unpickled is not None:
        unpickled.append(f"{arguments[0]}.{arguments[1]}")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch):
    """The folder for temporary files, which must be empty again at the end."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def refused(path: Path, kind: type[RescompressError] = InputRefused) -> str:
    return refusal(lambda: statedict.read(path), kind).fact


def test_real_weights_come_out_and_nothing_is_unpickled(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HOOKS))
    monkeypatch.setenv("PICKLE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(sys.modules[__name__], "unpickled", [])
    path = shared_data / "weights" / "cifar10_resnet20-12fca82f.th"
    pickle.loads(pickle.dumps(collections.OrderedDict()))
    assert unpickled == ["collections.OrderedDict"], "the watch is broken, so its silence proves nothing"
    unpickled.clear()
    tensors = statedict.read(path)
    assert unpickled == []
    assert [line for line in (tmp_path / "log").read_text().splitlines() if " started " not in line] == []
    expected = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert tensors.keys() == {name.removeprefix("module.") for name in expected}
    assert all(torch.equal(tensors[name.removeprefix("module.")], expected[name]) for name in expected)


def test_views_types_and_shared_tensors_come_out_whole(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    types = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    state = {
        **{"rows": base[1:3], "turned": base.T, "again": base, "parameter": nn.Parameter(base), "none": base[:0]},
        **{str(dtype).replace(".", "_"): torch.ones(3, dtype=dtype) for dtype in types},
        "scalar": torch.tensor(3),
    }
    content = {"model": {f"module._orig_mod.{name}": t for name, t in state.items()}, "epoch": 3, "best": (0.5, "x")}
    tensors = statedict.read(write(tmp_path, saved(content)))
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, state[name])
        assert tensor.dtype == state[name].dtype
        assert tensor.is_contiguous()
        assert not tensor.requires_grad


def test_unwrap_finds_the_state_dict():
    inner, other = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    for wrapper in statedict.WRAPPERS:
        assert statedict.unwrap({wrapper: inner, "epoch": 3}) == inner
        assert statedict.unwrap({wrapper: {"state_dict": inner}}) == inner
    assert statedict.unwrap({"model_ema": other, "model": inner}) == inner
    assert statedict.unwrap({"state_dict_ema": other, "model": {}}) == other
    assert statedict.unwrap({"x": 1, 2: torch.ones(1), **inner}) == inner
    circle: dict[str, object] = {}
    circle["model"] = circle
    for nothing in (None, 3, [], torch.ones(3), {}, {"epoch": 3}, {"state_dict": {"epoch": 3}}, circle):
        assert statedict.unwrap(nothing) == {}


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["module.a.w", "module.b"], ["a.w", "b"]),
        (["_orig_mod.module.model.a.w", "_orig_mod.module.model.b"], ["a.w", "b"]),
        (["net.a", "network.b"], ["net.a", "network.b"]),
        (["layer1.a", "layer1.b"], ["layer1.a", "layer1.b"]),
        (["model", "model.x"], ["model", "model.x"]),
        (["module."], ["module."]),
        ([], []),
    ],
)
def test_strip_takes_off_what_all_names_share(names, short):
    assert list(statedict.strip({name: torch.ones(1) for name in names})) == short


def test_a_tensor_larger_than_its_memory_is_refused(tmp_path):
    state = {**STATE, "wide": torch.ones(1).expand(10**9)}
    assert "wide is larger than the memory behind it" in refused(write(tmp_path, saved(state)))


def tensor(storage: bytes, size: int) -> bytes:
    """A pickle of one tensor with a storage that claims its numel itself."""
    build = (
        b"\x80\x02}"
        + text("w")
        + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
    )
    number = b"\x8a\x08" + struct.pack("<q", size)
    shape = b"K\x00" + number + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)R"
    return build + text("0") + text("cpu") + number + storage + b"tQ" + shape + b"tRs."


def test_a_storage_that_claims_more_than_is_there_is_refused(tmp_path):
    honest, lying = (zip_of(tensor(b"", size), **{"archive/data/0": bytes(8)}) for size in (2, 10**6))
    assert torch.equal(statedict.read(write(tmp_path, honest))["w"], torch.zeros(2))
    assert "record size (8 bytes) does not match" in refused(write(tmp_path, lying))


def test_memory_out_of_nothing_is_refused(tmp_path):
    path = write(tmp_path, legacy_of(tensor(b"N", 10**12)))
    assert "asks for more memory" in refused(path, ResourceExhausted)


def test_a_persistent_id_that_is_no_storage_is_refused(tmp_path):
    assert "must be tuple" in refused(write(tmp_path, zip_of(b"\x80\x02" + text("os.system") + b"Q.")))


def test_the_limits_hold(tmp_path, monkeypatch):
    path = write(tmp_path, saved({"w": torch.ones(2**21)}))
    one_more = sandbox.Limits(2**31, 2**23 + 8, 60)
    monkeypatch.setattr(sandbox, "limits", lambda size: one_more)
    assert "holds more than" in refused(path, ResourceExhausted)
    path = write(tmp_path, saved({"w": torch.ones(12 * 2**20)}))
    monkeypatch.setattr(sandbox, "limits", lambda size: sandbox.Limits(24 * 2**20, 2**30, 60))
    assert "asks for more memory" in refused(path, ResourceExhausted)


def run_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(sandbox, "_command", lambda *_: [sys.executable, "-S", "-c", code])


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("import os; os.abort()", InputRefused, "crashed the process"),
        ("import os; os.kill(os.getpid(), 11)", InputRefused, "crashed the process"),
        ("import os; os.kill(os.getpid(), 9)", ResourceExhausted, "The system ended the process"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", ResourceExhausted, "The system ended the process"),
        ("raise SystemExit(1)", InputRefused, "crashed the process"),
        ("print('{}'); raise SystemExit(4)", InputRefused, "crashed the process"),
        ("print('[1]'); raise SystemExit(4)", InputRefused, "crashed the process"),
        ("print('\\xff' * 10**6); raise SystemExit(4)", InputRefused, "crashed the process"),
        ("pass", InputRefused, "ended the process"),
        ("open('../tensors.safetensors', 'wb').write(b'x' * 99)", InputRefused, "ended the process"),
    ],
)
def test_a_process_that_ends_badly_becomes_a_sentence(tmp_path, monkeypatch, code, kind, said):
    run_instead(monkeypatch, code)
    assert said in refused(write(tmp_path, saved(STATE)), kind)


def test_a_process_that_hangs_is_killed_with_its_children(tmp_path, monkeypatch):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    run_instead(monkeypatch, f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])")
    monkeypatch.setattr(sandbox, "TIMEOUT_S", 3)
    started = time.perf_counter()
    assert "not read within 3 s" in refused(write(tmp_path, saved(STATE)), ResourceExhausted)
    assert time.perf_counter() - started < 10
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 5
    while status.exists() and status.read_text().split()[2] not in "XZ":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_process_is_bound_and_knows_nothing_of_the_folder_it_was_called_from(tmp_path, monkeypatch):
    code = (
        "import os, sys; from rescompress.statedict import __main__ as m, sandbox; import resource;"
        "m._limit(sandbox.Limits(2**30, 12345, 77));"
        "print(os.listdir(), os.environ['CUDA_VISIBLE_DEVICES'], [resource.getrlimit(x)[0] for x in"
        " (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_CORE)],"
        " resource.getrlimit(resource.RLIMIT_AS)[0] > 2**30)"
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "torch.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert sandbox._run([sys.executable, "-c", code], tmp_path, 60) == (0, b"[]  [12345, 77, 0] True\n")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (MemoryError(), ResourceExhausted, "asks for more memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ResourceExhausted, "asks for more memory"),
        (OSError(28, "No space left on device"), ResourceExhausted, "disk"),
        (
            ValueError("Use weights_only=False!\nUnpickler error: odd\x1b thing.\nMore"),
            InputRefused,
            "dict: odd? thing.",
        ),
        (KeyError(), InputRefused, "it is corrupt."),
    ],
)
def test_exceptions_become_sentences(error, kind, said):
    told = process._told(error)
    assert type(told) is kind
    assert said in told.fact


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py")


def test_keras_weights_come_out_by_their_paths(tmp_path, h5py):
    kernel = np.arange(6, dtype=">f4").reshape(2, 3)
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["model_weights/conv1/conv1/kernel:0"] = kernel
        file.create_dataset("model_weights/conv1/conv1/bias:0", data=np.ones(3, "f2"), compression="gzip")
        file["model_weights/conv1/step"] = 3
        file["model_weights/scalar"] = np.float32(0.5)
        file["model_weights/names"] = ["a", "b"]
        file["optimizer_weights/Adam/m:0"] = kernel
        file["optimizer/vars/0"] = kernel
        file.create_group("top_level_model_weights")
        file["model_weights/nothing"] = h5py.Empty("f4")
    tensors = statedict.read(tmp_path / "model.h5")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        **{"conv1/conv1/bias:0": (3,), "conv1/conv1/kernel:0": (2, 3), "scalar": ()},
    }
    assert torch.equal(tensors["conv1/conv1/kernel:0"], torch.arange(6.0).reshape(2, 3))
    assert tensors["conv1/conv1/bias:0"].dtype == torch.float16


def test_keras_weights_that_lead_out_of_the_file_are_refused(tmp_path, h5py, monkeypatch):
    def soft(file):
        file["layers/x"] = h5py.SoftLink("/layers/y")

    def external(file):
        file["layers/x"] = h5py.ExternalLink("/etc/hostname", "/")

    def virtual(file):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
        file.create_virtual_dataset("x", layout)

    def outside(file):
        file.create_dataset("x", (4,), "f4", external=[("/etc/hostname", 0, 16)])

    def circle(file):
        file["layers/again"] = file.create_group("layers/a")
        file["layers/a/up"] = file["layers"]

    def huge(file):
        file.create_dataset("x", (2**40,), "f4", chunks=(1024,), compression="gzip")

    for number, (make, said) in enumerate(
        {soft: "a link at layers/x", external: "a link at layers/x", virtual: "in another file"}.items()
        | {outside: "in another file", circle: "more groups", huge: "more bytes"}.items()
    ):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(InputRefused, match=said):
            hdf5.read_hdf5(path, sandbox.limits(path.stat().st_size))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "h5py is not installed" in refused(path, BackendMissing)


@pytest.mark.slow
def test_corrupt_files_that_were_let_through_end_in_a_refusal_or_in_tensors(tmp_path):
    passed = 0
    for number in range(30):
        path = write(tmp_path, mutated(saved(STATE, zipped=number % 2 == 0), random.Random(number)))
        try:
            passed += all(isinstance(t, torch.Tensor) for t in sandbox.read("torch", path).values())
        except (InputRefused, ResourceExhausted):
            continue
    assert passed < 30


@pytest.mark.slow
def test_a_large_file_fits_its_limits(tmp_path):
    state = {f"{number}.w": torch.full((2**20,), float(number)) for number in range(125)}
    for zipped_form in (True, False):
        tensors = statedict.read(write(tmp_path, saved(state, zipped_form)))
        assert all(torch.equal(tensors[name], state[name]) for name in state)
