"""The slow-downs that the honesty benchmark puts into worker processes are as large as their labels say."""

import importlib.util
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import rescompress.backends

FILE = Path(__file__).parents[2] / "benchmarks" / "slowing" / "sitecustomize.py"


class Spinning:
    """A backend, and its session, whose queries take a millisecond."""

    SCHEME = "its own"

    def load(self, artifact, *, threads):
        return self

    def run(self, images):
        end = time.perf_counter_ns() + 1_000_000
        while time.perf_counter_ns() < end:
            pass
        return images + 1


@pytest.fixture
def slowing(monkeypatch):
    monkeypatch.setattr(rescompress.backends, "require", lambda name: Spinning())
    specification = importlib.util.spec_from_file_location("slowing", FILE)
    specification.loader.exec_module(importlib.util.module_from_spec(specification))
    return lambda label: rescompress.backends.require("any").load(
        SimpleNamespace(manifest=SimpleNamespace(label=label)), threads=1
    )


@pytest.mark.parametrize(("label", "share"), [("slower by 0 %", 0), ("01, slower by 50 %", 0.5), ("baseline", 0)])
def test_each_query_waits_for_a_share_of_its_own_time(label, share, slowing):
    session, taken = slowing(label), []
    for _ in range(30):
        begin = time.perf_counter()
        answers = session.run(np.zeros(2))
        taken.append(time.perf_counter() - begin)
    assert (answers == 1).all()
    assert np.quantile(taken, 0.1) == pytest.approx(1e-3 * (1 + share), rel=0.05)


def test_other_artifacts_and_names_are_left_alone(slowing):
    assert isinstance(slowing("00-baseline"), Spinning)
    assert rescompress.backends.require("any").SCHEME == "its own"
