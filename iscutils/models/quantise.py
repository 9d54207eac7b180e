"""ONNX graphs in 8 bits, by onnxruntime's static quantisation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

# The pooling with powers, and the linear layer behind it, stay in floats: they are quick, and
# every digit of theirs is in the descriptor.
LAYERS = ["Conv", "Relu", "Clip", "Add", "MaxPool", "AveragePool"]


def _pooling(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes that clamp what a power is taken of."""
    powered = {node.input[0] for node in graph.graph.node if node.op_type == "Pow"}
    return [node.name for node in graph.graph.node if powered & set(node.output)]


class _Pictures(CalibrationDataReader):
    def __init__(self, name: str, pictures: Sequence[np.ndarray]):
        self.batches: Iterator[dict] = ({name: picture[None]} for picture in pictures)

    def get_next(self) -> dict | None:
        return next(self.batches, None)


def quantise(graph: onnx.ModelProto, pictures: Sequence[np.ndarray]) -> onnx.ModelProto:
    """The graph with weights in 7 bits a channel and maps in 8 bits, in QDQ form.

    Seven bits, because sums of 8-bit products overflow on CPUs without VNNI (onnxruntime's guide,
    "Quantize ONNX models"): so the file says the same everywhere. Ranges of maps are the least and
    the largest value that the pictures show.

    Args:
        pictures: uint8 (H, W, 3) of the sizes that the network will see.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "int8"))
        onnx.save(graph, plain)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # advice to do what the next line does
        try:
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            quantize_static(
                ready, small, _Pictures(graph.graph.input[0].name, pictures),
                quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=LAYERS, nodes_to_exclude=_pooling(onnx.load(ready)),
            )  # fmt: skip
        finally:
            root.setLevel(level)
        return onnx.load(small)
