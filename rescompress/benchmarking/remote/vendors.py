"""The vendors' own tools, where a device has no Python for the runtime: their commands, and what they print.

``trtexec`` tells every query, the others one number a run: an artifact's number is then coarse, and called so.

* ``trtexec``: see ``backends/_tensorrt_trtexec.py``; contract-tested, not executed.
* ``benchmark_app`` prints ``Median: 0.31 ms`` behind its log's prefix, in C++ (``samples/cpp/benchmark_app/
  statistics_report.cpp``, ``LatencyMetrics::write_to_slog``) as in Python (OpenVINO 2026.4.1, executed).
* ``benchmark_model`` prints ``count=50 first=… avg=266473 std=419``, newer ones ``p5=… median=… p95=…`` too, and
  ``Inference timings in us: …, Inference (avg): 266473`` (``tensorflow/lite/tools/benchmark/benchmark_model.cc``,
  ``BenchmarkLoggingListener::OnBenchmarkEnd``); contract-tested, not executed.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rescompress.artifact import Artifact
from rescompress.backends import _tensorrt_trtexec as trtexec
from rescompress.errors import InputRefused

SECONDS = 3
"""How long a tool measures in one launch; trtexec's own default."""
_ENGINE, _TIMES = "built.engine", "times.json"
_MEDIAN = re.compile(r"\bMedian:\s+([0-9.]+) ms")
_COUNT = re.compile(r"\bcount=\d+ .*?\bavg=([0-9.e+]+)(?:.*?\bmedian=([0-9.e+]+))?")
_AVERAGE = re.compile(r"\bInference \(avg\): ([0-9.e+]+)")


@dataclass(frozen=True)
class Tool:
    """One vendor's program.

    Attributes:
        program: its name.
        places: where it is looked for, beside the PATH.
        caveat: what its numbers leave out, a sentence.
        prepare: the script that is run once, in the candidate's folder.
        time: the script that is run in each launch, in the same folder.
        read: nanoseconds, out of what was printed.
    """

    program: str
    places: tuple[str, ...]
    caveat: str
    prepare: Callable[[str, Artifact, int], str]
    time: Callable[[str, Artifact, int, int], str]
    read: Callable[[str], list[int]]


def _trtexec_prepare(program: str, artifact: Artifact, batch: int) -> str:
    """An engine for this device, from the file that says every type: an engine that came from elsewhere isn't run."""
    shape = _trtexec_shape(artifact, batch)
    sizes = [f"--shapes={shape[0]}:{'x'.join(map(str, shape[1]))}"] if shape else []
    line = [program, f"--onnx={artifact.manifest.entry}", f"--saveEngine={_ENGINE}", "--stronglyTyped", *sizes]
    return f"[ -f {_ENGINE} ] || {shlex.join([*line, '--skipInference'])}"


def _trtexec_time(program: str, artifact: Artifact, batch: int, threads: int) -> str:
    shape, times = _trtexec_shape(artifact, batch), Path(_TIMES)
    of_11, of_10 = (
        shlex.join(trtexec.command(program, Path(_ENGINE), shape, times, seconds=SECONDS, transfers=False, of_11=new))
        for new in (True, False)
    )
    asked = f"{shlex.quote(program)} --help 2>&1 | grep -q -e {trtexec.OF_11}"
    return f"if {asked}; then {of_11}; else {of_10}; fi >log.txt && cat {_TIMES}"


def _trtexec_shape(artifact: Artifact, batch: int) -> trtexec.Shape | None:
    """Name and shape of the input; None where the file's is fixed."""
    import onnx

    taken = onnx.load(str(artifact.entry)).graph.input[0]
    sides = [dimension.dim_value for dimension in taken.type.tensor_type.shape.dim]
    return (taken.name, (batch, *sides[1:])) if sides[0] == 0 else None


def _trtexec_read(text: str) -> list[int]:
    return [round(1e6 * ms) for ms in trtexec.read(text).compute_ms]


def _benchmark_app(program: str, artifact: Artifact, batch: int, threads: int) -> str:
    channels, height, width = artifact.manifest.model.input_shape
    shape = (batch, height, width, channels) if artifact.manifest.takes_pixels else (batch, channels, height, width)
    half = "f16" if artifact.manifest.floats == "fp16" else "f32"
    return shlex.join([
        *(program, "-m", artifact.manifest.entry, "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1"),
        *("-nthreads", str(threads), "-infer_precision", half, "-t", str(SECONDS)),
        *("-shape", f"[{','.join(map(str, shape))}]"),
    ])  # fmt: skip


