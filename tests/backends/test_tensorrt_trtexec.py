"""The command line of trtexec asks the same of TensorRT 10 and 11, and its times are read."""

import json
import os
import sys
from pathlib import Path

import pytest

from rescompress.backends import _tensorrt_trtexec as trtexec
from rescompress.backends import tensorrt
from rescompress.errors import BackendMissing, BenchmarkInvalid, InputRefused
from tests.fakes.gpu import Machine
from tests.fakes.gpu_story import artifact, export_once

MEANING = {"--useCudaGraph": "graph", "--useSpinWait": "spin", "--noDataTransfers": "no transfers"}
DEFAULTS = {False: set(), True: {"graph", "spin", "no transfers"}}
"""Which of them are on by default, in 10 and in 11 (`InferenceOptions` in v10.16 and v11.1)."""

pytestmark = pytest.mark.xdist_group("tensorrt")  # they share an export


@pytest.mark.parametrize("of_11", [False, True])
@pytest.mark.parametrize("transfers", [False, True])
def test_the_same_is_asked_of_both_releases(of_11: bool, transfers: bool) -> None:
    shape = ("images", (8, 3, 224, 224))
    line = trtexec.command(
        "trtexec", Path("model.engine"), shape, Path("t.json"), seconds=5, transfers=transfers, of_11=of_11
    )
    asked = DEFAULTS[of_11] | {MEANING[flag] for flag in line if flag in MEANING}
    asked -= {"no transfers"} if "--includeDataTransfers" in line else set()
    assert asked == {"graph", "spin"} | (set() if transfers else {"no transfers"})
    assert line[:3] == ["trtexec", "--loadEngine=model.engine", "--shapes=images:8x3x224x224"]
    assert {"--duration=5", "--exportTimes=t.json", "--warmUp=500"} < set(line)
    assert not any("fp16" in flag or "int8" in flag.lower() for flag in line)  # 11 has no such flags


def test_a_fixed_shape_isnt_said() -> None:
    line = trtexec.command("t", Path("e"), None, Path("t"), seconds=1, transfers=False, of_11=True)
    assert not any(flag.startswith("--shapes") for flag in line)


QUERIES = [{"h2dMs": 0.1 * k, "computeMs": 1.0 + k, "d2hMs": 0.01 * k, "latencyMs": 1.0} for k in range(3)]
"""Some of the fields that `exportJSONTrace` (samples/common/sampleReporting.cpp) writes."""


def program(folder: Path, help_text: str, status: int = 0) -> None:
    """A ``trtexec`` that keeps its command line and writes times."""
    path = folder / "trtexec"
    lines = [
        f"#!{sys.executable}",
        "import json, sys",
        f"if '--help' in sys.argv: print({help_text!r}); sys.exit()",
        f"json.dump(sys.argv, open({str(folder / 'asked.json')!r}, 'w'))",
        f"if {status}: print('no engine\\n[E] Error deserializing'); sys.exit({status})",
        f"times = {json.dumps(QUERIES)}",
        "json.dump(times, open(next(a for a in sys.argv if 'exportTimes' in a).partition('=')[2], 'w'))",
    ]
    path.write_text("\n".join(lines))
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    export_once(monkeypatch)
    return Machine().install(monkeypatch)


@pytest.mark.parametrize(("help_text", "flag"), [("--useCudaGraph", True), ("--useCudaGraph --noCudaGraph", False)])
def test_times_are_read_and_the_release_is_told_by_the_help(
    help_text: str, flag: bool, machine: Machine, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="The file is written with onnx.")
    program(tmp_path, help_text)
    times = tensorrt.time_with_trtexec(artifact(tmp_path / "artifact"), batch=2, seconds=1)
    assert times.compute_ms == (1.0, 2.0, 3.0)
    assert times.h2d_ms[2] == pytest.approx(0.2)
    assert times.d2h_ms[1] == pytest.approx(0.01)
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert ("--useCudaGraph" in asked) == flag
    assert "--shapes=images:2x3x32x32" in asked


def test_a_failure_is_told_in_its_last_words(machine: Machine, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="The file is written with onnx.")
    program(tmp_path, "", status=3)
    with pytest.raises(BenchmarkInvalid, match=r"status 3: \[E\] Error deserializing\."):
        tensorrt.time_with_trtexec(artifact(tmp_path / "artifact"), batch=1, seconds=1)


def test_a_foreign_engine_is_not_handed_to_trtexec(machine: Machine, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="The file is written with onnx.")
    program(tmp_path, "")
    made = artifact(tmp_path / "artifact")
    (made.folder / "model.engine").write_bytes(b"code")
    with pytest.raises(InputRefused, match="can't load"):
        tensorrt.time_with_trtexec(made, batch=1, seconds=1)
    assert not (tmp_path / "asked.json").exists()


def test_without_trtexec_it_is_said(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="The file is written with onnx.")
    monkeypatch.setattr(trtexec, "found", lambda: None)
    with pytest.raises(BackendMissing, match="trtexec"):
        tensorrt.time_with_trtexec(artifact(tmp_path / "artifact"), batch=1, seconds=1)
