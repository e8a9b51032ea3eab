"""Where the time of each artifact goes, for people: the longest layers, and what share of the machine's peaks it is."""

from rescompress.cli.show import table
from rescompress.timing import BenchmarkRow, LayerTime, ProfileRow

TOP = 5


def show(row: BenchmarkRow) -> None:
    """A table of the longest layers of each artifact, and a line for each one's roof; nothing if nobody profiled."""
    for profile in row.profiles:
        table([f"{profile.label} ({profile.backend})", "op", "ms", "share"], _rows(profile))
        print(f"{profile.total_ms:.3f} ms a query under {profile.source}; the rest is its own time between kernels.\n")
    for roof in row.roofs:
        reached = f"{roof.gmacs:.1f} GMAC/s, {roof.fraction:.0%} of what this machine's {_bound(roof.bound)} allows"
        print(f"{roof.label} ({roof.backend}): {reached}")
    if row.peaks:
        rates = f"{row.peaks.fp32_gmacs:.0f} GMAC/s in FP32, {row.peaks.int8_gmacs:.0f} in INT8"
        print(f"peaks: {rates}, {row.peaks.bandwidth_gbs:.1f} GB/s")


def _rows(profile: ProfileRow) -> list[list[str]]:
    """The longest layers, then the others together."""
    longest = sorted(profile.layers, key=lambda layer: layer.ms, reverse=True)
    rows = [[_name(layer), layer.op, f"{layer.ms:.3f}", _share(layer.ms, profile)] for layer in longest[:TOP]]
    rest = longest[TOP:]
    ms = sum(layer.ms for layer in rest)
    return [*rows, [f"{len(rest)} more", "", f"{ms:.3f}", _share(ms, profile)]] if rest else rows


def _name(layer: LayerTime) -> str:
    return " + ".join((layer.layer, *layer.fused))


def _share(ms: float, profile: ProfileRow) -> str:
    whole = sum(layer.ms for layer in profile.layers)
    return f"{ms / whole:.0%}" if whole else "-"


def _bound(bound: str) -> str:
    return {"compute": "arithmetic", "memory": "memory"}[bound]