def _benchmark_app_read(text: str) -> list[int]:
    return [round(1e6 * float(found)) for found in _MEDIAN.findall(text)[-1:]]


def _benchmark_model(program: str, artifact: Artifact, batch: int, threads: int) -> str:
    if batch > 1:
        raise InputRefused("benchmark_model takes the file's own batch.", "Time one image at a time on this device.")
    return shlex.join([
        *(program, f"--graph={artifact.manifest.entry}", f"--num_threads={threads}", "--use_xnnpack=true"),
        *(f"--min_secs={SECONDS}", "--warmup_min_secs=0.5"),
    ])  # fmt: skip


def _benchmark_model_read(text: str) -> list[int]:
    counts = _COUNT.findall(text)
    averages = [median or average for average, median in counts[-1:]] if counts else _AVERAGE.findall(text)[-1:]
    return [round(1e3 * float(us)) for us in averages]


def _nothing(program: str, artifact: Artifact, batch: int) -> str:
    return "true"


TOOLS = {
    "tensorrt": Tool(
        "trtexec",
        ("/usr/src/tensorrt/bin",),
        "trtexec told the GPU's own time of each query, copies left out, on made-up images (indicative).",
        _trtexec_prepare,
        _trtexec_time,
        _trtexec_read,
    ),
    "openvino": Tool(
        "benchmark_app",
        ("/opt/intel/openvino/samples_bin",),
        "OpenVINO's benchmark_app told one median a launch, rounded to 0.01 ms, on made-up images (indicative).",
        _nothing,
        _benchmark_app,
        _benchmark_app_read,
    ),
    "litert": Tool(
        "benchmark_model",
        ("/data/local/tmp",),
        "LiteRT's benchmark_model told one number a launch, on made-up images (indicative).",
        _nothing,
        _benchmark_model,
        _benchmark_model_read,
    ),
}
"""By the backend that they time."""


def script(
    artifacts: tuple[Artifact, ...], programs: dict[str, str], turns: list[list[int]], plan: tuple[int, int]
) -> str:
    """The script that makes all launches, each into a file that appears complete.

    Args:
        artifacts: one per candidate.
        programs: paths on the device, by backend.
        turns: for each launch, the candidates in the order in which they are timed.
        plan: batch and threads.
    """
    batch, threads = plan
    lines = ['cd "$1" || exit 1']
    for place, one in enumerate(artifacts):
        tool, program = TOOLS[one.manifest.backend], programs[one.manifest.backend]
        lines.append(f"(cd {place} && {{ {tool.prepare(program, one, batch)}; }}) >&2")
    for launch, order in enumerate(turns):
        lines += [f"if [ ! -f launch-{launch} ]; then", ": > part"]
        for place in order:
            one = artifacts[place]
            command = TOOLS[one.manifest.backend].time(programs[one.manifest.backend], one, batch, threads)
            lines.append(f"printf '\\n{_BEGIN} %s\\n' {place} >> part")
            lines.append(f"(cd {place} && {{ {command}; }}) >> part 2>&1")
            lines.append(f"printf '\\n{_END} %s\\n' \"$?\" >> part")
        lines += [f"mv part launch-{launch}", "fi"]
    return "\n".join(lines) + "\n"


_BEGIN, _END = "rescompress-candidate", "rescompress-ended"
_PARTS = re.compile(rf"^{_BEGIN} (\d+)\n(.*?)\n{_END} (\d+)$", re.MULTILINE | re.DOTALL)


def read(text: str, backends: tuple[str, ...]) -> list[list[int]]:
    """Nanoseconds by candidate, out of the file of one launch.

    Args:
        text: of the file.
        backends: of each candidate.

    Raises:
        InputRefused: a tool failed, or said something else than it used to.
    """
    found: dict[int, list[int]] = {}
    for place, said, status in _PARTS.findall(text.replace("\r\n", "\n")):
        if int(place) >= len(backends):
            continue
        tool = TOOLS[backends[int(place)]]
        last = ([line.strip() for line in said.splitlines() if line.strip()] or ["nothing"])[-1]
        if status != "0":
            raise InputRefused(f"{tool.program} failed on the device: {last[:200]}.", "Run it there by hand.")
        try:
            found[int(place)] = tool.read(said)
        except (ValueError, KeyError, TypeError):
            found[int(place)] = []
        if not found[int(place)] or min(found[int(place)]) <= 0:
            raise InputRefused(f"{tool.program} on the device told no latency: {last[:200]}.", "Update it there.")
    if len(found) != len(backends):
        raise InputRefused("A launch's file on the device is incomplete.", "Run the command again.")
    return [found[place] for place in range(len(backends))]
