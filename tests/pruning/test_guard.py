"""Code of others that doesn't end is ended, and what it leaves is cleared away."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.pruning import groups, prune
from rescompress.pruning.guard import GaveUpError, bounded
from tests.networks import stock


def endless(*arguments: object, **more: object) -> None:
    while True:
        time.sleep(0.001)


def test_what_takes_too_long_is_given_up() -> None:
    before, start = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(GaveUpError), bounded(most_s=0.05):
        endless()
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_takes_too_much_memory_is_given_up() -> None:
    with pytest.raises(GaveUpError), bounded(most_s=60.0, most_bytes=-1):
        endless()


def test_what_ends_in_time_is_left_alone() -> None:
    with bounded(most_s=60.0):
        assert sum(range(1000)) == 499_500


def test_outside_the_main_thread_nothing_rings() -> None:
    done: list[bool] = []

    def work() -> None:
        with bounded(most_s=0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


@pytest.mark.parametrize(("fails", "said"), [(endless, "two minutes"), (lambda *a, **k: {}[3], "KeyError")])
def test_a_network_that_cannot_be_followed_is_refused(
    monkeypatch: pytest.MonkeyPatch, fails: object, said: str
) -> None:
    import torch_pruning

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", fails)
    monkeypatch.setattr(groups, "bounded", lambda: bounded(most_s=0.05))
    with pytest.raises(InputRefused, match=said):
        prune(stock("cifar", "resnet8"), Context())


LEFT = """
import gc
import torch_pruning
from rescompress import models
from rescompress.pruning import find_groups
model = models.build(models.spec("cifar", "resnet8", 10))
find_groups(model, (3, 32, 32))
gc.collect()
gc.disable()
before = len(gc.get_objects())
find_groups(model, (3, 32, 32))
print(len(gc.get_objects()) - before)
"""


def test_finding_groups_leaves_next_to_nothing_to_the_garbage_collector() -> None:
    """In a process of its own: checking shapes and types keeps frames alive."""
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", LEFT], capture_output=True, text=True, check=True)
    assert abs(int(said.stdout)) < 50
