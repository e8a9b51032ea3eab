"""A file of statistics: written whole, never unpickled, and refused in one sentence if it is not what it says."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from rescompress.errors import InputRefused
from rescompress.quantization import statistics
from rescompress.quantization.histogram import BINS
from rescompress.quantization.statistics import Origin, Statistics
from tests.quantization.test_histogram import outcome


def some() -> Statistics:
    made = Statistics(images=4, wanted=4, origin=Origin("a" * 64, "b" * 64))
    generator = torch.Generator().manual_seed(0)
    made.update("layer1.0.add", torch.randn(4, 3, 5, 5, generator=generator))
    made.update("linear", torch.randn(4, 10, generator=generator))
    made.update("layer1.0.relu", torch.randn(4, 3, 5, 5, generator=generator).relu())
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statistics") / "made.safetensors"
    some().save(path)
    return path


def test_what_is_saved_is_loaded(file: Path) -> None:
    one, other = some(), statistics.load(file)
    assert (one.images, one.wanted, one.origin) == (other.images, other.wanted, other.origin)
    assert one.histograms.keys() == other.histograms.keys() == other.channels.keys()
    for name, made in one.histograms.items():
        assert outcome(made) == outcome(other.histogram(name))
        assert torch.equal(one.channels[name], other.channels[name])


def test_equal_statistics_give_equal_bytes(file: Path, tmp_path: Path) -> None:
    again = statistics.load(file)
    again.histograms = dict(reversed(list(again.histograms.items())))
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_loaded_statistics_go_on(file: Path) -> None:
    one, other = some(), statistics.load(file)
    for made in (one, other):
        made.update("layer1.0.add", torch.full((1, 3, 2, 2), 100.0))
    assert outcome(one.histogram("layer1.0.add")) == outcome(other.histogram("layer1.0.add"))
    assert one.channels["layer1.0.add"][:, 1].tolist() == [100.0] * 3


def test_a_value_that_was_not_watched_is_named() -> None:
    with pytest.raises(InputRefused, match=r"says nothing of layer9\.add"):
        some().histogram("layer9.add")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"There is no file .*rescompress calibrate"):
        statistics.load(tmp_path / "none.safetensors")


def test_a_file_of_something_else_is_refused(file: Path) -> None:
    with pytest.raises(InputRefused, match="another network"):
        statistics.load(file, Origin("c" * 64, "b" * 64))
    with pytest.raises(InputRefused, match="other images"):
        statistics.load(file, Origin("a" * 64, "c" * 64))
    assert statistics.load(file, Origin("a" * 64, "b" * 64)).images == 4


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputRefused, match="can't be written"):
        some().save(tmp_path / "file" / "made.safetensors")


def spoilt(file: Path, said: dict[str, Any] | None = None, **changed: torch.Tensor | None) -> bytes:
    """The file with other metadata or other tensors; None takes a tensor away."""
    with safe_open(file, "pt") as opened:
        metadata = json.loads(opened.metadata()[statistics.KEY])
    tensors = {**load(file.read_bytes()), **{name.replace("__", "/"): tensor for name, tensor in changed.items()}}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return save(kept, {statistics.KEY: json.dumps({**metadata, **(said or {})})})


SPOILT: dict[str, Any] = {
    "another format": lambda f: spoilt(f, {"format": "rescompress.statistics/9"}),
    "negative images": lambda f: spoilt(f, {"images": -1}),
    "a word for images": lambda f: spoilt(f, {"images": "many"}),
    "an origin too many": lambda f: spoilt(f, {"origin": {"network": "", "data": "", "moon": ""}}),
    "no origin": lambda f: spoilt(f, {"origin": []}),
    "an entry too many": lambda f: spoilt(f, {"pickle": "x"}),
    "no counts": lambda f: spoilt(f, counts__linear=None),
    "no extremes": lambda f: spoilt(f, extremes__linear=None),
    "no channels": lambda f: spoilt(f, channels__linear=None),
    "a tensor too many": lambda f: spoilt(f, moon=torch.ones(1)),
    "few counts": lambda f: spoilt(f, counts__linear=torch.ones(7, dtype=torch.int64)),
    "counts in float": lambda f: spoilt(f, counts__linear=torch.ones(BINS)),
    "counts too many": lambda f: spoilt(f, counts__linear=torch.ones(BINS, dtype=torch.int64)),
    "no range": lambda f: spoilt(f, extremes__linear=torch.tensor([1.0, -1.0], dtype=torch.float64)),
    "three ends": lambda f: spoilt(f, extremes__linear=torch.ones(3, dtype=torch.float64)),
    "NaN": lambda f: spoilt(f, extremes__linear=torch.full((2,), torch.nan, dtype=torch.float64)),
    "NaN in a channel": lambda f: spoilt(f, channels__linear=torch.full((10, 2), torch.nan)),
    "no channel": lambda f: spoilt(f, channels__linear=torch.ones(0, 2)),
    "channels turned": lambda f: spoilt(f, channels__linear=torch.ones(2, 10)),
    "channels of another value": lambda f: spoilt(f, channels__linear=torch.tensor([[-1.0, 1.0]])),
    "a checkpoint": lambda f: save({"conv1.weight": torch.ones(1)}, {statistics.KEY: "{}"}),
    "no metadata": lambda f: save({"conv1.weight": torch.ones(1)}),
    "nothing in it": lambda f: b"",
    "half of it": lambda f: f.read_bytes()[: f.stat().st_size // 2],
    "a pickle": lambda f: b"\x80\x04\x95\x10",
    "a huge header": lambda f: b"\xff" * 64,
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_file_is_refused_in_one_sentence(kind: str, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(SPOILT[kind](file))
    with pytest.raises(InputRefused) as refused:
        statistics.load(bad)
    assert re.fullmatch(r".*bad\.safetensors holds no statistics of a calibration: [^\n]+\.", refused.value.fact)
    assert "rescompress calibrate" in refused.value.remedy


@settings(max_examples=60)
@given(data=st.data())
def test_bytes_changed_at_random_are_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    if not source.exists():
        some().save(source)
    whole = bytearray(source.read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    places = st.one_of(st.integers(0, header + 200), st.integers(0, len(whole) - 1))
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        whole[place] = byte
    bad = source.with_name("fuzzed.safetensors")
    bad.write_bytes(whole)
    with contextlib.suppress(InputRefused):
        made = statistics.load(bad, partly=True)
        assert all(made.histograms[name].total > 0 for name in made.channels)
