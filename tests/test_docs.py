"""What the documents say can be done is done here."""

import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rescompress import recipe
from rescompress.cli import VERBS
from rescompress.data import Data, InMemory, digits
from rescompress.spec import Preprocessing

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_tour_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process and on few images; in one of its own, on all of them, it takes far longer."""
    pytest.importorskip("sklearn")
    load = digits.load

    def few(preprocessing: Preprocessing) -> Data:
        opened = load(preprocessing)
        train, calibration, test = (
            InMemory(split.read(range(128)), split.labels[:128])
            for split in (opened.train, opened.calibration, opened.test)
        )
        return replace(opened, train=train, calibration=calibration, test=test)

    monkeypatch.setattr(digits, "load", few)
    runpy.run_path(str(ROOT / "docs" / "tour.py"), run_name="__main__")
    assert "top-1 agreement" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tour_runs_in_a_process_of_its_own() -> None:
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
