"""An artifact that computes something else than its model is caught, and one that doesn't is not."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from rescompress import backends, checkpoint, fakequant, graph, metrics, models, recipe, verification, verified
from rescompress.artifact import Manifest, open_artifact, write_artifact
from rescompress.context import Context
from rescompress.errors import InputRefused, RecipeError
from rescompress.pipeline.proof import export_artifact
from rescompress.schemes import ONNXRUNTIME, OPENVINO
from rescompress.spec import Proportion
from rescompress.verification import answers, thresholds, verify
from rescompress.worker import Worker
from tests.networks import placed

FLOAT, INT8 = "00-baseline", "05-quantize"


@pytest.fixture(scope="module")
def pairs(finished):
    """Each artifact of the tiny run with the model that it was exported from."""
    folder, _ = finished
    return {
        label: (folder / "artifacts" / "onnxruntime" / label, checkpoint.load(folder / f"stages/{label}.safetensors"))
        for label in (FLOAT, INT8)
    }


def exported(model, backend, folder, label=INT8):
    """An artifact of a model as a run writes it."""
    filled = recipe.target(backend, {})[backend]
    return export_artifact(
        model, backend, filled, folder / label, label=label, source="", source_sha256="", key=""
    ).folder


@pytest.fixture(scope="module", params=[name for name in backends.names() if name != "inductor"])
def each(request, pairs, tmp_path_factory):
    """A backend, and its own artifacts of a trained network and of one in INT8; Inductor's tests are its own."""
    backend = backends.get(request.param)
    if backend.missing():
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    kept = {label: model for label, (_, model) in pairs.items()}
    if backend.SCHEME not in (ONNXRUNTIME, OPENVINO, None):
        kept[INT8] = placed("int8", backend.SCHEME)
    return request.param, {
        label: (exported(model, request.param, folder, label), model) for label, model in kept.items()
    }


@pytest.fixture(scope="module")
def digits(pairs):
    return Context.of(pairs[FLOAT][1], "digits").data


def edited(artifact, folder, change, **manifest):
    """A copy of an artifact whose ONNX file was changed and whose hashes are right again."""
    import onnx

    whole = open_artifact(artifact)

    def fill(empty):
        program = onnx.load(whole.entry)
        change(program)
        onnx.save(program, empty / whole.manifest.entry)
        return whole.manifest.entry

    return write_artifact(folder, fill, lambda entry, files: replace(whole.manifest, files=files, **manifest)).folder


def edit_tensor(program, rank, change):
    """Change the first stored tensor of this rank."""
    from onnx import numpy_helper

    tensor = next(tensor for tensor in program.graph.initializer if len(tensor.dims) == rank)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).copy(), tensor.name))


def sabotaged(model, change):
    """A copy of a model with a change to the named parts."""
    other = graph.clone(model) if graph.is_captured(model) else copy.deepcopy(model)
    with torch.no_grad():
        change(other)
    return other


def taking(model, **knobs):
    """A manifest of an artifact of this model, as far as it says what is taken."""
    return Manifest("", "", "", "", "fp32", "", {}, models.spec_of(model), "", "", "", knobs)


def conv(model):
    return dict(model.named_parameters())["layer2.0.conv1.weight"]


def double(model):
    conv(model).mul_(2)


def swap(model):
    conv(model).copy_(conv(model)[torch.randperm(len(conv(model)), generator=torch.Generator().manual_seed(0))])


def half_a_step(model):
    for quantizer in model.modules():
        if isinstance(quantizer, fakequant.FakeQuantize) and quantizer.site.is_weight:
            quantizer.scale.mul_(1.1)


def wrong_mean(model):
    model.layer1[0].bn1.running_mean.add_(0.5)


def wrong_variance(model):
    model.layer3[0].bn2.running_var.mul_(4)


def lost_bias(model):
    model.linear.bias.zero_()
    model.linear.bias[0] = 1


@pytest.mark.parametrize("label", [FLOAT, INT8])
def test_healthy_artifact_is_verified_on_noise(label, each):
    backend, pairs = each
    row = verify(*pairs[label], None)
    assert row.failures == ()
    assert (row.label, row.backend, row.inputs) == (label, backend, "noise")
    assert row.precision == {FLOAT: "fp32", INT8: "int8"}[label]
    assert row.accuracy is row.reference_accuracy is None
    assert row.agreement.total == answers.NOISE_IMAGES


