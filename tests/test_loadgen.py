"""MLPerf LoadGen against sessions whose latency is known: what it reports, and what we read."""

import importlib.util
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress import loadgen
from rescompress.errors import BackendMissing, InputRefused
from rescompress.loadgen import Answered, Traffic, ask
from rescompress.loadgen.desk import Desk

RING = np.arange(20, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 2, 2), np.float32)
ARRIVALS = 16159082839903944936
"""schedule_rng_seed of mlperf.conf, v5.1 to v6.0."""
needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)


class Session:
    """Takes so many milliseconds a batch, remembers what it saw, and refuses one image."""

    def __init__(self, milliseconds=0.0, refuses=-1):
        self._nanoseconds, self._refuses = round(milliseconds * 1e6), refuses
        self.seen, self.threads = [], set()

    def run(self, images):
        end = time.perf_counter_ns() + self._nanoseconds
        self.seen.append(images[:, 0, 0, 0].astype(int).tolist())
        self.threads.add(threading.get_ident())
        if self._refuses in self.seen[-1] and len(self.seen) > 50:
            raise InputRefused("The image is odd.", "Use another.")
        while time.perf_counter_ns() < end:
            pass


def percentiles(run: Answered, of: str) -> None:
    """LoadGen's percentiles are those of the raw latencies, to the nanosecond."""
    for percent in (50, 90, 95, 97, 99, 99.9):
        ours = sorted(run.ns)[int(len(run.ns) * percent / 100)]
        assert run.told[f"result_{percent:.2f}_percentile_{of}_ns"] == ours


@needs_loadgen
def test_single_stream_is_one_image_after_the_other():
    session = Session(2)
    run = ask(session, RING, Traffic("single-stream", 1, seconds=0.2, queries=30))
    assert min(run.ns) >= 2e6
    assert len(run.ns) == run.images == run.told["result_query_count"] >= 30
    assert {len(batch) for batch in session.seen} == {1}
    percentiles(run, "latency")
    ends = np.array(run.at_s) + np.array(run.ns) / 1e9
    assert (ends[:-1] <= np.array(run.at_s[1:]) + 1e-6).all()
    assert run.seconds == pytest.approx(ends[-1] - run.at_s[0], abs=1e-6)
    assert run.seconds >= 0.2
    assert not {"min_duration", "min_queries"} & set(run.unmet)


@needs_loadgen
def test_multi_stream_waits_for_the_last_image_of_a_query():
    session = Session(2)
    run = ask(session, RING, Traffic("multi-stream", 8, seconds=0.05, queries=25))
    assert min(run.ns) >= 2e6
    assert run.images == 8 * len(run.ns) >= 200
    assert {len(batch) for batch in session.seen} == {8}
    percentiles(run, "per_query_latency")
    assert run.unmet == ("early_stopping",)  # 662 queries are needed for its p99


@needs_loadgen
def test_offline_counts_all_images_and_its_batches_add_up():
    session = Session(0.2)
    run = ask(session, RING, Traffic("offline", 6, seconds=0.1, queries=10))
    assert min(run.ns) >= 0.2e6
    assert sum(run.ns) == run.told["result_max_latency_ns"] == round(run.seconds * 1e9)
    assert run.images == 6 * len(run.ns)
    assert run.images / run.seconds == pytest.approx(run.told["result_samples_per_second"], rel=1e-5)
    assert {len(batch) for batch in session.seen} == {6}
    rehearsed = sum(batch == list(range(6)) for batch in session.seen)
    asked = np.concatenate(session.seen[rehearsed:])
    assert len(asked) == run.images
    # LoadGen goes through its shuffled library over and over
    assert sorted(asked[:20]) == list(range(20))
    assert asked.tolist() == np.resize(asked[:20], run.images).tolist()
    assert run.unmet == ()


@needs_loadgen
def test_offline_lasts_as_long_as_it_was_asked_to():
    assert ask(Session(0.1), RING, Traffic("offline", 4, seconds=0.3, queries=1)).seconds >= 0.3


