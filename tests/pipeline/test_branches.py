"""Several targets: each is quantized by its own scheme, from one calibration, and judged by its own."""

import pytest

from rescompress import pipeline, recipe
from rescompress.artifact import open_artifact
from rescompress.checkpoint import load
from rescompress.fakequant import sites_of
from rescompress.pipeline import branches
from tests.jobs import tiny

STAGES = ["fuse", {"quantize": {"observer": "minmax", "calibration_images": 32}}]


def job(export, **quantize):
    stages = ["fuse", {"quantize": quantize}] if quantize else STAGES
    return recipe.parse(tiny(stages=stages, export=export, benchmark=False, max_accuracy_drop=None))


@pytest.mark.parametrize(
    ("export", "knobs", "expected"),
    [
        ([], {}, [("", "onnxruntime")]),
        (["onnx"], {}, [("", "onnxruntime")]),
        (["onnx", "openvino"], {}, [("onnxruntime", "onnxruntime"), ("openvino", "openvino")]),
        (["openvino", "eager"], {}, [("", "openvino")]),
        (["onnx", "openvino"], {"runtime": "openvino"}, [("", "openvino")]),
    ],
)
def test_quantize_is_planned_for_each_scheme_of_the_targets(export, knobs, expected):
    fuse, *quantized = branches.plan(job(export, **knobs))
    assert (fuse.index, fuse.step.stage, fuse.runtime) == (1, "fuse", "")
    assert [(one.runtime, one.step.knobs["runtime"]) for one in quantized] == expected
    assert {one.index for one in quantized} == {2}


def test_a_stage_that_is_not_quantize_is_nobodys():
    planned = branches.plan(recipe.parse(tiny(stages=["fuse"], export=["onnx", "openvino"])))
    assert [(one.index, one.runtime) for one in planned] == [(1, "")]


def test_each_target_is_quantized_by_its_own_scheme_from_one_calibration(tmp_path, monkeypatch):
    seen = []
    real = branches.calibrate
    monkeypatch.setattr(branches, "calibrate", lambda *args, **knobs: seen.append(args[2]) or real(*args, **knobs))
    report = pipeline.run(job(["onnx", "openvino"]), tmp_path / "out")
    labels = ["00-baseline", "01-fuse", "02-quantize-onnxruntime", "02-quantize-openvino"]
    assert [row.label for row in report.stages] == labels
    assert [(row.backend, row.label) for row in report.artifacts] == [
        ("onnxruntime", labels[0]),
        ("onnxruntime", labels[2]),
        ("openvino", labels[0]),
        ("openvino", labels[3]),
    ]
    models = [load(tmp_path / "out" / "stages" / f"{label}.safetensors") for label in labels[2:]]
    places = [{site.value for site in sites_of(model)} for model in models]
    assert places[0] > places[1]  # OpenVINO has no fake-quant between convolution and add
    assert len(set(seen)) == 1
    assert not list((tmp_path / "out" / "stages").glob("*calibration*"))
    for row in report.artifacts:
        assert open_artifact(tmp_path / "out" / row.folder).manifest.backend == row.backend
    again = pipeline.run(job(["onnx", "openvino"]), tmp_path / "out")
    assert again.stages == report.stages
    assert len(seen) == 2
