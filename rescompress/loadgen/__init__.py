"""MLPerf LoadGen asks a session its queries: who asks when, and what is recorded, is LoadGen's, not ours.

LoadGen (Reddi et al. 2020, "MLPerf Inference Benchmark") is what every result of MLPerf Inference was measured with.
Its settings for ResNet-50 and its published seeds are used as they are compiled into it; only the duration is ours. A
short run is therefore NO MLPerf result, and neither is a long one: a submission runs at least 600 s on a closed
system, proves its accuracy on all of ImageNet, and is reviewed.
"""

import importlib.util
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rescompress.backends import Images, Session
from rescompress.errors import BackendMissing
from rescompress.loadgen import log
from rescompress.loadgen.desk import Desk, Issue, queued, rehearsed
from rescompress.timing import Scenario

NAMES: dict[Scenario, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
"""What LoadGen calls its scenarios."""
_SLACK = 1.1  # LoadGen's own: so many more images than an offline query seems to need to last long enough
_QUICKEST_S = 1e-5  # LoadGen prepares all queries beforehand: for a session that seems quicker it would fill the memory
_HOPELESS_SLOS = 10
_HOPELESS_S = 1.0


@dataclass(frozen=True)
class Traffic:
    """What LoadGen shall do in one run.

    Attributes:
        scenario: which of its four.
        batch: images that the session gets at once: one in a single stream, all of a multi-stream query, and at most
            so many of those that wait in the offline and the server scenario.
        seconds: shortest duration.
        queries: least number of queries; of batches in the offline scenario, which is one query.
        qps: queries that arrive per second, at random times (a Poisson process), in the server scenario.
        slo_ms: latency that 99 % of them must keep.
        launch: added to the published seed of the arrivals, so that launches are independent of each other; the
            first has the published one.
    """

    scenario: Scenario
    batch: int
    seconds: float
    queries: int
    qps: float = 0.0
    slo_ms: float = 0.0
    launch: int = 0


@dataclass(frozen=True)
class Answered:
    """What one run showed.

    Attributes:
        ns: latency of each query in nanoseconds, in the order in which they were due, by LoadGen's clock: from when
            a query was due (in the server scenario it may wait) until its last image was answered. In the offline
            scenario, which is a single query, the time of each of its batches instead; they lie back to back and add
            up to the latency of the query.
        at_s: when each of them was due or began, on the machine's monotonic clock in seconds.
        images: how many were answered.
        seconds: from the first due query to the last answer.
        unmet: which of its own rules LoadGen found broken: ``min_duration``, ``min_queries``, ``perf_constraints``
            (the p99 of the server scenario), ``early_stopping`` (too few queries to be sure of its percentile).
        told: LoadGen's own numbers, by the names of its log, such as ``result_50.00_percentile_latency_ns``.
    """

    ns: tuple[int, ...]
    at_s: tuple[float, ...]
    images: int
    seconds: float
    unmet: tuple[str, ...]
    told: dict[str, float]


def require() -> None:
    """Do nothing where LoadGen is installed.

    Raises:
        BackendMissing: it isn't.
    """
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise BackendMissing("MLPerf LoadGen is not installed.", "Run: pip install 'mlcommons-loadgen>=6.0'")


def ask(session: Session, ring: Images, traffic: Traffic) -> Answered:
    """Let LoadGen run one scenario. The session is only called from the thread that calls this function.

    LoadGen asks in the thread that it was started in, and waits meanwhile; so it is started in this one. Only in the
    server scenario, where queries arrive while others are answered, does it have a thread of its own.

    Args:
        session: what answers.
        ring: LoadGen's sample library, as the session takes images: ``[n, 3, h, w]`` or ``[n, h, w, 3]``.
        traffic: the scenario and its numbers.

    Raises:
        BackendMissing: LoadGen isn't installed.
        RescompressError: the session refused an image.
    """
    require()
    import mlperf_loadgen

    desk = Desk(session, ring, traffic.batch)
    smallest = 1 if traffic.scenario == "server" else traffic.batch
    batch_s = max(rehearsed(session, ring, range(smallest, traffic.batch + 1)), _QUICKEST_S)
    settings = _settings(traffic, batch_s, len(ring))
    library = mlperf_loadgen.ConstructQSL(len(ring), len(ring), desk.load, lambda indices: None)
    with tempfile.TemporaryDirectory() as folder:

        def start(issue: Issue) -> None:
            sut = mlperf_loadgen.ConstructFastSUT(issue, lambda: None)
            # the last argument: it would obey any audit.config in the working directory
            audit = f"{folder}/audit.config"
            mlperf_loadgen.StartTestWithLogSettings(sut, library, settings, _written_to(folder), audit)
            mlperf_loadgen.DestroyFastSUT(sut)

        began_s = time.monotonic()
        if traffic.scenario == "server":
            queued(start, desk)
        else:
            start(desk.answer)
        mlperf_loadgen.DestroyQSL(library)
        if desk.failure is not None:
            raise desk.failure
        return _read(Path(folder), traffic, began_s)


def _settings(traffic: Traffic, batch_s: float, library: int) -> Any:
    """LoadGen's settings of ResNet-50, with our duration.

    Args:
        traffic: what is asked for.
        batch_s: seconds that a batch takes; LoadGen prepares queries for twice the time that follows from it.
        library: images that there are.
    """
    import mlperf_loadgen

    name = NAMES[traffic.scenario]
    settings = mlperf_loadgen.TestSettings()
    settings.FromConfig("", "resnet50", name, 0)  # 0: the mlperf.conf that is compiled into it
    settings.scenario = getattr(mlperf_loadgen.TestScenario, name)
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.performance_sample_count_override = library
    settings.min_duration_ms = math.ceil(traffic.seconds * 1e3)
    settings.min_query_count = traffic.queries
    settings.schedule_rng_seed += traffic.launch
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = batch_s * 1e9
    settings.multi_stream_samples_per_query = traffic.batch
    if traffic.scenario == "offline":
        # whole batches, and an expectation too low to matter: LoadGen would ask for any number of images
        batches = max(traffic.queries, math.ceil(_SLACK * traffic.seconds / batch_s))
        settings.min_query_count = batches * traffic.batch
        settings.offline_expected_qps = settings.min_query_count / traffic.seconds / 2
    if traffic.scenario == "server":
        settings.server_target_qps = traffic.qps
        settings.server_target_latency_ns = round(traffic.slo_ms * 1e6)
        hopeless_s = max(_HOPELESS_S, _HOPELESS_SLOS * traffic.slo_ms / 1e3)
        settings.server_max_async_queries = math.ceil(hopeless_s / batch_s * traffic.batch)
    return settings


def _written_to(folder: str) -> Any:
    """LoadGen's settings of its logs. The trace is the only place where it says each latency."""
    import mlperf_loadgen

    settings = mlperf_loadgen.LogSettings()
    settings.log_output.outdir = folder
    settings.enable_trace = True
    return settings


def _read(folder: Path, traffic: Traffic, began_s: float) -> Answered:
    """What LoadGen wrote into its folder."""
    said, samples = log.said(folder), log.samples(folder)
    ns, due_ns = log.batches(samples) if traffic.scenario == "offline" else log.queries(samples)
    return Answered(
        ns=tuple(ns.tolist()),
        at_s=tuple((began_s + due_ns / 1e9).tolist()),
        images=len(samples),
        seconds=float((samples["due_ns"] + samples["took_ns"]).max() - samples["due_ns"].min()) / 1e9,
        unmet=tuple(rule for rule, key in log.RULES.items() if said.get(key) is False),
        told={key: float(value) for key, value in said.items() if type(value) in (int, float)},
    )
