"""All that we use of TensorRT, pycuda and cuda-bindings exists in the real packages: names, members and keywords.

The fakes refuse at once what `vendor_api.json` doesn't know; here the whole list is checked again, against that file
and, where the packages' folders are at hand, against the packages themselves (see `tests/fakes/vendor_api.py`)::

    RESCOMPRESS_VENDORS=V pytest -m vendor tests/backends/test_tensorrt_api.py
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rescompress.backends import tensorrt
from tests.fakes import vendor_api
from tests.fakes.gpu import Machine
from tests.fakes.gpu_story import GROUPED, artifact, export_once
from tests.fakes.vendor import API, violation

pytest.importorskip("onnxruntime", reason="The fake engine computes in ONNX Runtime.")

pytestmark = pytest.mark.xdist_group("tensorrt")  # they share an export


@pytest.fixture(params=["t10", "t11"])
def used(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """What is used from a build that first fails to an audit, with every knob, by package."""
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "cache"))
    export_once(monkeypatch)
    knobs = {"hardware_compatible": True, "version_compatible": True, "refit": True, "dla": request.param == "t10"}
    refusing = Machine(request.param, refuse=(("conv1", "Conv", "no"),)).install(monkeypatch)
    with pytest.raises(tensorrt.InputRefused):
        artifact(tmp_path / "refused")
    machine = Machine(request.param, no_kernel=(GROUPED,)).install(monkeypatch)
    made = artifact(tmp_path / "artifact", max_batch=4, **knobs)
    with tensorrt.load(made, threads=1) as session:
        session.run(np.zeros((5, 3, 32, 32), np.float32))
    tensorrt.audit(made)
    return {
        request.param: machine.trt.used | refusing.trt.used,
        "pycuda": machine.pycuda.used,
        "cuda": machine.cuda.used,
    }


def test_every_use_exists(used: dict[str, set[str]]) -> None:
    assert {name: len(uses) > 8 for name, uses in used.items()} == dict.fromkeys(used, True)
    wrong = [found for name, uses in used.items() for use in uses if (found := violation(API[name], use))]
    assert wrong == []


@pytest.mark.parametrize(
    ("api", "use"),
    [
        ("t11", "BuilderFlag.FP16"),
        ("t11", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
        ("t11", "ICudaEngine.device_memory_size"),
        ("t11", "Builder.platform_has_fast_fp16"),
        ("t11", "IBuilderConfig.set_timing_cache(1, ignore)"),
        ("t11", "IBuilderConfig.set_timing_cache(3)"),
        ("t11", "OnnxParser.num_errors="),
        ("t11", "OnnxParser.parse"),
        ("t10", "IBuilderConfig.build_route"),
        ("pycuda", "Stream.begin_capture(0)"),
        ("pycuda", "memcpy_htod_async(1, source)"),
        ("cuda", "cuStreamBeginCapture(1)"),
    ],
)
def test_what_a_release_lacks_is_noticed(api: str, use: str) -> None:
    assert violation(API[api], use)


def test_a_fake_refuses_what_the_package_would(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = Machine("t11").install(monkeypatch).tensorrt
    config = trt.Builder(None).create_builder_config()
    with pytest.raises(AttributeError, match=r"BuilderFlag has no INT8"):
        config.set_flag(trt.BuilderFlag.INT8)
    with pytest.raises(AttributeError, match="max_workspace_size"):
        config.max_workspace_size = 1
    with pytest.raises(TypeError, match="set_flag takes"):
        config.set_flag(flags=1)


@pytest.mark.vendor
@pytest.mark.parametrize("kind", ["t10", "t11", "cuda", "pycuda"])
def test_the_real_package_is_as_our_list_of_it(kind: str) -> None:
    folder = os.environ.get("RESCOMPRESS_VENDORS")
    if not folder:
        pytest.skip("RESCOMPRESS_VENDORS doesn't say where the packages are.")
    real = vendor_api.read(kind, Path(folder).resolve())
    assert json.loads(json.dumps(real)) == API[kind]


@pytest.mark.vendor
@pytest.mark.parametrize("kind", ["t10", "t11"])
def test_our_logger_and_monitor_are_the_real_bindings_own(kind: str) -> None:
    """They are subclasses of bound classes; and a native factory that gives null, as the stand-ins do, is explained."""
    folder = os.environ.get("RESCOMPRESS_VENDORS")
    if not folder:
        pytest.skip("RESCOMPRESS_VENDORS doesn't say where the packages are.")
    script = """
import sys, tensorrt_bindings as trt
sys.modules["tensorrt"] = trt
from rescompress.backends import _tensorrt_build, _tensorrt_log
from rescompress.errors import BackendMissing
logger, monitor = _tensorrt_log.make(), _tensorrt_build._monitor()
logger.log(trt.ILogger.ERROR, "broken")
logger.log(trt.ILogger.WARNING, "slow")
logger.log(trt.ILogger.INFO, "chatter")
assert (logger.errors, logger.warnings) == (["broken"], ["slow"])
monitor.phase_start("a", None, 2)
assert monitor.step_complete("a", 0)
monitor.phase_finish("a")
for kind in (trt.Builder, trt.Runtime):
    try:
        _tensorrt_log.opened(kind, logger)
    except BackendMissing as error:
        print(error.fact)
"""
    said = vendor_api.child(kind, Path(folder).resolve(), "-W", "ignore", "-c", script)
    assert said.decode().splitlines() == ["TensorRT can't start here: broken."] * 2


@pytest.mark.vendor
def test_every_use_exists_in_the_real_packages(used: dict[str, set[str]]) -> None:
    folder = os.environ.get("RESCOMPRESS_VENDORS")
    if not folder:
        pytest.skip("RESCOMPRESS_VENDORS doesn't say where the packages are.")
    for kind, uses in used.items():
        real = vendor_api.read(kind, Path(folder).resolve())
        assert [found for use in uses if (found := violation(real, use))] == []