def test_healthy_artifact_is_verified_on_the_test_split(pairs, digits):
    row = verify(*pairs[INT8], digits, batch=180)
    assert row.failures == ()
    assert row.inputs == "test split"
    assert row.accuracy.total == row.agreement.total == len(digits.test)
    assert row.accuracy.percent > 60
    assert abs(row.accuracy.percent - row.reference_accuracy.percent) < 2


def test_float_artifact_is_near_to_the_last_bits(pairs):
    row = verify(*pairs[FLOAT], None)
    assert row.max_abs < 1e-4
    assert row.sqnr_db > 100
    assert row.agreement.percent == 100


@pytest.mark.parametrize("change", [double, swap, wrong_mean, wrong_variance, lost_bias])
def test_other_weights_are_caught_in_float(change, pairs):
    artifact, model = pairs[FLOAT]
    assert verify(artifact, sabotaged(model, change), None).failures


@pytest.mark.parametrize("kind", [pytest.param("w4a8", marks=pytest.mark.slow), "w4"])
def test_other_precisions_have_thresholds_of_their_own(kind, tmp_path):
    model = placed(kind)
    fakequant.round_biases(model)
    row = verify(exported(model, "onnxruntime", tmp_path), model, None)
    assert (row.failures, row.precision) == ((), kind)
    assert row.sqnr_db > row.evidence.least_sqnr_db + 5
    assert verify(exported(model, "onnxruntime", tmp_path / "same"), sabotaged(model, half_a_step), None).failures


def test_ranges_of_a_whole_batch_are_no_dependence_that_eager_has_not(tmp_path):
    model = placed("dynamic")
    images = torch.from_numpy(verification.sample_images(None, taking(model), 64))
    alone, together = models.predict(model, [images[:1]]), models.predict(model, [images])
    least = metrics.sqnr_db(together[:1].numpy(), alone.numpy()) + 3
    row = verify(exported(model, "onnxruntime", tmp_path), model, None, min_sqnr_db=least)
    assert (row.failures, row.precision) == ((), "dynamic")


@pytest.mark.parametrize("change", [double, swap])
def test_other_weights_are_caught_in_int8(change, each):
    artifact, model = each[1][INT8]
    row = verify(artifact, sabotaged(model, change), None)
    assert "SQNR" in row.failures[0]


def test_wrong_scale_is_caught_in_int8(pairs):
    artifact, model = pairs[INT8]

    def coarser(other):
        fakequant.quantizer_of(other, fakequant.sites_of(other)[1]).scale.mul_(32)

    assert verify(artifact, sabotaged(model, coarser), None).failures


def test_weights_that_changed_in_the_file_are_caught(pairs, tmp_path):
    artifact, model = pairs[INT8]
    wrong = edited(artifact, tmp_path / "wrong", lambda program: edit_tensor(program, 4, lambda w: w[::-1]))
    assert verify(wrong, model, None).failures


def test_float_file_in_the_place_of_an_int8_one_is_caught(pairs, tmp_path):
    """The audit sees it for certain; the logits show it as far as INT8 makes a difference."""
    wrong = edited(pairs[FLOAT][0], tmp_path / "wrong", lambda program: None, precision="int8")
    assert verification.audit(wrong).int8_share("conv").percent == 0
    assert verification.audit(pairs[INT8][0]).int8_share("conv").percent == 100
    assert verify(wrong, pairs[INT8][1], None).failures


def test_not_a_number_is_caught(pairs, tmp_path):
    artifact, model = pairs[FLOAT]
    wrong = edited(artifact, tmp_path / "wrong", lambda program: edit_tensor(program, 2, lambda w: w * np.nan))
    row = verify(wrong, model, None)
    assert "Some logits are NaN or infinite." in row.failures


def test_dependence_on_the_batch_is_caught(odd):
    model = models.build(models.spec("cifar", "resnet8", 4))
    row = verify(odd(models.spec_of(model)), model, None)
    assert "An image alone gives other logits than the same image in a batch." in row.failures


