"""Which integer kernels a processor means."""

import pytest

from rescompress import cpu


@pytest.mark.parametrize(
    ("isa", "kernels"),
    [
        (("avx2",), "avx2"),
        (("avx2", "avx512f"), "avx2"),
        (("avx2", "avx512_vnni", "avx512f"), "vnni"),
        (("avx2", "avx_vnni"), "vnni"),
        (("neon", "neon_dotprod"), "arm"),
        ((), "avx2"),
    ],
)
def test_the_kernels_follow_from_the_instruction_sets(isa: tuple[str, ...], kernels: str) -> None:
    assert cpu.kernels("auto", isa) == kernels


@pytest.mark.parametrize("asked", ["avx2", "vnni", "arm"])
def test_what_is_asked_for_is_taken(asked: cpu.Kernels) -> None:
    assert cpu.kernels(asked, ("avx2",)) == asked


def test_this_machine_has_kernels() -> None:
    assert cpu.kernels("auto") == cpu.kernels("auto", cpu.instruction_sets(cpu.told()))
