"""LoadGen's scenarios as benchmarks: which knobs agree, and the whole way through real processes."""

import importlib.util

import numpy as np
import pytest

from rescompress import backends, loadgen
from rescompress.benchmarking import benchmark, scenarios
from rescompress.errors import BackendMissing, RecipeError
from rescompress.loadgen import Answered
from rescompress.pipeline.proof import export_artifact
from rescompress.timing import LatencyRow
from tests.networks import fused, noise

SHORT = {"launches": 2, "blocks": 2, "block_seconds": 0.05}
needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)


@pytest.fixture(scope="module")
def pair(spinning):
    return [spinning("00-baseline", 0.5), spinning("01-slower", 0.75)]


@pytest.mark.slow
@needs_loadgen
def test_single_stream_is_a_benchmark_like_any_other(pair, images):
    row, raw = benchmark(pair, images, scenario="single-stream", **SHORT)
    assert (row.scenario, row.target, row.batch) == ("single-stream", {"seconds": 0.1}, 1)
    first, slower = row.latencies
    assert 0.5 <= first.min_ms <= first.p50_ms
    assert slower.min_ms >= 0.75
    assert (first.ratio_low, first.ratio, first.ratio_high) == (1, 1, 1)
    assert first.images_per_s <= 1e3 / first.min_ms
    assert first.within_slo is None
    assert list(raw) == ["00-baseline spinning", "01-slower spinning", "00-baseline spinning (A/A)"]
    for latency, launches in zip(row.latencies, raw.values(), strict=False):
        assert [len(ns) >= 32 for ns in launches] == [True, True]
        assert sum(map(len, launches)) == latency.queries


@pytest.mark.slow
@needs_loadgen
def test_multi_stream_has_several_images_in_a_query(pair, images):
    row, _ = benchmark(pair, images, scenario="multi-stream", samples_per_query=3, **SHORT)
    assert (row.batch, row.target["samples_per_query"]) == (3, 3)
    assert row.latencies[0].queries >= 662
    assert row.latencies[0].min_ms >= 0.5
    assert row.latencies[0].images_per_s <= 3e3 / row.latencies[0].min_ms


@needs_loadgen
def test_offline_is_told_by_its_throughput(spinning, images):
    row, raw = benchmark([spinning("00-baseline", 0.5)], images, scenario="offline", batch=4, **SHORT)
    baseline, copy = ([4 * len(ns) / sum(ns) * 1e9 for ns in launches] for launches in raw.values())
    assert row.latencies[0].images_per_s == pytest.approx(np.exp(np.log(baseline).mean()))
    assert row.latencies[0].queries == sum(map(len, raw["00-baseline spinning"])) >= 64
    assert row.latencies[0].min_ms >= 0.5
    assert row.noise_floor >= abs(np.exp(np.log(np.divide(baseline, copy)).mean()) - 1) - 1e-9


@pytest.mark.slow
@needs_loadgen
def test_server_beyond_its_rate_is_outside_its_limit(spinning, images):
    row, _ = benchmark([spinning("00-slow", 5)], images, scenario="server", qps=5000, slo_ms=10, **SHORT)
    assert row.target == {"seconds": 0.1, "qps": 5000, "slo_ms": 10}
    assert row.latencies[0].within_slo is False
    assert row.latencies[0].images_per_s < 200


@pytest.mark.slow
@needs_loadgen
def test_server_far_below_its_rate_keeps_its_limit(spinning, images):
    row, _ = benchmark([spinning("00-quick", 0.1)], images, scenario="server", qps=600, slo_ms=5000, **SHORT)
    assert row.latencies[0].within_slo is True
    assert row.latencies[0].queries >= 662
    assert not [reason for reason in row.reasons if "too few queries" in reason or "too short" in reason]


def answered(seconds, images=100, ns=(1_000_000,) * 100, unmet=()):
    return Answered(ns, tuple(i / 10 for i in range(len(ns))), images, seconds, unmet, {})


ROW = LatencyRow("00", "spinning", 100, 1, 1, 1, None, 1, 0, 1, 1, 1, ())
RUNS = [[answered(1.0), answered(2.0), answered(1.1)], [answered(1.0), answered(2.0), answered(1.0)]]


def traffic(scenario, **knobs):
    return loadgen.Traffic(scenario, 1, 0.1, 1, **knobs)


def test_throughput_is_the_mean_of_the_launches():
    rng = np.random.default_rng(0)
    for scenario in loadgen.NAMES:
        first, slower = scenarios.told([ROW, ROW], traffic(scenario, slo_ms=5), RUNS, rng)
        assert (first.images_per_s, slower.images_per_s) == pytest.approx((100, 50))
    assert scenarios.told([ROW], None, [], rng) == (ROW,)