@pytest.mark.parametrize(("weights", "db", "percent"), [("kept", 40, 98), ("int8", 30, 97), ("palette4", 6, 50)])
def test_what_exporting_rounds_has_thresholds_of_its_own(weights, db, percent, pairs):
    """Of a trained ResNet-20, INT8 weights leave 37 to 39 dB, a palette of 64 22 to 27 dB, one of 16 12 dB."""
    rounded = taking(pairs[FLOAT][1], floats="fp16", weights=weights)
    assert thresholds.sqnr_db(thresholds.LEAST_SQNR_DB, rounded, np.inf) == db
    assert thresholds.agreement(thresholds.LEAST_AGREEMENT, rounded, Proportion(1, 1)) == percent
    assert rounded.rounds_weights == (weights != "kept")


def test_thresholds_are_knobs(pairs):
    assert "below 150 dB" in verify(*pairs[INT8], None, min_sqnr_db=150).failures[0]
    double_ = sabotaged(pairs[FLOAT][1], double)
    assert verify(pairs[FLOAT][0], double_, None, min_sqnr_db=0, min_agreement=0, bisect=False).failures == ()
    assert "below 150 dB" in verify(*pairs[INT8], None, min_sqnr_db={"int8": 150}, bisect=False).failures[0]
    assert verify(*pairs[FLOAT], None, min_sqnr_db={"int8": 150}, bisect=False).failures == ()
    with pytest.raises(RecipeError):
        verify(*pairs[FLOAT], None, min_agreement=101)


def test_the_models_own_noise_lowers_a_default_and_nothing_that_is_asked_for():
    manifest = taking(models.build(models.spec("cifar", "resnet8", 4)))
    usual = thresholds.LEAST_SQNR_DB
    assert thresholds.sqnr_db(usual, manifest, 130) == 60
    assert thresholds.sqnr_db(usual, manifest, 50) == 44
    assert thresholds.sqnr_db({**usual, "fp32": 80}, manifest, 50) == 80
    assert thresholds.sqnr_db({**usual, "fp32": 30}, manifest, 50) == 30
    assert thresholds.agreement(thresholds.LEAST_AGREEMENT, manifest, Proportion(98, 100)) == 97.5


def test_changed_file_is_refused(pairs, tmp_path):
    folder = shutil.copytree(pairs[FLOAT][0], tmp_path / "changed")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputRefused, match="was changed"):
        verify(folder, pairs[FLOAT][1], None)


def test_model_of_another_size_is_refused(pairs):
    other = models.build(models.spec("cifar", "resnet8", 4))
    with pytest.raises(InputRefused):
        verify(pairs[FLOAT][0], other, None)


def test_sample_images_are_the_first_of_the_test_split_or_seeded_noise(pairs, digits):
    manifest = taking(pairs[FLOAT][1])
    noise = verification.sample_images(None, manifest, 3)
    assert (noise.shape, noise.dtype) == ((3, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(noise, verification.sample_images(None, manifest, 3))
    images = verification.sample_images(digits, manifest, 5)
    assert images.shape == (5, 3, 32, 32)
    assert not np.array_equal(images[:3], noise)


def test_sample_images_are_pixels_where_those_are_taken(pairs, digits):
    model = pairs[FLOAT][1]
    pixels = verification.sample_images(digits, taking(model, preprocess=True), 5)
    assert (pixels.shape, pixels.dtype) == ((5, 32, 32, 3), np.uint8)
    images = verification.sample_images(digits, taking(model), 5)
    spec = models.spec_of(model).preprocessing
    expected = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(images, expected.transpose(0, 3, 1, 2), atol=1e-5)
    noise = verification.sample_images(None, taking(model, preprocess=True), 3)
    assert noise.dtype == np.uint8
    assert noise.std() > 60


@pytest.mark.parametrize("label", [FLOAT, INT8])
def test_first_answers_are_kept_for_a_benchmark(label, pairs, digits):
    verify(*pairs[label], digits)
    artifact = open_artifact(pairs[label][0])
    found, ring = verified.kept(artifact), verification.sample_images(digits, artifact.manifest, 64)
    assert verified.seen_again(found, ring) == verified.IMAGES
    with Worker(artifact.folder) as worker:
        alone = np.concatenate([worker.run(ring[i : i + 1]) for i in range(verified.IMAGES)])
    assert not verified.departs(found, artifact, alone)
    assert verified.departs(found, artifact, alone[::-1])


def test_run_times_what_it_verified(finished):
    _, report = finished
    assert not [reason for reason in report.benchmark.reasons if "verified" in reason]
