"""Small ONNX descriptors, made node by node."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KIND = {np.uint8: TensorProto.UINT8, np.float32: TensorProto.FLOAT}


def small_onnx(path, kind=np.uint8, last=True, sides=(None, None), batch="N", notes=None, seed=0):
    """Mean colour of the upper and of the lower half, times a random 6 x 8 matrix; returns it.

    Args:
        kind, last, sides, batch: of the input.
        notes: metadata of the file, values as JSON unless they are text.
    """
    matrix = np.random.default_rng(seed).normal(size=(6, 8)).astype(np.float32)
    height, width = (side or name for side, name in zip(sides, "HW", strict=True))
    shape = [batch, height, width, 3] if last else [batch, 3, height, width]
    nodes = [helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT)]
    if last:
        nodes.append(helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]))
    picture = "first" if last else "float"
    nodes += [
        helper.make_node("Split", [picture], ["upper", "lower"], axis=2, num_outputs=2),
        helper.make_node("ReduceMean", ["upper", "places"], ["above"], keepdims=0),
        helper.make_node("ReduceMean", ["lower", "places"], ["below"], keepdims=0),
        helper.make_node("Concat", ["above", "below"], ["colours"], axis=1),
        helper.make_node("MatMul", ["colours", "matrix"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("image", KIND[kind], shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 8])],
        [numpy_helper.from_array(np.array([2, 3]), "places"),
         numpy_helper.from_array(matrix, "matrix")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for name, value in (notes or {}).items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=name, value=text)
    onnx.save(model, path)
    return matrix


def small_rows(pixels, matrix):
    """What `small_onnx` gives for values (B, H, W, 3), normalised; H even."""
    half = pixels.shape[1] // 2
    colours = [pixels[:, :half].mean((1, 2)), pixels[:, half:].mean((1, 2))]
    rows = np.concatenate(colours, axis=1) @ matrix
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
