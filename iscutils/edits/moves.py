"""Geometric edits as plain data: where the pixels go, before any pixel is touched.

A move is computed from the size of the picture alone. So one and the same function tells the
edit of a single image, the batched edits on a GPU and the geometry record where things end up.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from iscutils.edits.pixels import to_image, to_pixels
from iscutils.edits.record import shift, transform, warp

BILINEAR = Image.Resampling.BILINEAR
BLACK = (0, 0, 0)
TINY = 1e-9
HALVES = 1.6  # reductions from here on begin with halving: skips no pixel, blurs little


class Move(NamedTuple):
    """matrix: (3, 3), input px -> output px. size: (width, height) of the output, px.

    fill: (r, g, b) where the output shows nothing of the input.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    fill: tuple[int, int, int] = BLACK


def render(image: Image.Image, move: Move) -> Image.Image:
    """Apply a move to a PIL RGB picture.

    Crops, flips, quarter turns and borders copy pixels; scaling is bilinear with anti-aliasing;
    everything else is one bilinear warp.
    """
    matrix = move.matrix
    upright = abs(matrix[0, 1]) < TINY and abs(matrix[1, 0]) < TINY
    lying = abs(matrix[0, 0]) < TINY and abs(matrix[1, 1]) < TINY
    if np.abs(matrix[2, :2]).max() > TINY or not (upright or lying):
        return warp(image, matrix, move.size, move.fill)
    image, matrix = _untwist(image, matrix, lying)
    return _place(image, matrix, move.size, move.fill)


def _untwist(image: Image.Image, matrix: np.ndarray, lying: bool) -> tuple[Image.Image, np.ndarray]:
    """Take the quarter turn and the flips out of a matrix: scale and shift are left."""
    if lying:
        image = image.transpose(Image.Transpose.TRANSPOSE)
        matrix = matrix[:, [1, 0, 2]]
    if matrix[0, 0] < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        matrix = matrix @ np.array([[-1.0, 0, image.width], [0, 1, 0], [0, 0, 1]])
    if matrix[1, 1] < 0:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        matrix = matrix @ np.array([[1.0, 0, 0], [0, -1, image.height], [0, 0, 1]])
    return image, matrix


def _place(
    image: Image.Image, matrix: np.ndarray, size: tuple[int, int], fill: tuple
) -> Image.Image:
    """Scale and shift a picture onto a canvas; what lies outside of it is cut."""
    box = transform(np.linalg.inv(matrix), np.array([(0.0, 0.0), size]))  # the canvas, input px
    inside = (box[0] >= -1e-6).all() and (box[1] <= np.array(image.size) + 1e-6).all()
    whole = np.abs(matrix[[0, 1], [0, 1]] - 1).max() < TINY
    if whole and inside:
        left, top = (round(float(v)) for v in box[0])
        if (left, top) == (0, 0) and size == image.size:
            return image
        return image.crop((left, top, left + size[0], top + size[1]))
    if inside:
        return resize_window(image, np.clip(box, 0, image.size), size)
    scale, offset = matrix[[0, 1], [0, 1]], matrix[:2, 2]
    small = tuple(int(max(1, round(side))) for side in scale * image.size)
    canvas = Image.new("RGB", size, tuple(fill))
    every = np.array([(0, 0), image.size])
    scaled = image if small == image.size else resize_window(image, every, small)
    canvas.paste(scaled, tuple(round(float(v)) for v in offset))
    return canvas


def resize_window(image: Image.Image, box: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A window, corners (2, 2) in px, of a picture resized to (width, height) px."""
    whole = np.rint(box)
    if np.abs(whole - box).max() > 1e-3 or image.mode == "RGBA":
        # reducing_gap: strong reductions go in two steps, several times faster, hardly different
        return image.resize(size, BILINEAR, box=tuple(box.ravel().tolist()), reducing_gap=3.0)
    corners = tuple(whole.astype(int).ravel().tolist())
    part = image if corners == (0, 0, *image.size) else image.crop(corners)
    return to_image(resize_pixels(to_pixels(part), size))


def resize_pixels(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 resized to (width, height) px: halved while it can be, then sampled.

    Bilinear; looks like the filters over exact areas of Pillow and OpenCV, which take five to ten
    times as long.
    """
    height, width = pixels.shape[:2]
    while width >= HALVES * size[0] or height >= HALVES * size[1]:
        width = (width + 1) // 2 if width >= HALVES * size[0] else width
        height = (height + 1) // 2 if height >= HALVES * size[1] else height
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)


def to_canvas(offset: tuple[float, float], size: tuple[int, int], fill: tuple) -> Move:
    """Put the picture unscaled on a canvas of (width, height) px at an offset."""
    return Move(shift(*offset), size, tuple(fill))
