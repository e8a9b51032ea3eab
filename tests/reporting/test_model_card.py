"""The model card: metadata that Hugging Face's own reader takes, facts of the run only, and code that runs."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rescompress import data
from rescompress.artifact import open_artifact
from rescompress.backends import get
from rescompress.data._images import fit
from rescompress.reporting import modelcard, snippets
from rescompress.spec import ModelSpec, Preprocessing, RunReport

SPEC = ModelSpec("torchvision", "resnet18", 10, Preprocessing(40, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)))


def front(card: str) -> dict[str, Any]:
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def code(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_the_metadata_is_what_the_run_knows(report: RunReport) -> None:
    found = front(modelcard.render(report))
    assert list(found) == ["library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index"]
    assert (found["library_name"], found["pipeline_tag"], found["datasets"]) == (
        "onnx",
        "image-classification",
        ["digits"],
    )
    assert found["tags"] == ["rescompress", "resnet", "prune", "distill", "fuse", "quantize", "int8", "onnxruntime"]
    (entry,) = found["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == report.name
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    last = result["metrics"][-1]
    assert last == {"type": "accuracy", "value": round(1758 / 1797, 6), "name": "top-1 of 04-quantize in onnxruntime"}


def test_nothing_is_invented(variants: dict[str, RunReport]) -> None:
    for name in ("without_data", "nothing_exported"):
        found = front(modelcard.render(variants[name]))
        assert not {"license", "base_model", "model-index", "metrics"} & set(found)
    hub = variants["realistic"].recipe_yaml.replace("model: torchvision/resnet18", "model: {checkpoint: hf://a/b}")
    named = replace(variants["realistic"], recipe_yaml=hub)
    licensed = replace(named, artifacts=tuple(replace(row, knobs={"license": "mit"}) for row in named.artifacts))
    found = front(modelcard.render(licensed))
    assert (found["base_model"], found["license"]) == ("a/b", "mit")


def test_hugging_faces_own_reader_takes_it(any_report: RunReport) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(modelcard.render(replace(any_report, spec=SPEC)))
    again = hub.ModelCardData(**yaml.safe_load(card.data.to_yaml()))
    assert again.to_dict() == card.data.to_dict()
    measured = [row.verification.accuracy for row in any_report.artifacts if row.verification.accuracy]
    results = card.data.eval_results or []
    assert [result.metric_value for result in results] == pytest.approx(
        [one.percent / 100 for one in measured], abs=1e-6
    )
    assert all(result.task_type == "image-classification" for result in results)
    if measured:
        assert card.data.model_name == any_report.name


def test_every_section_is_there_and_no_bare_none_or_nan(any_report: RunReport) -> None:
    card = modelcard.render(replace(any_report, spec=SPEC))
    body = re.sub(r"```.*?```", "", card.split("---\n", 2)[2], flags=re.DOTALL)
    titles = re.findall(r"^## (.*)$", body, re.MULTILINE)
    assert titles == [
        *("How it was made", "Results", "Intended use and limits", "How to run it", "Environment", "Reproduce")
    ]
    assert not re.search(r"\b(None|nan|NaN|inf|Infinity)\b", body)
    assert len(code(card)) == 1 + len(any_report.artifacts)


def test_an_old_report_says_that_it_does_not_know_the_preprocessing(report: RunReport) -> None:
    card = modelcard.render(report)
    assert "This report doesn't tell how images are prepared" in card
    assert code(card) == []


@pytest.mark.parametrize("size", [(50, 40), (33, 77), (40, 40), (640, 480)])
def test_the_code_prepares_an_image_as_the_data_do(size: tuple[int, int], tmp_path: Path, monkeypatch: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippets.prepare(SPEC.preprocessing), names)
    cropped = fit(Image.fromarray(pixels), SPEC.preprocessing)[None]
    assert np.array_equal(names["pixels"], cropped.permute(0, 2, 3, 1).numpy())
    expected = data.normalize(cropped, SPEC.preprocessing).numpy()
    assert names["images"].dtype == np.float32
    np.testing.assert_allclose(names["images"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("backend", "entry", "knobs", "said"),
    [
        ("coreml", "model.mlpackage/Manifest.json", {"softmax": True}, 'MLModel("a/model.mlpackage")'),
        ("coreml", "model.mlpackage/Manifest.json", {"preprocess": True}, 'backends.get("coreml")'),
        ("litert", "model.tflite", {}, "set_tensor(place, images.transpose(0, 2, 3, 1))"),
        ("litert", "model.tflite", {"preprocess": True}, "set_tensor(place, pixels)"),
        ("litert", "model.tflite", {"integer_io": True}, 'backends.get("litert")'),
        ("onnxruntime", "model.onnx", {"batch": 8}, 'backends.get("onnxruntime")'),
        ("tensorrt", "model.engine", {}, 'backends.get("tensorrt")'),
    ],
)
def test_each_runtime_has_its_own_code(
    backend: str, entry: str, knobs: dict[str, Any], said: str, report: RunReport
) -> None:
    row = replace(report.artifacts[0], backend=backend, folder="a", entry=entry, knobs=knobs)
    text = snippets.run(row)
    assert said in text
    compile(text, "card", "exec")
    assert ("probabilities" in text) == bool(knobs.get("softmax"))


def test_the_code_on_the_card_of_a_real_run_runs(finished: tuple[Path, RunReport], monkeypatch: Any) -> None:
    """What it gives is what the artifact's session gives."""
    folder, report = finished
    card = (folder / "model_card.md").read_text("utf-8")
    assert card == modelcard.render(report)
    prepare, *runs = code(card)
    assert len(runs) == len(report.artifacts)
    monkeypatch.chdir(folder)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 36, 3), dtype=np.uint8))
    monkeypatch.setattr(Image, "open", lambda _: picture)
    names: dict[str, Any] = {}
    exec(prepare, names)
    for row, text in zip(report.artifacts, runs, strict=True):
        exec(text, names)
        artifact = open_artifact(folder / row.folder)
        with get(row.backend).load(artifact, threads=1) as session:
            expected = session.run(names["images"].astype(np.float32))
        np.testing.assert_allclose(names["logits"], expected, rtol=1e-4, atol=1e-4)