def published(count: int, qps: float, launch: int = 0) -> np.ndarray:
    """Seconds between the first arrivals: libstdc++'s exponential distribution on the Mersenne Twister."""
    twister = np.random.RandomState((ARRIVALS + launch) % 2**32)
    low, high = twister.randint(0, 2**32, (count, 2), dtype=np.uint32).astype(np.float64).T
    return -np.log(1 - (low + high * 2**32) / 2**64) / qps


@needs_loadgen
@pytest.mark.parametrize("launch", [0, 3])
def test_server_queries_arrive_at_the_published_times(launch):
    run = ask(Session(), RING, Traffic("server", 1, seconds=0.1, queries=50, qps=500, slo_ms=50, launch=launch))
    assert np.diff(run.at_s) == pytest.approx(published(len(run.ns) - 1, 500, launch), abs=2e-6)
    percentiles(run, "latency")


@needs_loadgen
def test_server_far_beyond_its_rate_ends_early_and_is_late():
    session = Session(2)
    run = ask(session, RING, Traffic("server", 4, seconds=3, queries=10, qps=20_000, slo_ms=5))
    assert {"perf_constraints", "min_duration"} <= set(run.unmet)
    assert run.told["result_overlatency_query_count"] == sum(ns > 5e6 for ns in run.ns)
    assert sum(ns > 5e6 for ns in run.ns) > 0.9 * len(run.ns)
    assert run.images == len(run.ns) < 20_000 * 3 / 2
    # who waits is answered together with others; all sizes were run before
    assert {len(batch) for batch in session.seen[:20]} >= {1, 2}
    assert max(len(batch) for batch in session.seen) == 4


@needs_loadgen
@pytest.mark.parametrize("scenario", sorted(loadgen.NAMES))
def test_session_is_called_in_the_thread_that_owns_it(scenario):
    session = Session()
    ask(session, RING, Traffic(scenario, 1, seconds=0.02, queries=20, qps=1000, slo_ms=50))
    assert session.threads == {threading.get_ident()}


@needs_loadgen
@pytest.mark.parametrize("scenario", sorted(loadgen.NAMES))
def test_refusal_comes_through_and_loadgen_can_be_used_again(scenario):
    traffic = Traffic(scenario, 1, seconds=0.05, queries=300, qps=5000, slo_ms=50)
    with pytest.raises(InputRefused, match="odd"):
        ask(Session(0.05, refuses=7), RING, traffic)
    assert ask(Session(0.05), RING, traffic).images >= 300


@needs_loadgen
def test_orders_in_the_working_directory_are_not_obeyed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.config").write_text("*.*.performance_issue_same = 1\n*.*.performance_issue_same_index = 3\n")
    session = Session()
    ask(session, RING, Traffic("single-stream", 1, seconds=0.02, queries=100))
    assert len({batch[0] for batch in session.seen}) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["audit.config"]


def test_missing_loadgen_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing) as caught:
        ask(Session(), RING, Traffic("offline", 1, seconds=0.1, queries=1))
    assert caught.value.exit_code == 7
    assert "mlcommons-loadgen" in caught.value.remedy


@given(st.permutations(range(20)), st.integers(1, 30), st.data())
def test_desk_shows_the_images_that_were_asked_for(shuffled, batch, data):
    indices = data.draw(st.lists(st.sampled_from(shuffled), min_size=1, max_size=40))
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, 19))
        indices = np.resize([*shuffled[start:], *shuffled[:start]], len(indices)).tolist()
    answered = []
    stub = SimpleNamespace(
        QuerySampleResponse=lambda one, data, size: one, QuerySamplesComplete=lambda found: answered.extend(found)
    )
    session = Session()
    desk = Desk(session, RING, batch)
    desk.load(shuffled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mlperf_loadgen", stub)
        desk.answer([100 + i for i in range(len(indices))], indices)
    assert [one for seen in session.seen for one in seen] == indices
    assert max(len(seen) for seen in session.seen) <= batch
    assert answered == [100 + i for i in range(len(indices))]
