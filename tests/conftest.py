"""Fixtures for the whole suite; shapes and types in signatures are checked while it runs."""

import contextlib
import functools
import gc
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings

from rescompress.artifact import SCHEMA, Manifest, write_artifact
from rescompress.spec import ModelSpec, RunReport
from tests.jobs import TINY

CHECKED = (
    *("data", "models", "layers", "graph", "fakequant", "checkpoint", "ends", "metrics", "cost", "context"),
    *("fusion", "pruning", "factorization", "quantization", "distillation", "training", "inspection"),
)
jaxtyping.install_import_hook([f"rescompress.{name}" for name in CHECKED], "beartype.beartype")

# PyTorch's many small objects live long: looking at them as often as Python does takes a tenth of the time.
gc.set_threshold(20_000, 20, 50)

# The first example imports and compiles, and a shared machine stalls: time says nothing about a property.
# The suite tries the same examples each time: a change is judged by what it changed. ``explore`` looks for more.
settings.register_profile(
    "suite", deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("suite"), max_examples=200, derandomize=False)
settings.load_profile("suite")


SHARED = ("survivor", "finished", "trained", "quantized")
"""Fixtures that run whole jobs, or rest on one that does."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that read a whole run go first, all to one process, which makes it once.

    A file goes to one process as a whole, or each process would make what its tests share.
    """
    grouped = [item for item in items if set(SHARED) & set(getattr(item, "fixturenames", ()))]
    items.sort(key=lambda item: item not in grouped)
    for item in grouped:
        item.add_marker(pytest.mark.xdist_group("runs"))
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images beside the checkout; they are never part of the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("The real images are not here: they lie in shared/data beside the checkout, where there is one.")
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> Iterator[None]:
    """Threads that wait for each other on a busy machine cost more than these small tensors; so in child processes."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module", autouse=True)
def old_objects_left_alone() -> Iterator[None]:
    """coremltools collects garbage twice an export, half a second each where PyTorch's objects are looked at too."""
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def caches_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESCOMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """PyTorch's exporter reads its 500 operators' sources anew at each export, a fifth of its time; here once."""
    with pytest.MonkeyPatch.context() as patch:
        with warnings.catch_warnings(), contextlib.suppress(ImportError, AttributeError):  # no exporter, or another
            warnings.simplefilter("ignore")
            from torch.onnx._internal.exporter._registration import onnxscript_apis as apis

            patch.setattr(apis, "get_torchlib_ops", functools.cache(apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunReport]:
    """The folder and the report of the tiny job, run once in this process. Tests read it and leave it as it is."""
    from rescompress import pipeline, recipe

    folder = tmp_path_factory.mktemp("runs") / "finished"
    return folder, pipeline.run(recipe.parse(TINY), folder)


@pytest.fixture(scope="session")
def trained(finished: tuple[Path, RunReport]) -> Path:
    """A checkpoint of a small network that knows most digits."""
    return finished[0] / "stages" / "01-fit.safetensors"


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes artifacts of a backend that only worker processes find, and that meets the fates it is given."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fakes"))

    def make(spec: ModelSpec, **fates: str) -> Path:
        def fill(folder: Path) -> str:
            (folder / "fates.json").write_text(json.dumps(fates))
            return "fates.json"

        def describe(entry: str, files: dict[str, str]) -> Manifest:
            return Manifest(SCHEMA, "0", "odd", "00-odd", "fp32", entry, files, spec, "", "", "")

        return write_artifact(tmp_path / "odd", fill, describe).folder

    return make
