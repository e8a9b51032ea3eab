"""What a run asks of the benchmark where the recipe doesn't say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rescompress import recipe
from rescompress.benchmarking import machine
from rescompress.pipeline import proof
from rescompress.pipeline.folder import RunFolder
from rescompress.timing import BenchmarkRow
from tests.jobs import tiny


@pytest.mark.parametrize(
    ("asked", "profile"),
    [
        ({}, True),
        ({"profile": False}, False),
        ({"scenario": "offline"}, False),
        ({"device": "ssh://board"}, False),
    ],
)
def test_a_run_profiles_what_it_times_here_with_our_own_blocks(
    asked: dict[str, Any], profile: bool, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, report = finished
    seen: dict[str, Any] = {}

    def benchmark(folders: Any, rings: Any, **given: Any) -> tuple[BenchmarkRow, dict[str, Any]]:
        seen.update(given)
        return report.benchmark, {}

    monkeypatch.setattr(proof, "benchmark", benchmark)
    job = recipe.parse(tiny(benchmark=asked))
    rows = [replace(row, folder=str(folder / row.folder)) for row in report.artifacts]
    proof.time(job, RunFolder(tmp_path, "tiny"), rows, None, machine.environment())
    assert seen["profile"] is profile