def test_offline_ratio_is_that_of_the_throughput():
    rng = np.random.default_rng(0)
    same, slower, copy = (scenarios.ratio(traffic("offline"), RUNS, i, rng) for i in range(3))
    assert (same.low, same.value, same.high) == (1, 1, 1)
    assert slower.value == pytest.approx(2)
    assert copy.value == pytest.approx(1.1**0.5)
    assert copy.low < copy.value < copy.high
    assert scenarios.ratio(traffic("single-stream"), RUNS, 1, rng) is None


def test_runs_that_ended_early_are_told():
    early = [[answered(1), answered(1, unmet=("min_duration",))], [answered(1), answered(1)]]
    assert not [*scenarios.objections(("a", "b"), traffic("offline"), RUNS)]
    assert [*scenarios.objections(("a", "b"), traffic("offline"), early)] == [
        "1 of 2 runs of b are too short for LoadGen: it ended early."
    ]
    few, quick = scenarios.objections(("a", "b"), traffic("server", slo_ms=5), early)
    assert few == "a answered too few queries to tell whether 99 % of them keep 5 ms."
    assert quick.endswith("queries came faster than they were answered.")
    assert not [*scenarios.objections(("a", "b"), None, [(), ()])]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"scenario": "server"}, "needs the rate"),
        ({"qps": 5}, "qps says nothing in the interleaved scenario"),
        ({"scenario": "offline", "qps": 5}, "qps says nothing"),
        ({"scenario": "single-stream", "slo_ms": 5}, "slo_ms says nothing"),
        ({"scenario": "offline", "samples_per_query": 4}, "samples_per_query says nothing"),
        ({"scenario": "multi-stream", "batch": 4}, "batch says nothing"),
        ({"scenario": "single-stream", "batch": 4}, "batch says nothing"),
        ({"scenario": "offline", "device": "ssh://board"}, "on this machine only"),
        ({"scenario": "server", "qps": 0}, "qps must be"),
        ({"scenario": "serve"}, "scenario must be"),
    ],
)
def test_knobs_that_say_nothing_are_refused(spinning, images, knobs, said):
    with pytest.raises(RecipeError, match=said):
        benchmark([spinning("00-baseline")], images, **knobs)


def test_missing_loadgen_is_told_before_anything_runs(images, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match="LoadGen is not installed"):
        benchmark([], images, scenario="offline")


@pytest.mark.parametrize(
    ("queries", "late", "verdict"),
    [(661, 0, None), (662, 0, True), (662, 1, None), (10_000, 50, True), (10_000, 99, None), (10_000, 101, False)],
)
def test_limit_is_kept_where_the_queries_can_vouch_for_it(queries, late, verdict):
    ns = (2_000_000,) * late + (1_000_000,) * (queries - late)
    halves = [answered(1, ns=part) for part in (ns[::2], ns[1::2])]
    assert scenarios.within(halves, 1.5) is verdict


def test_limit_is_missed_where_a_run_was_given_up():
    assert scenarios.within([answered(1, ns=(1,) * 1000, unmet=("min_duration",))], 1.0) is False


def test_blocks_keep_every_query_in_order():
    run = answered(2.3, ns=tuple(range(1, 24)))
    blocks, starts = scenarios.blocks(run, traffic("single-stream"))
    assert len(blocks) == len(starts) == 10
    assert np.concatenate(blocks).tolist() == list(run.ns)
    assert [block[0] for block in blocks] == [1 + round(10 * start) for start in starts]
    assert len(scenarios.blocks(run, traffic("server"))[0]) == 1
    assert len(scenarios.blocks(answered(1, ns=(5, 6)), traffic("offline"))[0]) == 2


@pytest.mark.slow
@needs_loadgen
@pytest.mark.parametrize("scenario", sorted(loadgen.NAMES))
def test_real_network_is_asked_in_every_scenario(scenario, tmp_path):
    if backends.get("onnxruntime").missing():
        pytest.skip("onnxruntime is not installed")
    model = fused("cifar", "resnet8")
    folder = export_artifact(
        model, "onnxruntime", {}, tmp_path / "a", label="a", source="", source_sha256="", key=""
    ).folder
    rate = {"qps": 50} if scenario == "server" else {}
    row, _ = benchmark([folder], noise(model, 20).numpy(), scenario=scenario, **rate, **SHORT)
    assert row.scenario == scenario
    assert 0 < row.latencies[0].min_ms <= row.latencies[0].p50_ms
    assert row.latencies[0].images_per_s > 0
    assert not [reason for reason in row.reasons if "mismatch" in reason]
