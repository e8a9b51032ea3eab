"""Code that prepares an image as a model was measured on, and code that runs an artifact without rescompress."""

from rescompress.spec import ArtifactRow, Preprocessing

PREPARE = """\
import numpy as np
from PIL import Image, ImageOps

RESIZE, CROP = {resize}, {crop}

image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")
width, height = (RESIZE * side // min(image.size) for side in image.size)
left, top = round((width - CROP) / 2), round((height - CROP) / 2)
image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + CROP, top + CROP))
pixels = np.array(image)[None]  # uint8 [1, {crop}, {crop}, 3], RGB"""

NORMALIZE = """

MEAN, STD = np.float32({mean}), np.float32({std})
images = ((pixels / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)  # float32 [1, 3, {crop}, {crop}]"""

RUN = {
    "onnxruntime": """\
import onnxruntime

session = onnxruntime.InferenceSession("{path}", providers=["CPUExecutionProvider"])
{answer} = session.run(None, {{session.get_inputs()[0].name: {taken}}})[0]""",
    "openvino": """\
import openvino

compiled = openvino.Core().compile_model("{path}", "CPU")
{answer} = compiled({taken})[0]""",
    "coreml": """\
import coremltools  # predicts on macOS only

model = coremltools.models.MLModel("{path}")
name = model.get_spec().description.input[0].name
{answer} = next(iter(model.predict({{name: {taken}}}).values()))""",
    "litert": """\
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("{path}")
place = interpreter.get_input_details()[0]["index"]
interpreter.resize_tensor_input(place, [1, *interpreter.get_input_details()[0]["shape"][1:]])
interpreter.allocate_tensors()
interpreter.set_tensor(place, {taken})
interpreter.invoke()
{answer} = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])""",
}
"""How a runtime's own package runs a file of its kind."""

OTHERWISE = """\
from pathlib import Path

from rescompress import backends
from rescompress.artifact import open_artifact

with backends.get("{backend}").load(open_artifact(Path("{folder}")), threads=1) as session:
    {answer} = session.run({taken})"""
"""Through rescompress, where the files need more than their runtime: a seal, an engine, a knob that changes a face."""


def prepare(preprocessing: Preprocessing, *, normalized: bool = True) -> str:
    """From a picture to ``pixels`` ``[1, h, w, 3]`` and, unless no artifact wants them, ``images`` ``[1, 3, h, w]``."""
    mean, std = (
        f"[{', '.join(f'{value:g}' for value in values)}]" for values in (preprocessing.mean, preprocessing.std)
    )
    text = PREPARE + (NORMALIZE if normalized else "")
    return text.format(resize=preprocessing.resize, crop=preprocessing.crop, mean=mean, std=std)


def run(row: ArtifactRow) -> str:
    """From ``pixels`` or ``images`` to what the artifact gives, which is called by its name."""
    knobs = row.knobs
    own = row.backend in RUN and row.entry and not knobs.get("integer_io") and not knobs.get("labels")
    coreml_image = row.backend == "coreml" and takes_pixels(row)
    fixed = knobs.get("batch") not in (None, 1)
    template = RUN[row.backend] if own and not coreml_image and not fixed else OTHERWISE
    taken = "pixels" if takes_pixels(row) else "images"
    if template is RUN["litert"] and taken == "images":
        taken = "images.transpose(0, 2, 3, 1)"
    entry = row.entry.removesuffix("/Manifest.json")  # a Core ML package is loaded as a whole
    answer = "probabilities" if knobs.get("softmax") else "logits"
    return template.format(
        path=f"{row.folder}/{entry}", folder=row.folder, backend=row.backend, taken=taken, answer=answer
    )


def takes_pixels(row: ArtifactRow) -> bool:
    """Whether the artifact scales and normalizes by itself."""
    return bool(row.knobs.get("preprocess"))
