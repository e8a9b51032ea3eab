"""Compiled packages: what they compute, who may load them, what is said of their kernels."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rescompress import models
from rescompress.artifact import Artifact, Manifest
from rescompress.backends import _inductor_audit as look
from rescompress.backends import _inductor_build as build
from rescompress.backends import inductor
from rescompress.errors import BackendMissing, InputRefused, RecipeError
from rescompress.metrics import sqnr_db
from rescompress.spec import LayerPrecision
from tests.networks import fused, noise, placed, quantized

compiler = pytest.mark.skipif(not build.has_compiler(), reason="There is no C++ compiler here.")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="There is a GPU here.")
Export = Callable[..., Artifact]


def artifact_of(folder: Path, entry: str, model: nn.Module, knobs: dict[str, Any]) -> Artifact:
    files = {path.name: "" for path in folder.iterdir()}
    spec = models.spec_of(model)
    return Artifact(folder, Manifest("", "", "inductor", "", "fp32", entry, files, spec, "", "", "", knobs))


def exported(model: nn.Module, folder: Path, **knobs: Any) -> Artifact:
    return artifact_of(folder, inductor.export(model, models.spec_of(model), folder, **knobs), model, knobs)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Compiled once for all quick tests: it takes half a minute."""
    if not build.has_compiler():
        pytest.skip("There is no C++ compiler here.")
    folder = tmp_path_factory.mktemp("package")
    return exported(fused("cifar", "resnet8"), folder, floats="bf16", preprocess=True, softmax=True)


def pixels(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def probabilities(model: nn.Module, images: Tensor) -> np.ndarray:
    look_of = models.spec_of(model).preprocessing
    values = (images.numpy() / 255 - np.array(look_of.mean)) / np.array(look_of.std)
    logits = models.predict(model, [torch.from_numpy(values.transpose(0, 3, 1, 2)).float()]).double().numpy()
    return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)


