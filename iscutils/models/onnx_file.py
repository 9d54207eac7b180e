"""ONNX files as descriptors, run by onnxruntime on the CPU: the kit's own, SSCD's, anyone's."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from iscutils.files.artifacts import KitError, file_hash
from iscutils.models.descriptor import DescriptorConfig
from iscutils.models.inference import InferenceOnly, check_images

if TYPE_CHECKING:
    import onnxruntime

SUFFIX = ".onnx"
# Side in px where neither file nor metadata names one: SSCD's authors squash to 320 x 320.
ANY_SIZE = 320


def is_onnx(path: str | Path) -> bool:
    """Whether a file is an ONNX graph, by its name: the format has no mark of its own."""
    return Path(path).suffix.lower() == SUFFIX


@dataclass(frozen=True)
class Layout:
    """The input of a graph.

    Attributes:
        name: of the input.
        whole: uint8 pixels, 0 to 255; otherwise floats in [0, 1].
        last: channels last (N, H, W, 3); otherwise (N, 3, H, W).
        sides: height and width in px; None where any will do.
        one: takes one image at a time.
    """

    name: str
    whole: bool
    last: bool
    sides: tuple[int | None, int | None]
    one: bool


class OnnxDescriptor(InferenceOnly):
    """An ONNX file as a descriptor, for inference alone, on the CPU.

    The graph has one input, uint8 pixels or floats, channels last or first, and one output (N, D).
    Floats are pixels in [0, 1] unless the file's metadata say otherwise: `mean` and `std`, three
    numbers each, as JSON, are subtracted and divided by here. Further metadata that are read:
    `size` (px) and `resize` (squash or short), by which images are prepared, and `backbone`, a
    name. Without them the size is the one of the graph, and 320 px squashed where it takes any.

    It may be sent to other processes, which open the file again. Its bytes are part of its state,
    so that `state_key` tells files apart.

    Raises:
        KitError: onnxruntime cannot read the file, or it is no descriptor.
    """

    kind = "an ONNX file"

    def __init__(self, path: str | Path):
        path = Path(path)
        session = _session(path)
        layout, notes = _layout(session, path), session.get_modelmeta().custom_metadata_map
        size = int(notes.get("size", layout.sides[0] or ANY_SIZE))
        name, resize = notes.get("backbone", path.stem), notes.get("resize", "squash")
        super().__init__(DescriptorConfig(backbone=name, dim=1, size=size, resize=resize))
        self.path, self.session, self.layout = path, session, layout
        self.pixel_mean, self.pixel_std = (
            np.array(json.loads(notes.get(name, default)), np.float32)
            for name, default in (("mean", "0"), ("std", "1"))
        )
        digest = bytes.fromhex(file_hash(path))
        self.register_buffer("content", torch.tensor(list(digest), dtype=torch.uint8))
        height, width = (side or min(size, 64) for side in layout.sides)
        rows = self.describe(np.zeros((1, height, width, 3), np.uint8))
        self.config = replace(self.config, dim=rows.shape[1])

    @property
    def one_size(self) -> bool:
        """Whether the graph takes images of one size alone, `size` x `size` px."""
        return any(self.layout.sides)

    def __reduce__(self) -> tuple:
        return OnnxDescriptor, (self.path,)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit descriptors (B, D) float32 of images (B, 3, H, W) in [0, 1].

        For graphs of whole pixels images are rounded to 1/255.
        """
        check_images(images)
        values = images.float().cpu()
        if self.layout.whole:
            values = (values * 255).round().clamp(0, 255).byte()
        rows = self._run(values.permute(0, 2, 3, 1).numpy())
        return F.normalize(torch.from_numpy(rows), dim=1).to(images.device)

    def describe(self, pixels: np.ndarray) -> np.ndarray:
        """Unit descriptors (B, D) float32 of uint8 pixels (B, H, W, 3 or 1), without a detour."""
        pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
        values = pixels if self.layout.whole else pixels.astype(np.float32) / 255
        return F.normalize(torch.from_numpy(self._run(values)), dim=1).numpy()

    def parameter_count(self) -> int:
        """Number of the values that the graph stores."""
        import onnx  # takes a while, and few ask

        stored = onnx.load(self.path).graph.initializer
        return sum(math.prod(tensor.dims) for tensor in stored)

    def _run(self, values: np.ndarray) -> np.ndarray:
        """Rows (B, D) of values (B, H, W, 3) as the graph wants them, but for their order."""
        self._check_sides(values.shape[1:3])
        if not self.layout.whole:
            values = (values - self.pixel_mean) / self.pixel_std
        if not self.layout.last:
            values = values.transpose(0, 3, 1, 2)  # (B, 3, H, W)
        values = np.ascontiguousarray(values)
        batches = np.split(values, len(values)) if self.layout.one else [values]
        try:
            rows = [self.session.run(None, {self.layout.name: batch})[0] for batch in batches]
        except Exception as error:  # onnxruntime has a dozen kinds without a common one
            raise KitError(
                f"{self.path} cannot describe images {values.shape}: {_first_line(error)}"
            ) from error
        rows = np.concatenate(rows).astype(np.float32, copy=False)
        if rows.ndim != 2 or len(rows) != len(values):
            raise KitError(
                f"{self.path} gives {rows.shape} for {len(values)} images, not one row each: it is "
                "no descriptor"
            )
        return rows

    def _check_sides(self, sides: tuple[int, int]) -> None:
        if any(own and own != side for own, side in zip(self.layout.sides, sides, strict=True)):
            height, width = (side or "any" for side in self.layout.sides)
            raise KitError(
                f"{self.path} takes images of {height} x {width} px alone, not of {sides[0]} x "
                f"{sides[1]}: describe them at sizes=[{self.size}], squashed"
            )


def _session(path: Path) -> onnxruntime.InferenceSession:
    import onnxruntime  # not needed by those who only decode

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait actively would take the cores from the processes that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen kinds without a common one
        raise KitError(f"{path} is no ONNX file that can be run: {_first_line(error)}") from error


def _layout(session: onnxruntime.InferenceSession, path: Path) -> Layout:
    inputs, kinds = session.get_inputs(), {"tensor(uint8)": True, "tensor(float)": False}
    first = inputs[0]
    shape = [side if isinstance(side, int) else None for side in first.shape]
    if len(inputs) != 1 or first.type not in kinds or len(shape) != 4 or 3 not in shape[1::2]:
        found = ", ".join(f"{item.type} {item.shape}" for item in inputs)
        raise KitError(
            f"{path} is no descriptor of images ({found}): expected one input (N, H, W, 3) or "
            "(N, 3, H, W) of uint8 or float32"
        )
    last = shape[3] == 3
    sides = shape[1:3] if last else shape[2:]
    return Layout(first.name, kinds[first.type], last, tuple(sides), shape[0] == 1)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
