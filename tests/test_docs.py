"""What the documents say can be done is done here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rescompress import recipe
from rescompress.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_tour_runs() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "tour.py"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "top-1 agreement" in done.stdout


def test_the_readme_commands_are_make_targets() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert named == ["demo", "test"]
    assert set(named) <= set(targets)


def test_the_readme_names_only_verbs_that_exist() -> None:
    assert set(re.findall(r"^rescompress (\w+)", README, re.MULTILINE)) <= set(VERBS)


def test_the_readme_recipe_is_a_recipe(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    job = recipe.parse(yaml.safe_load(text))
    assert [step.stage for step in job.stages] == ["prune", "distill", "fuse", "quantize"]


def test_the_readme_numbers_are_the_measured_ones() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "digits.json").read_text("utf-8"))["rows"]
    table = [line for line in README.splitlines() if line.startswith("| 0")]
    assert len(table) == len(rows)
    for line, row in zip(table, rows, strict=True):
        accuracy = row["accuracy"]
        assert row["stage"] in line
        assert f"({accuracy['correct']} of {accuracy['total']})" in line
        assert f"{row['p50_ms']:.3f} ms" in line


@pytest.mark.slow
def test_the_demo_runs() -> None:
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "04-quantize" in done.stdout
