"""The latency table in a fake runtime whose speed is known, and once in a real one."""

import json

import pytest

import rescompress.backends
from rescompress import catalog, models
from rescompress.benchmarking import cache
from rescompress.benchmarking.estimators import estimator
from rescompress.benchmarking.layers import LayerShape, Target
from rescompress.benchmarking.probes import Probe, terms
from rescompress.benchmarking.whole import time_models
from rescompress.errors import InputRefused, WorkerCrashed
from tests.benchmarking.conftest import FAKES

TARGET = Target("counting")


def conv(ins, outs, **more):
    return LayerShape("conv", ins, outs, (3, 3), (1, 1), (1, 1), height=16, width=16, **more)


@pytest.fixture
def counting(fake_backends, monkeypatch, tmp_path):
    """The fake runtime, here too, with a log of what it exported and a cache of its own."""
    for name, value in {"table._BLOCK_SECONDS": 0.002, "table._MOST_ROUNDS": 7, "whole._LAUNCHES": 1}.items():
        monkeypatch.setattr(f"rescompress.benchmarking.{name}", value)
    rescompress.backends.__path__.append(str(FAKES / "backends"))
    catalog.names.cache_clear()
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("COUNTING_LOG", str(log))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    yield log
    rescompress.backends.__path__.remove(str(FAKES / "backends"))
    catalog.names.cache_clear()


def test_latency_is_the_layers_own_without_the_ends(counting):
    table = estimator(TARGET)
    table.prepare([conv(64, 64)])
    assert table.seconds(conv(64, 64)) == pytest.approx(64 * 64 * 9 * 256 * 0.01e-9, rel=0.1)
    assert not table.modelled


def test_known_latencies_are_measured_once_and_kept(counting):
    first = estimator(TARGET)
    first.prepare([conv(32, 32)])
    exported = counting.read_text()
    assert len(exported.splitlines()) == len(terms(conv(32, 32))) == 2
    again = estimator(TARGET)
    again.prepare([conv(32, 32)])
    assert again.seconds(conv(32, 32)) == first.seconds(conv(32, 32))
    assert counting.read_text() == exported
    again.prepare([conv(32, 32, added=True)])
    depthwise = LayerShape("conv", 32, 32, groups=32, height=16, width=16)
    assert counting.read_text().splitlines()[2:] == [str(Probe("sum", depthwise))]


def test_broken_cache_is_measured_again(counting, capsys):
    table = estimator(TARGET)
    table.prepare([conv(32, 32)])
    (file,) = cache.folder().iterdir()
    for content in (b"", b"\xff", b"[]", b'{"schema": "other"}', file.read_bytes().replace(b'": ', b'": -')):
        file.write_bytes(content)
        assert cache.Cache(TARGET).read() == {}
        assert "measured again" in capsys.readouterr().err
    estimator(TARGET).prepare([conv(32, 32)])
    assert len(json.loads(file.read_text())["seconds"]) == 2


def test_interrupted_table_goes_on(counting, monkeypatch):
    monkeypatch.setattr("rescompress.benchmarking.table._TOGETHER", 2)
    monkeypatch.setattr("rescompress.benchmarking.table.Worker", _StopsAfter(2))
    with pytest.raises(KeyboardInterrupt):
        estimator(TARGET).prepare([conv(8, 8), conv(16, 16), conv(32, 32)])
    done = len(cache.Cache(TARGET).read())
    assert done == 4


def test_another_way_of_running_is_another_file(counting):
    paths = {cache.Cache(Target("counting", threads=n, batch=b)).path for n in (1, 2) for b in (1, 4)}
    paths.add(cache.Cache(Target("counting", precision="int8")).path)
    assert len(paths) == 5
    assert cache.Cache(TARGET).path == cache.Cache(TARGET).path


@pytest.mark.slow
def test_many_widths_are_interpolated(counting):
    asked = [conv(i, o) for i in range(32, 73, 8) for o in range(32, 73, 8)]
    table = estimator(TARGET)
    table.prepare(asked)
    measured = [line for line in counting.read_text().splitlines() if line.startswith("layer")]
    assert len(measured) == 16
    for shape in (conv(40, 64), conv(72, 40), conv(32, 72)):
        assert table.seconds(shape) == pytest.approx(shape.macs * 0.01e-9, rel=0.25, abs=2e-6)
    assert len([line for line in counting.read_text().splitlines() if line.startswith("layer")]) == 16


def test_dead_runtime_is_a_crashed_worker(counting, monkeypatch):
    monkeypatch.setenv("COUNTING_DIES", "1")
    with pytest.raises(WorkerCrashed):
        estimator(TARGET).prepare([conv(8, 8)])


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_whole_models_are_timed(counting, precision):
    nets = [models.build(models.spec("cifar", name, 10)) for name in ("resnet8", "resnet14")]
    small, large = time_models(nets, Target("counting", precision=precision))
    assert (small, large) == pytest.approx((20e-6 + 12.5e6 * 0.01e-9, 20e-6 + 26.7e6 * 0.01e-9), rel=0.2)


def test_models_of_different_inputs_are_refused(counting):
    nets = [models.build(models.spec(*name, 10)) for name in (("cifar", "resnet8"), ("torchvision", "resnet18"))]
    with pytest.raises(InputRefused, match="can't be timed together"):
        time_models(nets, TARGET)
    assert time_models([], TARGET) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_real_runtime_takes_longer_for_more(precision, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    table = estimator(Target(precision=precision))
    shapes = [conv(16, 16), conv(64, 64), LayerShape("linear", 64, 10), LayerShape("linear", 512, 1000)]
    table.prepare(shapes)
    small, large, head, big_head = map(table.seconds, shapes)
    assert 1e-6 < small < large / 4
    assert 0 < head < big_head


class _StopsAfter:
    """The worker's class, whose user presses Ctrl-C after so many processes."""

    def __init__(self, count):
        from rescompress.worker import Worker

        self._left, self._worker = count, Worker

    def __call__(self, *arguments):
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._worker(*arguments)
