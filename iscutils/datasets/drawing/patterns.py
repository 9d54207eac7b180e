"""Mosaics and collages."""

from __future__ import annotations

import cv2
import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.landscape import picture
from iscutils.datasets.drawing.textures import Surfaces, mix, sample, smoothstep


def mosaic(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """Tiles, patchwork or stained glass: cells of a grid, bricks, or around random points."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    wave, smooth = rng.uniform(0, 60), cv2.GaussianBlur(surfaces.soft, (0, 0), 8)
    x = x + wave * (sample(smooth, rng, height, width) - 0.5)
    y = y + wave * (sample(smooth, rng, height, width) - 0.5)
    cell = rng.uniform(0.05, 0.2) * max(height, width)
    if rng.random() < 0.5:  # rows, every second one shifted
        ratio, shift = rng.choice([0.5, 1, 1, 2]), rng.choice([0, 0, 0.5])
        row = np.floor(y / cell)
        across = x / (cell * ratio) + shift * (row % 2)
        u, v = across % 1, y / cell % 1
        edge = np.minimum(np.minimum(u, 1 - u) * ratio, np.minimum(v, 1 - v)) * cell
        number = (row * 97 + np.floor(across)).astype(int)
    else:
        count = int(np.clip(height * width / cell**2, 8, 220))
        points = rng.uniform(0, 1, (count, 2)) * (width, height)
        number, edge = _voronoi(points, x, y)
    number -= number.min()
    kinds = int(rng.integers(3, 9))
    colours = np.stack([surfaces.colour() for _ in range(kinds)])
    order = rng.integers(0, kinds, number.max() + 1)
    shine = rng.uniform(0.8, 1.15, (number.max() + 1, 1)).astype(np.float32)
    if rng.random() < 0.4:  # the tiles make up a picture
        view = cv2.resize(picture(surfaces), (width, height)).reshape(-1, 3)
        total = np.bincount(number.ravel(), minlength=number.max() + 1)[:, None]
        cells = np.stack([np.bincount(number.ravel(), c, number.max() + 1) for c in view.T], -1)
        colours, order = (
            (cells / np.maximum(total, 1)).astype(np.float32),
            np.arange(number.max() + 1),
        )
    canvas = (colours[order] * shine)[number]
    if rng.random() < 0.5:
        canvas = mix(canvas, canvas * 1.7 * surfaces.piece(height, width), rng.uniform(0.2, 0.9))
    grout, joint = surfaces.colour(0, 1) * rng.uniform(0.2, 1), rng.uniform(0.5, 4)
    canvas *= (0.7 + 0.35 * smoothstep(edge, joint, joint + cell * 0.25))[..., None]
    canvas = mix(grout, canvas, smoothstep(edge, joint - 0.7, joint + 0.7)[..., None])
    light = np.linspace(*rng.uniform(0.6, 1.2, 2), width, dtype=np.float32)
    return np.clip(canvas * light[None, :, None], 0, 1).astype(np.float32)


def _voronoi(points, x, y) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest point and distance to the border of its cell, for each pixel."""
    height, width = x.shape
    seeds = np.full((height, width), 255, np.uint8)
    columns, rows = points.astype(int).T
    seeds[rows, columns] = 0
    _, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = cv2.remap(
        labels.astype(np.float32), x.clip(0, width - 1), y.clip(0, height - 1), cv2.INTER_NEAREST
    ).astype(int)
    inside = np.ones((height, width), np.uint8)
    inside[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    inside[1:] &= labels[1:] == labels[:-1]
    return labels, cv2.distanceTransform(inside, cv2.DIST_L2, 3)


def collage(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """Dead leaves: cut papers, prints and shapes of all sizes lying over one another."""
    canvas = surfaces.piece(height, width, rng.uniform(0.8, 2))
    count = int(rng.integers(6, 60))
    sizes = np.sort(rng.uniform(0.05, 0.6, count) ** 1.7)[::-1] * 0.75 * max(height, width)
    prints = rng.random() < 0.4
    for size in np.maximum(sizes, 8):
        x, y, turn = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 6.3)
        if prints and rng.random() < 0.7:
            outline = p.box_points(-1, -0.75, 1, 0.75) * size / 2
        else:
            corners = int(rng.integers(3, 7))
            outline = (
                p.ellipse(0, 0, size / 2, size * rng.uniform(0.2, 0.5)),
                p.box_points(-1, -0.6, 1, 0.6) * size / 2,
                p.blob(rng, 0, 0, size / 2, 0.25),
                p.ellipse(0, 0, size / 2, size / 2, 0, corners),
            )[rng.integers(4)]
        outline = p.shifted(p.turned(outline, turn), x, y)
        p.shade(canvas, outline + size * 0.03 + 1, size * 0.03 + 1, 0.5)
        if (box := p.region(outline, canvas.shape)) is None:
            continue
        mask = p.coverage(outline, box)
        paint = (
            surfaces.piece(*mask.shape, size / 160) if rng.random() < 0.75 else surfaces.colour()
        )
        p.blend(canvas, box, paint * rng.uniform(0.7, 1.1), mask)
    return canvas
