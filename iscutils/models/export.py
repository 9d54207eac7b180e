"""Descriptors for use elsewhere: one ONNX graph from pixels to the unit vector."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

from iscutils import __version__
from iscutils.files.artifacts import KitError, atomic_path
from iscutils.files.prepare import prepare
from iscutils.models.descriptor import Descriptor
from iscutils.models.onnx_file import OnnxDescriptor

if TYPE_CHECKING:
    import onnx

OPSET = 18  # the first whose Resize widens its filter with the reduction
IMAGE, DESCRIPTOR = "image", "descriptor"
LEAST_COSINE, LEAST_INT8 = 0.999, 0.99


@torch.no_grad()
def folded(model: Descriptor) -> Descriptor:
    """A copy in eval mode whose two linear layers are one: W = W2 W1, b = W2 b1 + b2.

    The same descriptors with fewer weights (RDCD's form for inference). The loss on the wide
    features needs the unfolded one.
    """
    result = copy.deepcopy(model).eval()
    if not model.config.hidden:
        return result
    first, last = (layer.double() for layer in result.head)
    head = nn.Linear(first.in_features, last.out_features)
    head.weight.copy_(last.weight @ first.weight)
    head.bias.copy_(last.weight @ first.bias + last.bias)
    result.head = head.to(model.mean.device)
    result.config = replace(model.config, hidden=0)
    return result


def export_onnx(
    model: Descriptor,
    path: str | Path,
    pictures: Sequence[Image.Image],
    sizes: Sequence[int] = (),
    int8: bool = False,
    resize: bool = True,
) -> dict[str, float]:
    """Write a descriptor as one ONNX graph (opset 18) that onnxruntime runs without the kit.

    Its input `image` is uint8 RGB (N, H, W, 3) of any number and size, its output `descriptor`
    the unit rows (N, D), the normalised mean over the sizes. Metadata say so in the file: `kit`,
    `backbone`, `dim`, `size` (px), `sizes`, `resize`, `precision`, `input` and `output`.

    Args:
        pictures: on which the graph is compared with torch, and for int8 calibrated: photographs
            such as those it was trained on.
        sizes: input sides in px; none: the one the network was trained at.
        int8: with weights and maps in 8 bits, a quarter of the file, and two to four times the
            speed on a CPU.
        resize: the graph brings images to the sizes itself, as the kit does (Pillow's bicubic
            filter, to one level of 256). Otherwise it describes them as they come, and the average
            over `sizes` is left to who calls it: so the kit runs it.

    Returns:
        {"mean", "min"}: cosine between the graph's descriptors and torch's.

    Raises:
        KitError: the graph's descriptors are not torch's: below .999, in int8 below .99 on average.
    """
    if not pictures:
        raise KitError("no pictures to compare the graph with: give some photographs")
    sizes = sorted(set(sizes)) or [model.size]
    small = folded(model).cpu()
    graph = core_graph(small, sizes)
    if int8:
        from iscutils.models.quantise import quantise

        ways = [[prepare(p, size, small.config.resize) for p in pictures] for size in sizes]
        graph = quantise(graph, [pixels for way in ways for pixels in way])
    if resize:
        from iscutils.models.graph import with_resize  # onnx: not needed to run a network

        graph = with_resize(graph, sizes, small.config.resize)
    _describe_itself(graph, small, sizes, int8, resize)
    with atomic_path(path) as temporary:
        # onnxruntime and `load` know the format by the suffix.
        file = temporary.with_name(f"{temporary.name}.onnx")
        try:
            file.write_bytes(graph.SerializeToString())
            cosines = _compare(small, OnnxDescriptor(file), pictures, sizes, resize)
            _check(cosines, small, int8)
            file.rename(temporary)
        finally:
            file.unlink(missing_ok=True)
    return {"mean": float(cosines.mean()), "min": float(cosines.min())}


class _Pixels(nn.Module):
    """uint8 (N, H, W, 3) -> unit rows; pixels are normalised in one step, which saves time."""

    def __init__(self, model: Descriptor):
        super().__init__()
        self.model = fixed_padding(model)
        self.register_buffer("factor", 1 / (255 * model.std))
        self.register_buffer("offset", -model.mean / model.std)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        images = image.permute(0, 3, 1, 2).float() * self.factor + self.offset
        pooled = self.model.pool(self.model.backbone(images))
        return F.normalize(self.model.expand(pooled)[1].float(), dim=1)


def fixed_padding(model: Descriptor) -> Descriptor:
    """A copy of a network whose strided layers pad as for sides that are multiples of 32.

    TensorFlow's padding (timm's `tf_` networks) depends on the side, in a way that the exporter
    cannot follow for free sides. Other networks are returned as they are.
    """
    if not _padded_by_side(model):
        return model
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv2dSame):
                total = [k - s for k, s in zip(layer.kernel_size, layer.stride, strict=True)]
                down, across = ((side // 2, side - side // 2) for side in total)
                plain = nn.Conv2d(
                    layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
                    groups=layer.groups, bias=layer.bias is not None,
                )  # fmt: skip
                plain.load_state_dict(layer.state_dict())
                setattr(parent, name, nn.Sequential(nn.ZeroPad2d((*across, *down)), plain))
    return model


def _padded_by_side(model: Descriptor) -> bool:
    return any(isinstance(layer, Conv2dSame) for layer in model.modules())


def core_graph(model: Descriptor, sizes: Sequence[int]) -> onnx.ModelProto:
    """Graph of a network in eval mode from uint8 (N, H, W, 3) of the network's sizes to unit rows.

    Raises:
        KitError: it cannot be written without being bound to one image size, or a size is no
            multiple of 32 where `fixed_padding` needs that.
    """
    side, patch = max(sizes), model.backbone.patch
    if _padded_by_side(model) and any(size % 32 for size in sizes):
        raise KitError(
            f"'{model.config.backbone}' becomes ONNX for sides that are multiples of 32, not for "
            f"{', '.join(map(str, sizes))}: give such sizes"
        )
    step = 32 if 32 % patch == 0 else patch
    # Not square: at its native size a transformer would record no resampling of its positions.
    example = torch.zeros(2, side + step, side, 3, dtype=torch.uint8)
    free = torch.export.Dim.DYNAMIC
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Pixels(model).eval(), (example,), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=[IMAGE], output_names=[DESCRIPTOR],
                dynamic_shapes={IMAGE: {0: free, 1: free, 2: free}},
            )  # fmt: skip
    except Exception as error:  # of the exporter, in many kinds
        raise KitError(
            f"'{model.config.backbone}' cannot be exported for every image size: use the model "
            "folder instead (Descriptor.save)"
        ) from error
    finally:
        quiet.setLevel(level)
    return program.model_proto


def _describe_itself(
    graph: onnx.ModelProto, model: Descriptor, sizes: Sequence[int], int8: bool, resize: bool
) -> None:
    config = model.config
    sides = "any size" if resize else "the size to describe them at"
    notes = {
        "kit": f"iscutils {__version__}",
        "backbone": config.backbone,
        "dim": model.dim,
        "size": max(sizes),
        "sizes": json.dumps(list(sizes)),
        "resize": config.resize,
        "resized_by": "the graph" if resize else "the caller",
        "precision": "int8" if int8 else "float32",
        "opset": OPSET,
        "input": f"{IMAGE}: uint8 RGB (N, H, W, 3) of {sides}",
        "output": f"{DESCRIPTOR}: float32 (N, {model.dim}), unit rows, inner product = likeness",
    }
    del graph.metadata_props[:]
    for name, value in notes.items():
        graph.metadata_props.add(key=name, value=str(value))


@torch.inference_mode()
def _compare(
    model: Descriptor,
    other: OnnxDescriptor,
    pictures: Sequence[Image.Image],
    sizes: Sequence[int],
    resize: bool,
) -> np.ndarray:
    """Cosine (N,) between descriptors of torch and of the graph, each picture by itself."""
    cosines = []
    for picture in pictures:
        ways = [prepare(picture, size, model.config.resize)[None] for size in sizes]
        rows = [model(torch.tensor(w).permute(0, 3, 1, 2).float() / 255) for w in ways]
        given = [np.asarray(picture)[None]] if resize else ways
        found = [torch.from_numpy(other.describe(pixels)) for pixels in given]
        cosines.append(F.cosine_similarity(sum(rows), sum(found)).item())
    return np.array(cosines)


def _check(cosines: np.ndarray, model: Descriptor, int8: bool) -> None:
    mean, least = float(cosines.mean()), float(cosines.min())
    worst, limit = (mean, LEAST_INT8) if int8 else (least, LEAST_COSINE)
    if not worst >= limit:  # nor is nan
        remedy = (
            "calibrate with more pictures like your own, or export it in float32 (no int8)"
            if int8
            else "use the model folder instead (Descriptor.save)"
        )
        raise KitError(
            f"'{model.config.backbone}' as ONNX differs from torch: cosine {mean:.4f} on average, "
            f"{least:.4f} at worst, where {limit} was expected: {remedy}"
        )
