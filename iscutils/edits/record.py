"""What an edit did to the geometry: homography, surviving outline, visible fraction.

Coordinates are continuous pixels (x, y): the picture spans [0, W] x [0, H], the centre of the first
pixel is (0.5, 0.5). OpenCV counts pixel centres as whole numbers, so its points are ours minus 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from iscutils.edits.pixels import to_image, to_pixels

GRID = 64  # visibility is tracked on GRID x GRID points of the original
MAX_PIXELS = 2**24  # canvases above are shrunk: compositions can otherwise grow without end
MAX_SIDE = 24_000  # px; OpenCV's warps address at most 32,767
IDENTITY = np.eye(3)
_CENTRES = (np.arange(GRID) + 0.5) / GRID
GRID_POINTS = np.stack([*np.meshgrid(_CENTRES, _CENTRES), np.ones((GRID, GRID))], -1).reshape(-1, 3)

Operation = tuple[str, Mapping[str, Any]]  # (name, drawn values): enough to apply an edit again


class Box(NamedTuple):
    """Something that lies in the picture as a thing of its own.

    kind: "original" (the edited photograph itself, put on a canvas), "photo" (another photograph
    put on it or beside it) or "sticker" (emoji, text, drawn shape). outline: (N, 2) px, convex.
    """

    kind: str
    outline: np.ndarray

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Upright bounds x0, y0, x1, y1 in px."""
        (x0, y0), (x1, y1) = self.outline.min(0), self.outline.max(0)
        return float(x0), float(y0), float(x1), float(y1)


class Step(NamedTuple):
    """Result of one edit function.

    image: edited PIL RGB picture. matrix: (3, 3), input px -> output px. hidden: share of the
    picture that the edit covers, one number 0..1 for everywhere, or (H, W) in output pixels, as
    float 0..1 or uint8 0..255. boxes: what the edit put in, outlines in output pixels.
    """

    image: Image.Image
    matrix: np.ndarray = IDENTITY
    hidden: np.ndarray | float = 0.0
    boxes: tuple[Box, ...] = ()


class Trace(NamedTuple):
    """What one step did to the geometry, kept until it is needed: training views never need it."""

    matrix: np.ndarray
    size: tuple[int, int]
    hidden: np.ndarray | float


@dataclass(frozen=True, eq=False)
class Edited:
    """An edited picture and how its pixels relate to the original's.

    image: PIL RGB. homography: (3, 3) float64, original px -> edited px, last entry 1.
    operations: (name, values) in order. original_size: (width, height), px. boxes: what edits put
    in and where the picture itself was put, clipped to the canvas. start: size of the picture that
    the first step saw. traces: of the steps.
    """

    image: Image.Image
    homography: np.ndarray
    operations: tuple[Operation, ...]
    original_size: tuple[int, int]
    start: tuple[int, int]
    boxes: tuple[Box, ...] = ()
    traces: tuple[Trace, ...] = ()

    @property
    def visible(self) -> float:
        """Share of the original's area that can still be seen, 0..1 (mean of `visibility`)."""
        return float(self.visibility.mean())

    @cached_property
    def polygon(self) -> np.ndarray:
        """Outline (N, 2) of what is left of the original on the canvas, convex, in edited px.

        (0, 2) when nothing is left.
        """
        outline = corners(self.start)
        for trace in self.traces:
            outline = clip_polygon(transform(trace.matrix, outline), trace.size)
        return outline

    @cached_property
    def visibility(self) -> np.ndarray:
        """(64, 64) float32, 0..1, for the centres of an even grid over the original (rows = y)."""
        points = GRID_POINTS * (*self.start, 1.0)  # (64 * 64, 3), homogeneous
        visibility = np.ones(GRID * GRID, np.float32)
        for trace in self.traces:
            points = points @ trace.matrix.T
            visibility *= _seen(points[:, :2] / points[:, 2:], trace.size, trace.hidden)
        return visibility.reshape(GRID, GRID)

    @classmethod
    def of(cls, image: Image.Image) -> Edited:
        """The unedited picture: identity homography, everything visible."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        return cls(image, IDENTITY.copy(), (), image.size, image.size)

    def then(self, step: Step, operation: Operation | None = None) -> Edited:
        """The record after one more step; `operation` is appended when given."""
        size, traces = step.image.size, self.traces
        boxes = (*(Box(box.kind, transform(step.matrix, box.outline)) for box in self.boxes),
                 *step.boxes) if self.boxes or step.boxes else ()  # fmt: skip
        clipped = [Box(box.kind, clip_polygon(box.outline, size)) for box in boxes]
        still = step.matrix is IDENTITY and size == self.image.size
        if not (still and np.isscalar(step.hidden) and step.hidden == 0):
            traces = (*traces, Trace(step.matrix, size, step.hidden))
        homography = self.homography if still else step.matrix @ self.homography
        return Edited(
            image=step.image,
            homography=homography / homography[2, 2],
            operations=self.operations if operation is None else (*self.operations, operation),
            original_size=self.original_size,
            start=self.start,
            boxes=tuple(box for box in clipped if len(box.outline)),
            traces=traces,
        )

    def of_original(self, size: tuple[int, int]) -> Edited:
        """The same record for an original of another size, of which a scaled copy was edited."""
        whole = self.homography @ scaling(size, self.original_size)
        return replace(self, homography=whole, original_size=size)


def corners(size: tuple[int, int]) -> np.ndarray:
    """Corners (4, 2) of a picture of (width, height) px, clockwise from the top left."""
    return rectangle(0, 0, *size)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Corners (4, 2) of an upright rectangle, clockwise from the top left."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) moved by a homography (3, 3)."""
    homogeneous = points @ matrix[:, :2].T + matrix[:, 2]  # (N, 3)
    return homogeneous[:, :2] / homogeneous[:, 2:]


