"""The whole benchmark, in real processes, of a backend whose latency is known."""

import numpy as np
import pytest

from rescompress import backends, verified
from rescompress.artifact import open_artifact
from rescompress.benchmarking import benchmark
from rescompress.benchmarking.validity import differs
from rescompress.errors import InputRefused, RecipeError, WorkerCrashed
from rescompress.knobs import knobs
from rescompress.pipeline.proof import export_artifact
from tests.networks import fused, noise


@pytest.fixture(scope="module")
def timed(spinning, images):
    """A baseline, its equal, and one that is 20 % slower."""
    artifacts = [spinning("00-baseline", 0.5), spinning("01-equal", 0.5), spinning("02-slower", 0.6)]
    verified.keep(open_artifact(artifacts[1]), images, answers(images), alone=True)
    return benchmark(artifacts, images, batch=2, max_launches=5, blocks=12)


def answers(images, offset=0.0):
    """What the fake runtime computes."""
    return (images.mean(axis=(1, 2, 3))[:, None] * np.arange(10) + offset).astype(np.float32)


def test_row_describes_the_candidates_in_order(timed):
    row, _ = timed
    assert [latency.label for latency in row.latencies] == ["00-baseline", "01-equal", "02-slower"]
    assert {latency.backend for latency in row.latencies} == {"spinning"}
    assert (row.batch, row.threads, row.launches) == (2, 1, 5)


def test_latency_is_the_one_that_was_set(timed):
    row, _ = timed
    for latency, milliseconds in zip(row.latencies, (0.5, 0.5, 0.6), strict=True):
        assert milliseconds <= latency.min_ms <= latency.p50_ms
        # The interval is one of few launches, widened by Student's t: its low end may lie below every single query.
        assert latency.p50_low_ms <= latency.p50_ms <= latency.p50_high_ms
        bounds = [bound for bound in (latency.p90_ms, latency.p95_ms, latency.p99_ms) if bound is not None]
        assert len(bounds) == sum(latency.queries >= fewest for fewest in (64, 130, 662))
        assert latency.ecdf_ms[90] <= bounds[0] <= bounds[-1] <= latency.max_ms
        assert latency.max_ms == latency.ecdf_ms[-1]
        assert 0 <= latency.mad_ms <= latency.max_ms - latency.min_ms
        assert latency.slow_queries < latency.queries / 2
        assert 2e3 / latency.max_ms <= latency.images_per_s <= 2e3 / latency.min_ms
        assert latency.p50_ms == pytest.approx(milliseconds, rel=0.2)
        assert latency.ecdf_ms[0] == latency.min_ms
        assert len(latency.ecdf_ms) == 101


def test_baseline_is_exactly_itself(timed):
    baseline = timed[0].latencies[0]
    assert (baseline.ratio_low, baseline.ratio, baseline.ratio_high) == (1, 1, 1)


def test_equal_artifact_does_not_differ(timed):
    row, _ = timed
    assert not differs(row.latencies[1], row.noise_floor)


def test_slower_artifact_is_found(timed):
    row, _ = timed
    assert differs(row.latencies[2], row.noise_floor)
    assert row.latencies[2].ratio == pytest.approx(1.2, abs=0.06)


def test_every_query_is_kept(timed):
    row, raw = timed
    names = ["00-baseline spinning", "01-equal spinning", "02-slower spinning", "00-baseline spinning (A/A)"]
    assert list(raw) == names
    assert all(len(launches) == row.launches for launches in raw.values())
    for latency, name in zip(row.latencies, names, strict=False):
        nanoseconds = np.concatenate(raw[name])
        assert (nanoseconds.size, nanoseconds.min() / 1e6) == (latency.queries, latency.min_ms)


def test_blocks_are_a_series_in_seconds_since_the_first(timed):
    row, _ = timed
    starts = [[start for start, _ in latency.blocks] for latency in row.latencies]
    assert len({len(one) for one in starts}) == 1
    assert 5 * 10 <= len(starts[0]) <= 5 * 12  # on a busy machine blocks take longer, and ten are enough
    assert all(np.diff(one).min() >= 0.01 for one in starts)
    assert 0 <= min(map(min, starts)) < 0.2
    for latency in row.latencies:
        assert np.median([ms for _, ms in latency.blocks]) == pytest.approx(latency.p50_ms, rel=0.1)


