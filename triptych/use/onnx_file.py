"""A trained network as ONNX: pixels in, scores and probabilities out, the preprocessing inside.

The packages onnx and onnxruntime are optional: imported inside the functions that need them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.describe.layers import (
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Window,
)
from triptych.describe.network import IMAGE_SHAPE
from triptych.use.trained import Trained

if TYPE_CHECKING:
    import onnx

OPSET, IR = 17, 8
"""Of 2022: what every runtime since then reads."""
BATCH = 200
"""Images that `logits` computes at once."""


def encode(model: Trained, title: str, dtype: str) -> bytes:
    """The file's bytes, checked by ONNX's own checker.

    Input `images`: uint8 (N, 3, 32, 32), red, green, blue. Outputs `logits` and `probabilities`: `dtype`
    (N, 10). The class names are the metadata `classes`, a JSON list.
    """
    from onnx import helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    state, way_in = model.checkpoint.state, model.preprocessing
    arrays = state.parameters | state.statistics | {"mean": way_in.mean}
    nodes = [helper.make_node("Cast", ["images"], ["pixels"], to=kind)]
    nodes.append(helper.make_node("Sub", ["pixels", "mean"], ["moved"]))
    x = "moved"
    if way_in.scale is not None:
        arrays |= {"scale": way_in.scale}
        nodes.append(helper.make_node("Mul", [x, "scale"], ["scaled"]))
        x = "scaled"
    layers = [layer for layer in model.experiment.layers() if not isinstance(layer, Dropout)]
    for layer in layers:
        y = "logits" if layer is layers[-1] else layer.name
        kind, own, attributes = _operator(layer)
        nodes.append(
            helper.make_node(kind, [x, *(f"{layer.name}.{name}" for name in own)], [y], **attributes)
        )
        x = y
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    tensors = [numpy_helper.from_array(array.astype(dtype), name) for name, array in arrays.items()]
    return _file(model, nodes, tensors, title)


def _file(model: Trained, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], title: str) -> bytes:
    from onnx import TensorProto, checker, helper

    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *IMAGE_SHAPE])
    outputs = [
        helper.make_tensor_value_info(name, tensors[0].data_type, ["N", len(model.classes)])
        for name in ("logits", "probabilities")
    ]
    graph = helper.make_graph(nodes, "network", [images], outputs, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    made.producer_name, made.doc_string = "triptych", title
    helper.set_model_props(made, {"classes": json.dumps(model.classes)})
    checker.check_model(made, full_check=True)
    content: bytes = made.SerializeToString()
    return content


def logits(content: bytes, images: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of uint8 images (N, 3, 32, 32), on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    parts = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    return np.concatenate([session.run(["logits"], {"images": part})[0] for part in parts])


def by_definition(content: bytes, images: np.ndarray) -> np.ndarray:
    """The same by ONNX's reference implementation, which knows float64 for every operator."""
    from onnx.reference import ReferenceEvaluator

    found: np.ndarray = ReferenceEvaluator(content).run(["logits"], {"images": images})[0]
    return found


def _operator(layer: Layer) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """A layer's operator, its arrays by short name, and its attributes."""
    match layer:
        case Conv2d(_, _, _, window, bias):
            return "Conv", ("weight", "bias") if bias else ("weight",), _sliding(window)
        case MaxPool2d(_, window):
            return "MaxPool", (), _sliding(window)
        case Flatten():
            return "Flatten", (), {"axis": 1}
        case Linear():
            return "Gemm", ("weight", "bias"), {"transB": 1}
        case LeakyReLU(_, slope):
            return ("LeakyRelu", (), {"alpha": slope}) if slope else ("Relu", (), {})
        case BatchNorm(_, _, eps):
            return "BatchNormalization", ("gamma", "beta", "running_mean", "running_var"), {"epsilon": eps}
    raise TypeError(f"no ONNX operator for {layer}")


def _sliding(window: Window) -> dict[str, Any]:
    return {"kernel_shape": window.kernel, "strides": window.stride, "pads": window.padding * 2}
