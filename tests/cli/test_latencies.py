"""What a table of latencies shows first, by scenario."""

from types import SimpleNamespace

import pytest

from rescompress.cli.latencies import show_results
from rescompress.timing import BenchmarkRow, LatencyRow


def shown(scenario, target, capsys, **told):
    latency = LatencyRow("00-base", "onnx", 700, 1.5, 1, 2, 2.5, 1, 0.01, 1, 1, 1, (1.0,) * 101, **told)
    row = BenchmarkRow(1, 1, 5, (latency,), 0.01, "VALID", (), "", scenario=scenario, target=target)
    show_results(SimpleNamespace(benchmark=row, rules=()))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    return [" ".join(title.split()) for title in lines[0].split("   ") if title.strip()], lines


def test_blocks_in_turns_are_told_by_their_median(capsys):
    titles, lines = shown("interleaved", {}, capsys, images_per_s=650.0)
    assert titles == ["artifact", "p50 ms [95 %]", "p90 ms", "ratio [95 %]", "queries", "images/s"]
    assert not any("LoadGen" in line for line in lines)


def test_offline_is_told_by_its_throughput(capsys):
    titles, lines = shown("offline", {"seconds": 0.5}, capsys, images_per_s=650.0)
    assert titles[:4] == ["artifact", "images/s", "ratio [95 %]", "a batch's p50 ms [95 %]"]
    assert "offline: seconds 0.5. This is no MLPerf result." in lines[-2]


@pytest.mark.parametrize(("kept", "said"), [(True, "yes"), (False, "no"), (None, "too few")])
def test_server_is_told_by_its_limit(capsys, kept, said):
    titles, lines = shown("server", {"qps": 100, "slo_ms": 15}, capsys, p99_ms=12.0, within_slo=kept)
    assert titles[:3] == ["artifact", "99 % in time", "p99 ms"]
    assert f"{said} (15 ms)" in lines[2]
    assert "12.000" in lines[2]