def clip_polygon(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Part (M, 2) of a convex polygon (N, 2) inside a (width, height) canvas; (0, 2) if none.

    Sutherland and Hodgman 1974: cut by one side of the canvas after the other.
    """
    limits = np.asarray(size, float)
    for axis in (0, 1):
        polygon = _cut(polygon, polygon[:, axis])
        polygon = _cut(polygon, limits[axis] - polygon[:, axis])
    return np.clip(polygon, 0, limits)


def _cut(polygon: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Keep the part of a polygon whose signed distance `inside` (N,) is not negative."""
    kept = []
    for i, (point, distance) in enumerate(zip(polygon, inside, strict=True)):
        before, distance_before = polygon[i - 1], inside[i - 1]
        if (distance >= 0) != (distance_before >= 0):  # the edge crosses the border
            share = distance_before / (distance_before - distance)
            kept.append(before + share * (point - before))
        if distance >= 0:
            kept.append(point)
    return np.array(kept, float).reshape(-1, 2)


def _seen(points: np.ndarray, size: tuple[int, int], hidden: Any) -> np.ndarray:
    """Factor (N,) by which one step lowers the visibility of points (N, 2), px after it."""
    inside = ((points >= -1e-6) & (points <= np.asarray(size) + 1e-6)).all(1)
    if np.isscalar(hidden):
        return inside * np.float32(1.0 - hidden)
    column, row = np.clip(points, 0, np.asarray(size) - 1e-6).astype(int).T
    covered = hidden[row, column]
    covered = covered / np.float32(255) if hidden.dtype == np.uint8 else covered
    return inside * (1 - covered.astype(np.float32))


def scaling(before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    """Matrix (3, 3) of resizing a picture from one (width, height) to another."""
    return np.diag([after[0] / before[0], after[1] / before[1], 1.0])


def shift(x: float, y: float) -> np.ndarray:
    """Matrix (3, 3) of moving by (x, y) px."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def safe_scale(size: tuple[float, float]) -> float:
    """Factor, at most 1, that brings a canvas of (width, height) px within the limits."""
    width, height = size
    return min(1.0, (MAX_PIXELS / (width * height)) ** 0.5, MAX_SIDE / max(width, height))


def within_limits(image: Image.Image) -> Step | None:
    """A shrinking step for a canvas that outgrew the limits, None for all others."""
    scale = safe_scale(image.size)
    if scale == 1.0:
        return None
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return Step(image.resize(size, Image.Resampling.BILINEAR), scaling(image.size, size))


def warp(
    image: Image.Image, matrix: np.ndarray, size: tuple[int, int], fill: tuple[int, int, int]
) -> Image.Image:
    """Move a picture by a homography onto a canvas of (width, height) px, bilinear."""
    centred = shift(-0.5, -0.5) @ matrix @ shift(0.5, 0.5)  # our coordinates -> OpenCV's
    pixels = cv2.warpPerspective(
        to_pixels(image), centred, size, flags=cv2.INTER_LINEAR, borderValue=tuple(fill)
    )
    return to_image(pixels)


def homography_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Homography (3, 3) that takes four points (4, 2) to four others, no three in a line."""
    rows, right = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows, float), right), 1.0).reshape(3, 3)
