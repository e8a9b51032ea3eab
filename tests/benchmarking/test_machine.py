"""What is told about the machine, and what is kept back."""

import getpass
import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rescompress.artifact import to_json
from rescompress.benchmarking import machine

X86 = """processor\t: 0
model name\t: AMD EPYC   7R13
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni
processor\t: 1
model name\t: AMD EPYC   7R13
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
PI = ARM + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
MAC = (
    "machdep.cpu.brand_string: Apple M2\nhw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.avx2_0: 0\n"
)
STAT = "cpu  {user} 0 {system} {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3\n"


@pytest.mark.parametrize(
    ("told", "name", "isa"),
    [
        (X86, "AMD EPYC 7R13", ("avx2", "avx512_vnni", "avx512f")),
        (ARM, "implementer 0x41 part 0xd0c", ("neon", "neon_dotprod")),
        (PI, "Raspberry Pi 5 Model B Rev 1.0", ("neon", "neon_dotprod")),
        (MAC, "Apple M2", ("neon", "neon_dotprod")),
        ("", "unavailable", ()),
    ],
)
def test_processor_is_read_from_what_the_system_tells(told, name, isa):
    assert (machine.cpu_model(told), machine.instruction_sets(told)) == (name, isa)


def test_environment_tells_machine_and_releases():
    found = machine.environment()
    assert found.cores >= 1
    assert found.memory_bytes > 2**20
    assert found.python == platform.python_version()
    assert found.packages["numpy"]
    assert "no-such-package" not in found.packages


def test_environment_names_neither_host_nor_user_nor_path():
    text = to_json(machine.environment()).decode()
    assert f'"{platform.node()}"' not in text
    assert f'"{getpass.getuser()}"' not in text
    assert str(Path.home()) not in text
    assert sys.prefix not in text


def test_fingerprint_follows_the_environment():
    found = machine.environment()
    other = replace(found, packages={**found.packages, "numpy": "0"})
    assert machine.fingerprint(found) == machine.fingerprint(machine.environment())
    assert machine.fingerprint(found) != machine.fingerprint(other)
    assert len(machine.fingerprint(found)) == 16


def test_load_leaves_out_what_was_ours():
    before = machine.parse_clock(STAT.format(user=0, system=0, idle=1000, steal=0), 100, ours=2.0)
    after = machine.parse_clock(STAT.format(user=500, system=100, idle=1380, steal=20), 100, ours=7.0)
    found = machine.load(before, after)
    assert found is not None
    assert (found.foreign, found.stolen) == pytest.approx((0.1, 0.02))


def test_load_is_never_negative():
    before = machine.Clock(total=0, busy=0, stolen=0, ours=0)
    after = machine.Clock(total=10, busy=4.99, stolen=0, ours=5)
    assert machine.load(before, after) == machine.Load(0, 0)


def test_load_without_clocks_is_not_zero():
    assert machine.load(None, None) is None


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has /proc/stat")
def test_clock_runs_on_linux():
    before = machine.clock()
    sum(range(10**6))
    after = machine.clock()
    assert before is not None
    assert after is not None
    assert after.ours >= before.ours > 0
    assert after.total >= before.total > 0
