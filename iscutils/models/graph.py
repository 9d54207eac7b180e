"""ONNX graphs put together: a network behind the resizing of its images, at one size or several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper


def with_resize(core: onnx.ModelProto, sizes: Sequence[int], resize: str) -> onnx.ModelProto:
    """A graph that brings images of any size to `sizes` (px) and averages what `core` says of them.

    The filter is Pillow's bicubic one, which widens with the reduction (opset 18 and later).
    Several sizes use the same weights; their unit rows are averaged and normalised.

    Args:
        core: uint8 (N, H, W, 3) -> unit rows (N, D).
        resize: "squash" to squares, or "short": the short side to the size, the shape kept.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(core)
    graph, source = whole.graph, core.graph
    image, descriptor = graph.input[0].name, graph.output[0].name
    del graph.node[:], graph.value_info[:]
    if resize == "short":
        graph.node.extend(_sides(image))
    constants: dict[str, np.ndarray] = {}
    outputs = []
    for size in sizes:
        own = f"{size}px/"
        if resize == "short":
            constants |= {f"{own}side": np.array(size, np.float32), "one": np.array(1, np.int64)}
            graph.node.extend(_short(own))
        else:
            constants[f"{own}sides"] = np.array([size, size], np.int64)
        graph.node.append(
            helper.make_node(
                "Resize", [image, "", "", f"{own}sides"], [own + image], mode="cubic",
                cubic_coeff_a=-0.5, antialias=1, exclude_outside=1, axes=[1, 2],
                coordinate_transformation_mode="half_pixel",
            )
        )  # fmt: skip
        graph.node.extend(_renamed(source, own))
        outputs.append(own + descriptor)
    graph.node.extend(_mean(outputs, descriptor))
    constants |= {"last": np.array([1], np.int64)}
    for name, value in constants.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        graph.initializer.append(helper.make_tensor(name, kind, value.shape, value.ravel()))
    onnx.checker.check_model(whole)
    return whole


def _renamed(source: onnx.GraphProto, own: str) -> list[NodeProto]:
    """The nodes of a graph with values of their own, and the graph's weights."""
    shared = {tensor.name for tensor in source.initializer} | {""}
    nodes = []
    for node in source.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = own + node.name
        copy.input[:] = [name if name in shared else own + name for name in node.input]
        copy.output[:] = [name and own + name for name in node.output]
        nodes.append(copy)
    return nodes


def _sides(image: str) -> list[NodeProto]:
    """Height and width (2,) of the images, and the shorter of both, as floats."""
    return [
        helper.make_node("Shape", [image], ["shape"], start=1, end=3),
        helper.make_node("Cast", ["shape"], ["lengths"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["lengths"], ["shorter"], keepdims=0),
    ]


def _short(own: str) -> list[NodeProto]:
    """Sides (2,) in whole px of images whose short side becomes `own`side; rounds half to even."""
    return [
        helper.make_node("Mul", ["lengths", f"{own}side"], [f"{own}products"]),
        helper.make_node("Div", [f"{own}products", "shorter"], [f"{own}quotients"]),
        helper.make_node("Round", [f"{own}quotients"], [f"{own}rounded"]),
        helper.make_node("Cast", [f"{own}rounded"], [f"{own}whole"], to=TensorProto.INT64),
        helper.make_node("Max", [f"{own}whole", "one"], [f"{own}sides"]),
    ]


def _mean(rows: Sequence[str], name: str) -> list[NodeProto]:
    """The normalised mean of unit rows (N, D)."""
    return [
        helper.make_node("Sum", list(rows), ["sum"]),
        helper.make_node("ReduceL2", ["sum", "last"], ["length"], keepdims=1),
        helper.make_node("Div", ["sum", "length"], [name]),
    ]
