"""A whole benchmark on a device behind a real sshd, connections that break, and others who want the device too."""

import numpy as np
import pytest

from rescompress.benchmarking import remote
from rescompress.benchmarking.method import launch
from tests.benchmarking.remote.conftest import QUICK

pytestmark = pytest.mark.xdist_group("sshd")


def test_first(reached, candidates):
    told = remote.launches(reached.address, candidates, QUICK, 2, 0)
    print(told.device, told.conditions, told.caveats, told.load)
    assert len(told.launches) == 2
