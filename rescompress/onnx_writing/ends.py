"""The two ends of an ONNX graph: pixels or images in, logits or probabilities out, any batch or one, and notes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rescompress.errors import RecipeError
from rescompress.spec import ModelSpec, Preprocessing

IMAGES, PIXELS, LOGITS, PROBABILITIES = "images", "pixels", "logits", "probabilities"


def take_pixels(proto: Any, preprocessing: Preprocessing) -> None:
    """Let a graph take bytes as they are decoded and cropped, in place: ``x / (255 std) - mean / std`` in FP32.

    Args:
        proto: an ``onnx.ModelProto`` that takes ``images``, ``[n, 3, h, w]`` in FP32.
        preprocessing: mean and standard deviation.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    (images,) = (value for value in graph.input if value.name == IMAGES)
    n, channels, height, width = images.type.tensor_type.shape.dim
    std = np.array(preprocessing.std, np.float64).reshape(1, 3, 1, 1)
    mean = np.array(preprocessing.mean, np.float64).reshape(1, 3, 1, 1)
    constants = {"preprocess.scale": 1 / (255 * std), "preprocess.shift": -mean / std}
    graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()
    )
    made = [
        helper.make_node("Transpose", [PIXELS], ["pixels/chw"], "preprocess.transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["pixels/chw"], ["pixels/float"], "preprocess.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels/float", "preprocess.scale"], ["pixels/scaled"], "preprocess.mul"),
        helper.make_node("Add", ["pixels/scaled", "preprocess.shift"], [IMAGES], "preprocess.add"),
    ]
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    shape = [n.dim_param or n.dim_value, height.dim_value, width.dim_value, channels.dim_value]
    images.CopyFrom(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))


def give_probabilities(proto: Any) -> None:
    """Append a softmax over the classes, in place.

    Args:
        proto: an ``onnx.ModelProto`` that gives ``logits``, ``[n, classes]`` in FP32.

    Raises:
        RecipeError: the network has no classifier.
    """
    from onnx import helper

    graph = proto.graph
    if [value.name for value in graph.output] != [LOGITS]:
        raise RecipeError("softmax needs logits, but the network has no classifier.", "Leave softmax out.")
    graph.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], "softmax", axis=-1))
    graph.output[0].name = PROBABILITIES


def fix_batch(proto: Any, batch: int) -> None:
    """Let a graph take so many images and no other number, in place.

    Args:
        proto: an ``onnx.ModelProto`` whose first dimension is free.
        batch: images in each batch.
    """
    free = {value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.input}
    for value in (*proto.graph.input, *proto.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in free - {""}:
                dimension.dim_value = batch


def describe(proto: Any, spec: ModelSpec, labels: Sequence[str], metadata: Mapping[str, str]) -> None:
    """Say in the file's metadata what the model is and how its images are prepared, in place.

    Args:
        proto: an ``onnx.ModelProto``.
        spec: the model's.
        labels: names of the classes, written as JSON; none to leave them out.
        metadata: further entries.

    Raises:
        RecipeError: there are more labels than classes, or fewer.
    """
    if labels and len(labels) != spec.classes:
        raise RecipeError(f"There are {len(labels)} labels for {spec.classes} classes.", "Give one label a class.")
    said = {
        "model": str(spec),
        "mean": str(spec.preprocessing.mean),
        "std": str(spec.preprocessing.std),
        "resize": str(spec.preprocessing.resize),
        "crop": str(spec.preprocessing.crop),
        **({"labels": json.dumps(list(labels), ensure_ascii=False)} if labels else {}),
        **metadata,
    }
    for key, value in said.items():
        proto.metadata_props.add(key=f"rescompress.{key}", value=value)
