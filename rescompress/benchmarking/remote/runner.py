"""Times artifacts on a device by itself: the standard library, NumPy and the runtime; Python 3.8 and later.

``runner.py FOLDER`` does what ``FOLDER/job.json`` asks and leaves a file ``launch-0``, ``launch-1``, … for each launch,
complete or not at all; those that are there are not made again. ``runner.py FOLDER N`` is candidate N's own process.
The method is that of ``rescompress/benchmarking/method.py``, and so are all its numbers: they come with the job.
"""

import base64
import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional

import numpy as np

Run = Callable[[Any], Any]
Json = Dict[str, Any]
MODULES = {  # what each backend imports: the first one that is there
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "litert": ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"),
}


class Refused(Exception):
    """What went wrong, in the words of ``rescompress.errors``: the error's name, a fact, a remedy."""


def module_of(backend: str) -> Any:
    """Import a backend's runtime; None where it isn't installed."""
    for name in MODULES.get(backend, ()):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None


def onnxruntime_session(path: str, candidate: Json, threads: int) -> Run:
    """ONNX Runtime on the CPU provider and no other."""
    runtime = module_of("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def once(images: Any) -> Any:
        return joined(session.run(None, {taken.name: images}))

    return filled(once, taken.shape[0] if isinstance(taken.shape[0], int) else None)


def openvino_session(path: str, candidate: Json, threads: int) -> Run:
    """OpenVINO on the CPU, compiled for latency on so many threads, both asserted."""
    core = module_of("openvino").Core()
    half = candidate["floats"] == "fp16" and "FP16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f16" if half else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    compiled = core.compile_model(path, "CPU", options)
    devices, got = (compiled.get_property(name) for name in ("EXECUTION_DEVICES", "INFERENCE_NUM_THREADS"))
    if list(devices) != ["CPU"] or got != threads:
        raise Refused("BackendMissing", "OpenVINO takes other threads or devices there.", "Ask for fewer threads.")
    request = compiled.create_infer_request()
    first = compiled.input(0).get_partial_shape()[0]

    def once(images: Any) -> Any:
        answer = request.infer([images], share_inputs=True, share_outputs=True)
        return joined([answer[port] for port in compiled.outputs])

    return filled(once, None if first.is_dynamic else first.get_length())


def litert_session(path: str, candidate: Json, threads: int) -> Run:
    """LiteRT's interpreter with XNNPACK; float images are turned to channels last, integers scaled, on the host."""
    interpreter = module_of("litert").Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    given = interpreter.get_output_details()
    size = [int(taken["shape"][0])]

    def once(images: Any) -> Any:
        stored = np.ascontiguousarray(images if candidate["pixels"] else images.transpose(0, 2, 3, 1))
        if taken["dtype"] is np.int8:
            scale, zero = taken["quantization"]
            stored = (np.round(stored / np.float32(scale)) + zero).clip(-128, 127).astype(np.int8)
        if len(stored) != size[0]:
            interpreter.resize_tensor_input(taken["index"], stored.shape)
            interpreter.allocate_tensors()
            size[0] = len(stored)
        interpreter.set_tensor(taken["index"], stored)
        interpreter.invoke()
        made = [dequantized(interpreter.get_tensor(output["index"]), output) for output in given]
        return joined([one.transpose(0, 3, 1, 2) if one.ndim == 4 else one for one in made])

    return filled(once, None if int(taken["shape_signature"][0]) == -1 else size[0])


def joined(outputs: List[Any]) -> Any:
    """All that a network gives, one row an image."""
    return np.concatenate([output.reshape(len(output), -1) for output in outputs], 1)


def dequantized(values: Any, details: Json) -> Any:
    """Integers on the grid that the file tells; floats as they are."""
    scale, zero = details["quantization"]
    return values if values.dtype == np.float32 else (values.astype(np.float32) - np.float32(zero)) * np.float32(scale)


SESSIONS = {"onnxruntime": onnxruntime_session, "openvino": openvino_session, "litert": litert_session}


def filled(once: Run, batch: Optional[int]) -> Run:
    """Any number of images through what takes a fixed number; zeros fill the last batch."""

    def run(images: Any) -> Any:
        if batch is None or len(images) == batch:
            return once(images)
        absent = np.zeros((-len(images) % batch, *images.shape[1:]), images.dtype)
        whole = np.concatenate([images, absent]) if len(absent) else images
        return np.concatenate([once(whole[i : i + batch]) for i in range(0, len(whole), batch)])[: len(images)]

    return run


def serve(folder: str, place: int) -> None:
    """One candidate: load it, then answer a line of JSON with a line of JSON until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a runtime prints can break an answer
    job = json.load(open(os.path.join(folder, "job.json")))  # noqa: SIM115 - read once
    candidate, order = job["candidates"][place], random.Random(0)  # noqa: S311 - which image is next is no secret
    loaded: List[Any] = []
    for line in sys.stdin:
        try:
            if not loaded:
                path = os.path.join(folder, str(place), candidate["entry"])
                session = SESSIONS[candidate["backend"]](path, candidate, job["threads"])
                loaded += [session, time.monotonic()]
                loaded.append(np.load(os.path.join(folder, candidate["ring"]), allow_pickle=False))
            answer = answered(json.loads(line), loaded, order)
        except Refused as refused:
            answer = {"error": refused.args}
        except Exception as error:  # a runtime raises what it likes
            fact = "{} can't run on the device: {}".format(candidate["entry"], str(error).strip().split("\n")[0][:300])
            answer = {"error": ("InputRefused", fact.rstrip(".") + ".", "Export the model for the device's runtime.")}
        print(json.dumps(answer), file=answers, flush=True)


def answered(request: Json, loaded: List[Any], order: random.Random) -> Json:
    """Logits of the first images and what the process took until then; or nanoseconds of so many seconds of batches."""
    (run, ready, ring), batch = loaded, request["batch"]
    if request["do"] == "outputs":
        begin = time.perf_counter_ns()
        run(ring[:batch])
        first_ns = time.perf_counter_ns() - begin
        made = np.concatenate([np.asarray(run(ring[i : i + batch]), "<f4") for i in range(0, request["end"], batch)])
        text = base64.b64encode(np.ascontiguousarray(made).tobytes()).decode()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        took = {"ready": ready, "first_ms": first_ns / 1e6, "peak_rss_bytes": memory}
        return dict(took, shape=made.shape, outputs=text)
    ns: List[int] = []
    end = time.perf_counter_ns() + int(request["seconds"] * 1e9)
    while time.perf_counter_ns() < end or len(ns) < request["at_least"]:
        start = order.randrange(len(ring) - batch + 1)
        images = np.ascontiguousarray(ring[start : start + batch])  # made ready before its clock starts
        begin = time.perf_counter_ns()
        run(images)
        ns.append(time.perf_counter_ns() - begin)
    return {"ns": ns}


class Candidate:
    """The parent's side of a candidate's process."""

    def __init__(self, folder: str, place: int, threads: int) -> None:
        command = [sys.executable, os.path.abspath(__file__), folder, str(place)]
        litter = {"XDG_CACHE_HOME": folder, "TMPDIR": folder, "ORT_DISABLE_TELEMETRY": "1"}  # it goes with the job
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), **litter)
        pipe, self.begun = subprocess.PIPE, time.monotonic()
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, universal_newlines=True)

    def send(self, do: str, **request: Any) -> None:
        """Ask without waiting."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # told where the answer is read
            print(json.dumps(dict(request, do=do)), file=self.process.stdin, flush=True)

    def heard(self) -> Any:
        """The answer; a process that died, or refused, raises."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            fact = "A runtime died on the device with status {}.".format(self.process.wait())
            raise Refused("WorkerCrashed", fact, "Export the artifact again, or look into the device's memory and log.")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(*answer["error"])
        return answer

    def ns(self, seconds: float, batch: int, at_least: int = 1) -> List[int]:
        """Latencies in nanoseconds."""
        self.send("time", seconds=seconds, batch=batch, at_least=at_least)
        return list(self.heard()["ns"])


def launch(folder: str, job: Json, number: int) -> Json:
    """A fresh process per candidate, each loaded by itself; all are warm before any block is measured, in turns."""
    order = random.Random("{}/{}".format(job["seed"], number))  # noqa: S311 - the order of blocks is no secret
    before, batch = clocks(), job["batch"]
    everyone: List[Candidate] = []
    told: List[Json] = []
    try:
        for place in range(len(job["candidates"])):
            everyone.append(Candidate(folder, place, job["threads"]))
            everyone[-1].send("outputs", batch=batch, end=job["checked"])
            told.append(dict(everyone[-1].heard(), blocks=[], starts=[]))
            told[-1]["load_ms"] = (told[-1].pop("ready") - everyone[-1].begun) * 1e3
        for one, facts in zip(everyone, told):
            facts["steady"] = warmed_up(one, job)
        enough = job["blocks"] * job["block_seconds"] * 1e9
        for turn in range(job["blocks"]):
            if turn >= job["fewest_rounds"] and all(sum(map(sum, facts["blocks"])) >= enough for facts in told):
                break  # a block of a slow model takes longer
            for i in order.sample(range(len(everyone)), len(everyone)):
                everyone[i].ns(job["lead_in"] * job["block_seconds"], batch)
                told[i]["starts"].append(time.time())
                told[i]["blocks"].append(everyone[i].ns(job["block_seconds"], batch, 2))
    finally:
        for one in everyone:
            one.process.kill()
            one.process.communicate()
    after = clocks()
    return {"candidates": told, "clocks": [b - a for a, b in zip(before, after)] if before and after else None}


def warmed_up(one: Candidate, job: Json) -> bool:
    """Until the medians of two neighbouring windows agree; False if they never did."""
    end, previous = time.monotonic() + job["warm_up_cap_seconds"], 0.0
    while True:
        current = float(np.median(one.ns(job["window_seconds"], job["batch"], job["window_queries"])))
        if previous and abs(current / previous - 1) <= job["steady"]:
            return True
        if previous and time.monotonic() > end:
            return False
        previous = current


def clocks() -> Optional[List[float]]:
    """Seconds of all cores: total, busy, stolen, and busy with us; None where there is no ``/proc/stat``."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    own, busy = os.times(), ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]
    return [sum(ticks), busy, ticks[7], own.user + own.system + own.children_user + own.children_system]


def write(path: str, content: Any) -> None:
    """A whole file or none."""
    with open(path + ".part", "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)


def work(folder: str) -> None:
    """Check that every file is the one that was sent, then make the launches that are missing; one process only."""
    with open(os.path.join(folder, "running"), "w") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(os.path.join(folder, "job.json")) as file:
            job = json.load(file)
        try:
            for name, expected in job["files"].items():
                path = os.path.realpath(os.path.join(folder, name))
                with open(path, "rb") as content:
                    if hashlib.sha256(content.read()).hexdigest() == expected:
                        continue
                os.unlink(path)  # it will be sent again
                raise Refused("InputRefused", "A copy on the device was broken: %s." % name, "Run the command again.")
            for number in range(job["launches"]):
                path = os.path.join(folder, "launch-{}".format(number))
                if not os.path.exists(path):
                    write(path, launch(folder, job, number))
        except Refused as refused:
            write(os.path.join(folder, "failed"), {"error": refused.args})


if __name__ == "__main__":
    work(sys.argv[1]) if len(sys.argv) == 2 else serve(sys.argv[1], int(sys.argv[2]))