def test_pixels_go_in_and_probabilities_come_out_in_any_number(package: Artifact) -> None:
    expected = probabilities(fused("cifar", "resnet8"), pixels(5))
    with inductor.load(package, threads=1) as session:
        answer, alone = session.run(pixels(5).numpy()), session.run(pixels(1).numpy())
    assert answer.dtype == np.float32
    assert sqnr_db(expected, answer) > 20
    assert sqnr_db(expected, answer) < 70, "BF16 has 8 bits of mantissa: this was FP32"
    np.testing.assert_allclose(answer.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(alone[0], answer[0], atol=0.02)


def test_the_audit_reads_the_kernels(package: Artifact) -> None:
    report = inductor.audit(package)
    assert {(layer.op, layer.precision) for layer in report.layers} == {
        (op, "bf16") for op in ("conv", "linear", "add", "pool")
    }
    assert report.op_counts["conv bf16"] == 9
    assert report.op_counts["generated kernel"] > 0
    assert report.int8_nodes.correct == 0
    assert "BF16" in report.notes[0]


def test_the_package_holds_no_sources_and_no_paths(package: Artifact) -> None:
    with zipfile.ZipFile(package.entry) as file:
        names, content = file.namelist(), b"".join(file.read(name) for name in file.namelist())
    assert not [name for name in names if name.endswith((".cpp", ".py", ".h", ".o"))]
    assert str(Path(torch.__file__).parents[1]).encode() not in content
    assert str(Path.home()).encode() + b"/" not in content


def test_threads_are_what_was_asked_for_and_come_back(package: Artifact) -> None:
    before = torch.get_num_threads()
    with inductor.load(package, threads=2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_somebody_elses_code_is_not_loaded(package: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a manifest that fits, but without this user's key; the loader isn't even asked."""
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda *_, **__: pytest.fail("it was loaded"))
    folder = shutil.copytree(package.folder, tmp_path / "copy")
    copy = Artifact(folder, package.manifest)
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path))
    for use in (lambda: inductor.load(copy, threads=1), lambda: inductor.audit(copy)):
        with pytest.raises(InputRefused, match="this user didn't build it here"):
            use()
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    with pytest.raises(InputRefused, match=r"and here is 9\.9\.9"):
        inductor.load(copy, threads=1)


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    for kind in ("int8", "w8"):
        with pytest.raises(InputRefused, match="computes every convolution in float"):
            exported(placed(kind), tmp_path)
    with pytest.raises(RecipeError, match="TF32"):
        exported(model, tmp_path, tf32=True)
    with pytest.raises(RecipeError, match="CUDA graphs"):
        exported(model, tmp_path, cuda_graphs=True)
    assert list(tmp_path.iterdir()) == []


@no_gpu
def test_a_gpu_that_is_not_there_is_no_reason_to_take_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(BackendMissing, match="no GPU"):
        exported(fused("cifar", "resnet8"), tmp_path, device="cuda")


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert inductor.rung()[0] == "L0"
    with pytest.raises(BackendMissing, match=r"C\+\+ compiler"):
        exported(fused("cifar", "resnet8"), tmp_path)


def test_a_fixed_batch_is_filled_up() -> None:
    images = torch.arange(3).view(3, 1, 1, 1)
    assert inductor._padded(images, 5).flatten().tolist() == [0, 1, 2, 2, 2]
    assert inductor._padded(images, 3).flatten().tolist() == [0, 1, 2]


SOURCE = """
extern "C"  void  cpp_fused_add_relu_0(bfloat16* in_out_ptr0,
                       const bfloat16* in_ptr0,
                       const int64_t ks0)
{
}
extern "C"  void  cpp_fused_mean_1(const bfloat16* in_ptr0, float* out_ptr0)
{
// triton_meta={'signature': {'in_ptr0': '*fp32', 'xnumel': 'i32', 'XBLOCK': 'constexpr'}, 'device': 1},
// def triton_poi_fused_add_2(in_ptr0, xnumel, XBLOCK : tl.constexpr):
    constants_info_[14].name = "linear_weight";
    constants_info_[14].dtype = cached_torch_dtype_float16;
    CHECK(aoti_torch_cpu_addmm_out(buf25, bias, wrap(reinterpret_tensor_wrapper(linear_weight, 2)), 1L, 1L));
"""


def test_signatures_of_generated_kernels_are_read() -> None:
    found = build.kernels(SOURCE)
    assert found == {
        "cpp_fused_add_relu_0": ["bf16"],
        "cpp_fused_mean_1": ["bf16", "fp32"],
        "triton_poi_fused_add_2": ["fp32"],
        "aoti_torch_cpu_addmm_out": ["fp16"],
    }
    assert build.floats_of(found, "mean") == "bf16"
    assert build.floats_of(found, "max") is None


def test_a_layer_that_no_kernel_computes_is_unknown() -> None:
    layers = [
        {"layer": "a", "op": "conv", "shape": [4, 3, 3, 3]},
        {"layer": "b", "op": "conv", "shape": [4, 3, 3, 3]},
        {"layer": "c", "op": "conv", "shape": [4, 3, 1, 1]},
        {"layer": "d", "op": "linear", "shape": [10, 4]},
        {"layer": "e", "op": "add", "shape": []},
    ]
    called = [("conv", "fp16", (4, 3, 3, 3)), ("linear", "fp32", (4, 10)), ("conv", "fp32", (4, 3, 3, 3))]
    expected = [("conv", "fp16"), ("conv", "fp32"), ("conv", "unknown"), ("linear", "fp32"), ("add", "unknown")]
    assert look.precisions(layers, called, {}) == tuple(
        LayerPrecision(row["layer"], *pair) for row, pair in zip(layers, expected, strict=True)
    )


@pytest.mark.slow
@compiler
@pytest.mark.parametrize(
    ("knobs", "low", "high"),
    [
        ({"batch": 3}, 90, 200),
        ({"floats": "fp16", "channels_last": False}, 45, 80),
        ({"max_autotune": True, "batch": 1}, 90, 200),
    ],
    ids=str,
)
def test_every_way_computes_what_eager_computes(knobs: dict[str, Any], low: float, high: float, tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    images = noise(model, 4)
    artifact = exported(model, tmp_path, **knobs)
    with inductor.load(artifact, threads=1) as session:
        answer = session.run(images.numpy())
    assert low < sqnr_db(models.predict(model, [images]).numpy(), answer) < high
    precisions = {layer.precision for layer in inductor.audit(artifact).layers}
    assert precisions == {knobs.get("floats", "fp32")}


@pytest.mark.slow
@compiler
def test_integers_would_silently_be_floats(tmp_path: Path) -> None:
    """Why quantized networks are refused; when this fails, Inductor has learned to find our integers."""
    from rescompress import fakequant
    from rescompress.ends import EndToEnd

    model = quantized("cifar", "resnet8")
    whole = EndToEnd(fakequant.lower(model), models.spec_of(model), "fp32", False, False).eval()
    build.compile_package(whole, torch.zeros(2, 3, 32, 32), True, False, tmp_path / "model.pt2")
    compiled = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2"))
    called = look.calls(lambda: compiled(noise(model, 2)))
    assert [(kind, floats) for kind, floats, _ in called] == [("conv", "fp32")] * 9


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("knobs", "least"),
    [
        ({}, 90),
        ({"tf32": True}, 45),
        ({"floats": "fp16"}, 45),
        ({"floats": "bf16", "batch": 2}, 25),
        ({"batch": 2, "cuda_graphs": True}, 90),
    ],
    ids=str,
)
def test_a_gpu_computes_what_the_cpu_computes(knobs: dict[str, Any], least: float, tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    artifact = exported(model, tmp_path, device="cuda", **knobs)
    images = noise(model, 5)
    with inductor.load(artifact, threads=1) as session:
        answer, again = session.run(images.numpy()), session.run(images.numpy())
    np.testing.assert_array_equal(answer, again)
    assert sqnr_db(models.predict(model, [images]).numpy(), answer) > least
    precisions = {layer.precision for layer in inductor.audit(artifact).layers if layer.op == "conv"}
    assert precisions == {"tf32" if "tf32" in knobs else knobs.get("floats", "fp32")}
