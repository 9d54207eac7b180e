"""Still lifes and rooms."""

from __future__ import annotations

import cv2
import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.landscape import picture
from iscutils.datasets.drawing.objects import ball, books, carton, plant, vase
from iscutils.datasets.drawing.skies import plane, sky
from iscutils.datasets.drawing.textures import Surfaces, hsv, mix


def backdrop(
    rng: np.random.Generator, height: int, width: int, surfaces: Surfaces
) -> tuple[np.ndarray, int]:
    """A wall out of focus above a table or floor in perspective, and the row where they meet."""
    edge = int(height * rng.uniform(0.3, 0.65))
    canvas = np.empty((height, width, 3), np.float32)
    wall = surfaces.piece(edge, width, rng.uniform(0.8, 2.5)) * rng.uniform(0.4, 1)
    canvas[:edge] = cv2.GaussianBlur(wall, (0, 0), rng.uniform(1, 6))
    if rng.random() < 0.3:
        canvas[:edge] = surfaces.colour(0.2, 1)
    top = surfaces.wood() if rng.random() < 0.4 else surfaces.texture()
    canvas[edge:] = plane(rng, top, height - edge, width, rng.uniform(0.4, 1))
    x, y = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    glow = np.exp(-((x - rng.uniform(0.1, 0.9)) ** 2 * 2 + (y - rng.uniform(0, 0.6)) ** 2 * 1.5))
    canvas *= (0.55 + 0.65 * glow).astype(np.float32)
    return canvas, edge


