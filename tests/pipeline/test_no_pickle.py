"""Nothing is ever unpickled: counted by Python's own audit over a whole run and all of its worker processes."""

import os
import subprocess
import sys

from tests.pipeline.conftest import HOOKS

UNPICKLE = "import collections, pickle; pickle.loads(pickle.dumps(collections.OrderedDict()))"


def test_hook_notes_what_is_unpickled(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(HOOKS), "PICKLE_LOG": str(tmp_path / "log")}
    subprocess.run([sys.executable, "-c", UNPICKLE], env=environment, check=True)
    started, found = (tmp_path / "log").read_text().splitlines()
    assert " started " in started
    assert found.endswith(" collections.OrderedDict")


def test_whole_run_unpickles_nothing(survivor):
    lines = survivor.log.read_text().splitlines()
    started = [line for line in lines if " started " in line]
    assert sum(line.endswith("-m rescompress") for line in started) == len(survivor.codes) + 1
    workers = sum(line.endswith("-m rescompress.worker") for line in started)
    assert workers >= 10  # at least two to audit, two to verify, and three in each of two launches
    assert [line for line in lines if line not in started] == []
