"""What an edit did to the geometry: homography, surviving outline, visible fraction.

Coordinates are continuous pixels (x, y): the picture spans [0, W] x [0, H], the centre of the first
pixel is (0.5, 0.5). OpenCV counts pixel centres as whole numbers, so its points are ours minus 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

GRID = 64  # visibility is tracked on GRID x GRID points of the original
MAX_PIXELS = 2**24  # canvases above are shrunk: compositions can otherwise grow without end
MAX_SIDE = 24_000  # px; OpenCV's warps address at most 32,767
IDENTITY = np.eye(3)

Operation = tuple[str, Mapping[str, Any]]  # (name, drawn values): enough to apply an edit again


class Step(NamedTuple):
    """Result of one edit function.

    image: edited PIL RGB picture. matrix: (3, 3), input px -> output px. hidden: share of the
    picture that the edit covers, 0..1, one number for everywhere or (H, W) in output pixels.
    """

    image: Image.Image
    matrix: np.ndarray = IDENTITY
    hidden: np.ndarray | float = 0.0


@dataclass(frozen=True, eq=False)
class Edited:
    """An edited picture and how its pixels relate to the original's.

    image: PIL RGB. homography: (3, 3) float64, original px -> edited px, last entry 1.
    polygon: (N, 2) float64, convex outline of what is left of the original inside the edited
    canvas, in edited px; (0, 2) when nothing is left. visibility: (64, 64) float32, 0..1 for the
    centres of an even grid over the original (rows = y). operations: (name, values) in order.
    """

    image: Image.Image
    homography: np.ndarray
    polygon: np.ndarray
    visibility: np.ndarray
    operations: tuple[Operation, ...]
    original_size: tuple[int, int]  # (width, height), px

    @property
    def visible(self) -> float:
        """Share of the original's area that can still be seen, 0..1 (mean of `visibility`)."""
        return float(self.visibility.mean())

    @classmethod
    def of(cls, image: Image.Image) -> Edited:
        """The unedited picture: identity homography, everything visible."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        return cls(
            image=image,
            homography=IDENTITY.copy(),
            polygon=corners(image.size),
            visibility=np.ones((GRID, GRID), np.float32),
            operations=(),
            original_size=image.size,
        )

    def then(self, step: Step, operation: Operation | None = None) -> Edited:
        """The record after one more step; `operation` is appended when given."""
        homography = step.matrix @ self.homography
        homography = homography / homography[2, 2]
        size = step.image.size
        return Edited(
            image=step.image,
            homography=homography,
            polygon=clip_polygon(transform(step.matrix, self.polygon), size),
            visibility=self.visibility * _seen(homography, self.original_size, size, step.hidden),
            operations=self.operations if operation is None else (*self.operations, operation),
            original_size=self.original_size,
        )


def corners(size: tuple[int, int]) -> np.ndarray:
    """Corners (4, 2) of a picture of (width, height) px, clockwise from the top left."""
    width, height = size
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], float)


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


def _seen(
    homography: np.ndarray, original: tuple[int, int], size: tuple[int, int], hidden: Any
) -> np.ndarray:
    """Factor (64, 64) by which one step lowers the visibility of the original's grid points."""
    centres = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(centres * original[0], centres * original[1])
    points = transform(homography, np.stack([x, y], -1).reshape(-1, 2))
    inside = ((points >= -1e-6) & (points <= np.asarray(size) + 1e-6)).all(1)
    if np.isscalar(hidden):
        shown = inside * (1.0 - hidden)
    else:
        column, row = np.clip(points, 0, np.asarray(size) - 1e-6).astype(int).T
        shown = inside * (1.0 - hidden[row, column])
    return shown.reshape(GRID, GRID).astype(np.float32)


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
        np.asarray(image), centred, size, flags=cv2.INTER_LINEAR, borderValue=tuple(fill)
    )
    return Image.fromarray(pixels)


def homography_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Homography (3, 3) that takes four points (4, 2) to four others, no three in a line."""
    rows, right = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows, float), right), 1.0).reshape(3, 3)