def still_life(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """Vases, fruit, boxes and books on a table, lit from one side."""
    canvas, edge = backdrop(rng, height, width, surfaces)
    light = -1.0 if rng.random() < 0.5 else 1.0  # from the left or the right
    count = int(rng.integers(2, 8))
    for depth in np.sort(rng.random(count)):
        base = edge + (height - edge) * (0.12 + 0.72 * depth)
        size = height * rng.uniform(0.14, 0.3) * (0.8 + 0.6 * depth) * (1.35 if count < 4 else 1)
        x = rng.uniform(0.1, 0.9) * width
        floor = p.ellipse(x - light * size * 0.25, base, size * 0.55, size * 0.13)
        p.shade(canvas, floor, size * 0.07 + 0.5, 0.65)
        (vase, vase, ball, ball, carton, books, plant)[rng.integers(7)](
            rng, canvas, x, base, size, light, surfaces
        )
    if rng.random() < 0.5:
        focus = cv2.GaussianBlur(canvas[: edge + 4], (0, 0), 1.2)
        canvas[:edge] = mix(canvas[:edge], focus[:edge], np.linspace(1, 0.2, edge)[:, None, None])
    return canvas


def room(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """A room in perspective: papered walls, a floor, windows, pictures, furniture, a lamp."""
    canvas = np.zeros((height, width, 3), np.float32)
    cx, cy = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.55)
    half_w, half_h = width * rng.uniform(0.18, 0.36), height * rng.uniform(0.18, 0.3)
    inner = p.box_points(cx - half_w, cy - half_h, cx + half_w, cy + half_h)
    outer = inner + (inner - (cx, cy)) * 3
    paper = surfaces.fabric() if rng.random() < 0.4 else surfaces.plain()
    floor = surfaces.wood() if rng.random() < 0.6 else surfaces.texture()
    tiled = np.tile(floor, (2, 2, 1))
    quads = {  # clockwise as seen, far edge first
        "ceiling": (
            [outer[0], outer[1], inner[1], inner[0]],
            np.full((8, 8, 3), 0.9, np.float32),
            0.95,
        ),
        "left": ([outer[0], inner[0], inner[3], outer[3]], paper, 0.72),
        "right": ([inner[1], outer[1], outer[2], inner[2]], paper, 0.9),
        "floor": ([inner[3], inner[2], outer[2], outer[3]], tiled, 1.0),
    }
    for corners, texture, tone in quads.values():
        p.project(canvas, texture * tone, np.float32(corners))
    p.project(canvas, paper * 0.82, inner)
    _hang(rng, canvas, inner, 0.1, surfaces)
    for corners in (quads["left"][0], quads["right"][0]):
        if rng.random() < 0.7:
            _hang(rng, canvas, np.float32(corners), 0.35, surfaces)
    for depth in np.sort(rng.uniform(0.15, 0.85, int(rng.integers(1, 5)))):
        scale = 1 + 1.6 * depth
        x = cx + rng.uniform(-0.9, 0.9) * half_w * scale
        y = cy + half_h * scale
        size = half_h * scale * rng.uniform(0.35, 0.7)
        p.shade(canvas, p.ellipse(x, y, size * 0.9, size * 0.16), size * 0.08 + 0.5, 0.55)
        (sofa, table, carton, plant, books)[rng.integers(5)](rng, canvas, x, y, size, 1.0, surfaces)
    y, x = np.ogrid[:height, :width]
    lamp = rng.uniform(0, width), rng.uniform(0, height * 0.4)
    far = np.hypot(x - lamp[0], y - lamp[1]).astype(np.float32) / width
    warm = np.float32([1.0, 0.93, 0.8]) if rng.random() < 0.6 else np.float32([0.92, 0.97, 1.0])
    canvas *= (0.6 + 0.75 * np.exp(-far * 2))[..., None] * warm
    return np.clip(canvas, 0, 1)


def _hang(rng, canvas, corners, start, surfaces) -> None:
    """A window or framed pictures on the wall whose corners are given."""
    corners = np.asarray(corners, np.float32)

    def on_wall(u, v):
        top, low = mix(corners[0], corners[1], u), mix(corners[3], corners[2], u)
        return mix(top, low, v)

    u = start
    while u < 0.75:
        wide, tall = rng.uniform(0.15, 0.4), rng.uniform(0.25, 0.5)
        v = rng.uniform(0.12, 0.25)
        quad = [
            on_wall(a, b) for a, b in ((u, v), (u + wide, v), (u + wide, v + tall), (u, v + tall))
        ]
        if rng.random() < 0.35:
            view, _, _ = sky(rng, 70, 90, surfaces)
            view[45:] = hsv(rng.uniform(0.2, 0.4), 0.4, 0.5)
            view = cv2.copyMakeBorder(view, 5, 5, 5, 5, cv2.BORDER_CONSTANT, value=[0.95] * 3)
            view[:, 48:52] = view[38:41] = 0.95
        else:
            view = cv2.resize(picture(surfaces), (90, 70), interpolation=cv2.INTER_AREA)
            frame = surfaces.colour(0, 1).tolist()
            view = cv2.copyMakeBorder(view, 6, 6, 6, 6, cv2.BORDER_CONSTANT, value=[0.93] * 3)
            view = cv2.copyMakeBorder(view, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=frame)
        p.shade(canvas, np.float32(quad) + 3, 2, 0.4)
        p.project(canvas, view, np.float32(quad))
        u += wide + rng.uniform(0.08, 0.4)


def sofa(
    rng: np.random.Generator,
    canvas: np.ndarray,
    x: float,
    base: float,
    size: float,
    light: float,
    surfaces: Surfaces,
) -> None:
    """A sofa or bed of cushions."""
    colour, wide = surfaces.colour(0.15, 0.9), size * rng.uniform(1.6, 2.4)
    side = int(wide) + 8
    cloth = mix(colour, surfaces.piece(side, side), rng.uniform(0, 0.5))
    for x0, y0, x1, y1, tone in (
        (-0.5, -0.9, 0.5, -0.2, 0.9), (-0.5, -0.45, 0.5, -0.05, 1.1),
        (-0.58, -0.65, -0.42, -0.02, 1.0), (0.42, -0.65, 0.58, -0.02, 0.85),
    ):  # fmt: skip
        box = p.box_points(x + x0 * wide, base + y0 * size, x + x1 * wide, base + y1 * size)
        p.solid(canvas, box, cloth * tone, (-0.3, -0.8), 0.35)
    for _ in range(int(rng.integers(0, 4))):
        px = x + rng.uniform(-0.35, 0.35) * wide
        cushion = p.turned(p.box_points(-1, -1, 1, 1) * size * 0.18, rng.normal(0, 0.4))
        cushion = p.shifted(cushion, px, base - size * 0.55)
        p.solid(canvas, cushion, surfaces.colour(0.3, 1), (-0.5, -0.8), 0.6)


def table(
    rng: np.random.Generator,
    canvas: np.ndarray,
    x: float,
    base: float,
    size: float,
    light: float,
    surfaces: Surfaces,
) -> None:
    """A table with something on it."""
    wide, wood = (
        size * rng.uniform(1.2, 1.8),
        hsv(0.08, rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.6)),
    )
    for leg in (-0.46, -0.34, 0.32, 0.44):
        left = x + leg * wide
        p.fill(canvas, p.box_points(left, base - size * 0.6, left + size * 0.07, base), wood * 0.7)
    top = base - size * 0.6
    board = np.array([(-0.5, 0), (0.5, 0), (0.4, -0.12), (-0.4, -0.12)]) * (wide, size) + (x, top)
    p.fill(canvas, board, np.clip(wood * 1.4, 0, 1))
    p.fill(canvas, p.box_points(x - wide / 2, top, x + wide / 2, top + size * 0.07), wood)
    thing = (vase, ball, books, plant)[rng.integers(4)]
    thing(
        rng,
        canvas,
        x + rng.uniform(-0.25, 0.25) * wide,
        top - size * 0.04,
        size * 0.5,
        light,
        surfaces,
    )