def test_each_round_has_one_block_of_each_in_random_order(timed):
    starts = np.array([[start for start, _ in latency.blocks] for latency in timed[0].latencies])
    orders = np.argsort(starts, axis=0)
    assert (np.diff(np.sort(starts, axis=0)[[0, -1]].T.ravel()) > 0).all()
    assert len({tuple(order) for order in orders.T}) == 6


def test_fresh_process_pays_for_its_start(timed):
    for latency in timed[0].latencies:
        assert 10 < latency.cold.load_ms < 60_000
        assert latency.cold.first_ms >= latency.min_ms * 0.9
        assert 10e6 < latency.cold.peak_rss_bytes < 2e9
        assert latency.cold.peak_device_bytes is None


def test_healthy_run_is_not_invalid(timed):
    row, _ = timed
    assert row.verdict in ("VALID", "INDICATIVE")
    assert not any("mismatch" in reason for reason in row.reasons)


def test_what_was_not_verified_is_told(timed):
    (told,) = [reason for reason in timed[0].reasons if "verified" in reason]
    assert told.endswith("it was not verified here: 00-baseline spinning, 02-slower spinning.")


@pytest.fixture(scope="module")
def judged(spinning, images):
    """One that computes what was verified, and four that don't, or where nobody can tell."""
    names = ("00-baseline", "01-departing", "02-neighbours", "03-others", "04-changing")
    artifacts = [spinning(name, fate="changes" if "changing" in name else "lives") for name in names]
    kept = [(images, 0, True), (images, 0.01, True), (images, 1, False), (images[::-1], 1, True)]
    for folder, (shown, offset, alone) in zip(artifacts, kept, strict=False):
        verified.keep(open_artifact(folder), shown, answers(images, offset), alone=alone)
    return benchmark(artifacts, images, launches=2, blocks=1)[0]


def test_output_that_departs_from_the_verified_one_is_invalid(judged):
    assert judged.verdict == "INVALID"
    departed = [reason for reason in judged.reasons if "other outputs than when it was verified" in reason]
    assert [reason.partition(" ")[0] for reason in departed] == ["01-departing"]


def test_answers_that_depend_on_neighbours_or_other_images_are_not_compared(judged):
    assert any("depend on the other images of a batch: 02-neighbours" in reason for reason in judged.reasons)
    assert any("verified on other images: 03-others" in reason for reason in judged.reasons)
    assert not any("00-baseline" in reason for reason in judged.reasons if "verified" in reason)


def test_output_that_changes_between_processes_is_invalid(judged):
    changed = [reason for reason in judged.reasons if "different outputs in different launches" in reason]
    assert [reason.partition(" ")[0] for reason in changed] == ["04-changing"]


@pytest.mark.parametrize("fate", ["dies loading", "dies running"])
def test_dead_runtime_is_a_crashed_worker(spinning, images, fate):
    with pytest.raises(WorkerCrashed) as caught:
        benchmark([spinning("00-baseline"), spinning("01-dying", fate=fate)], images, launches=2)
    assert caught.value.exit_code == 10
    assert "01-dying" in caught.value.fact


def test_refusal_of_a_runtime_comes_through(spinning, images):
    with pytest.raises(InputRefused, match="too small"):
        benchmark([spinning("00-refusing", fate="refuses")], images, launches=2)


def test_nothing_to_time_is_refused(spinning, images):
    with pytest.raises(InputRefused, match="no artifact"):
        benchmark([], images)
    with pytest.raises(InputRefused, match="can't be timed"):
        benchmark([spinning("00-baseline")], images[:0])


def test_single_launch_has_no_interval_and_is_refused(spinning, images):
    with pytest.raises(RecipeError, match="launches"):
        benchmark([spinning("00-baseline")], images, launches=1)


def test_every_knob_has_its_help():
    assert all(knob.help for knob in knobs(benchmark))


@pytest.mark.slow
def test_every_runtime_of_the_folder_is_timed_in_one_run(tmp_path):
    model = fused("cifar", "resnet8")
    names = [name for name in backends.names() if not backends.get(name).missing()]
    folders = [
        export_artifact(model, name, {}, tmp_path / name, label=name, source="", source_sha256="", key="").folder
        for name in names
    ]
    row, _ = benchmark(folders, noise(model, 4).numpy(), launches=2, blocks=2, block_seconds=0.01)
    assert [latency.backend for latency in row.latencies] == names
    assert all(0 < latency.min_ms <= latency.p50_ms for latency in row.latencies)
    assert not [reason for reason in row.reasons if "output" in reason]
