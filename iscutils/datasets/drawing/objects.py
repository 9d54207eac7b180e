"""Things that stand on a table: vases, fruit, boxes, books, plants."""

from __future__ import annotations

import cv2
import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.foliage import flower_sprite, leaf_sprite
from iscutils.datasets.drawing.landscape import picture
from iscutils.datasets.drawing.textures import SIDE, Surfaces, hsv, mix, near

INK = np.float32([0.1, 0.1, 0.12])


PAPER = np.float32([0.96, 0.95, 0.92])


def vase(
    rng: np.random.Generator,
    canvas: np.ndarray,
    x: float,
    base: float,
    size: float,
    light: float,
    surfaces: Surfaces,
) -> None:
    """A turned body, bottle, cup or vase: `size` px wide at most, standing at (x, base)."""
    tall = size * rng.uniform(0.7, 2.2)
    t = np.linspace(0, 1, 40)
    knots = rng.uniform(0.25, 1, int(rng.integers(3, 6)))
    if rng.random() < 0.4:
        knots[-2:] = rng.uniform(0.15, 0.3)  # a bottle's neck
    radius = np.interp(t, np.linspace(0, 1, len(knots)), knots)
    radius = np.convolve(np.pad(radius, 4, mode="edge"), np.hanning(11)[1:-1], "valid")
    radius *= size * 0.5 / radius.max()
    y = base - t * tall
    outline = np.concatenate([np.stack([x - radius, y], -1), np.stack([x + radius, y], -1)[::-1]])
    rim = p.ellipse(x, y[-1], radius[-1], radius[-1] * 0.22)
    foot = p.ellipse(x, y[0], radius[0], radius[0] * 0.22)
    paint = surfaces.colour(0.2, 1) if rng.random() < 0.5 else surfaces.texture()
    gloss = rng.uniform(0, 0.7)
    turning(canvas, foot, paint, x, radius[::-1], y[::-1], light, gloss)
    turning(canvas, outline, paint, x, radius[::-1], y[::-1], light, gloss)
    colour = paint if paint.ndim == 1 else paint.mean((0, 1))
    p.fill(canvas, rim, colour * 0.8)
    p.fill(canvas, p.ellipse(x, y[-1], radius[-1] * 0.85, radius[-1] * 0.17), colour * 0.25)


def turning(
    canvas: np.ndarray,
    outline: np.ndarray,
    paint: np.ndarray,
    x: float,
    radius: np.ndarray,
    rows: np.ndarray,
    light: float,
    gloss: float,
) -> None:
    """Fill an outline as a body of revolution about the vertical through x."""
    if (box := p.region(outline, canvas.shape)) is None:
        return
    y = np.arange(box[0].start, box[0].stop)
    r = np.maximum(np.interp(y, rows, radius), 1)[:, None]
    u = np.clip((np.arange(box[1].start, box[1].stop)[None] + 0.5 - x) / r, -1, 1)
    u = u.astype(np.float32)
    around = np.arcsin(u)
    if paint.ndim == 3:
        columns = (around + np.pi / 2) * SIDE / np.pi * 0.99
        lines = np.broadcast_to((y[:, None] - box[0].start) * 1.3 % SIDE, u.shape)
        paint = cv2.remap(paint, columns, lines.astype(np.float32), cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
    facing = np.cos(around - light * 0.7)
    body = paint * (0.25 + 0.85 * np.clip(facing, 0, 1))[..., None]
    body += (gloss * np.clip(np.cos(around - light * 0.55), 0, 1) ** 40)[..., None]
    p.blend(canvas, box, body, p.coverage(outline, box))


def ball(
    rng: np.random.Generator,
    canvas: np.ndarray,
    x: float,
    base: float,
    size: float,
    light: float,
    surfaces: Surfaces,
) -> None:
    """A fruit or a ball of `size` px."""
    radius = size * rng.uniform(0.3, 0.5)
    outline = p.ellipse(x, base - radius * 0.92, radius, radius * rng.uniform(0.85, 1.05))
    if rng.random() < 0.3:
        outline = p.blob(rng, x, base - radius * 0.9, radius, 0.08)
    paint = surfaces.colour(0.2, 1)
    if rng.random() < 0.5:
        side = int(radius * 4) + 8
        paint = mix(paint, surfaces.piece(side, side, radius / 60), rng.uniform(0.2, 1))
    p.solid(canvas, outline, paint, (light, -0.9), 1.2, rng.uniform(0, 0.6))
    if rng.random() < 0.4:  # a stalk
        top = base - radius * 1.75
        stalk = np.array([(-0.05, 0), (0.05, 0), (0.15, -0.4), (0.08, -0.42)]) * radius + (x, top)
        p.fill(canvas, stalk, hsv(0.1, 0.5, 0.25))


def carton(
    rng: np.random.Generator,
    canvas: np.ndarray,
    x: float,
    base: float,
    size: float,
    light: float,
    surfaces: Surfaces,
) -> None:
    """A box with a printed front."""
    wide, tall = size * rng.uniform(0.5, 1.1), size * rng.uniform(0.5, 1.5)
    lean = size * rng.uniform(0.12, 0.4) * -light
    up = size * rng.uniform(0.08, 0.25)
    colour = surfaces.colour(0.2, 1)
    corner = np.array([x - wide / 2, base])
    front = corner + np.array([(0, -tall), (wide, -tall), (wide, 0), (0, 0)])
    back = p.shifted(front, lean, -up)
    side = (1, 2) if lean > 0 else (0, 3)
    flank = np.array([front[side[0]], back[side[0]], back[side[1]], front[side[1]]])
    p.project(canvas, label(rng, 90, int(90 * wide / tall) + 20, surfaces, colour), front)
    p.fill(canvas, flank, colour * 0.55)
    p.fill(canvas, np.array([front[0], back[0], back[1], front[1]]), np.clip(colour * 1.2, 0, 1))


def label(
    rng: np.random.Generator, height: int, width: int, surfaces: Surfaces, colour: np.ndarray
) -> np.ndarray:
    """A printed surface: colour bands, a picture or a disc, and a word or two."""
    sheet = np.empty((height, width, 3), np.float32)
    sheet[:] = colour
    other = near(rng, 1 - colour, 0.1)
    if rng.random() < 0.5:
        sheet[int(height * rng.uniform(0.3, 0.8)) :] = other
    if rng.random() < 0.4:
        inset = picture(surfaces)
        y = int(height * 0.3)
        size = (int(width * 0.8), int(height * 0.45))
        sheet[y : y + size[1], width // 10 : width // 10 + size[0]] = cv2.resize(inset, size)
    else:
        disc = p.ellipse(width / 2, height * 0.55, width * 0.3, width * 0.3)
        p.fill(sheet, disc, surfaces.colour())
    ink = PAPER if colour.mean() < 0.5 else INK
    text = p.words(rng, 1).upper()
    p.write(sheet, text, width * 0.08, height * 0.06, height * 0.2, ink, 0, width * 0.84)
    return sheet


def books(
    rng: np.random.Generator,
    canvas: np.ndarray,
    x: float,
    base: float,
    size: float,
    light: float,
    surfaces: Surfaces,
) -> None:
    """A pile of books lying on one another."""
    y = base
    for _ in range(int(rng.integers(2, 6))):
        wide, thick = size * rng.uniform(0.8, 1.3), size * rng.uniform(0.1, 0.22)
        left = x - wide / 2 + rng.normal(0, size * 0.06)
        colour = surfaces.colour(0.1, 1)
        lid = np.array([(0, 0), (wide, 0), (wide * 0.94, -size * 0.1), (wide * 0.06, -size * 0.1)])
        p.fill(canvas, p.shifted(lid, left, y - thick), np.clip(colour * 1.15, 0, 1))
        p.fill(canvas, p.box_points(left, y - thick, left + wide, y), colour * 0.8)
        if thick > 8:
            ink = PAPER if colour.mean() < 0.5 else INK
            title = p.words(rng, 2)
            p.write(canvas, title, left + wide * 0.1, y - thick, thick * 0.75, ink, 2, wide * 0.8)
        p.shade(canvas, p.box_points(left, y - thick * 0.1, left + wide, y), 1, 0.4)
        y -= thick


def plant(
    rng: np.random.Generator,
    canvas: np.ndarray,
    x: float,
    base: float,
    size: float,
    light: float,
    surfaces: Surfaces,
) -> None:
    """Leaves or flowers in a pot."""
    pot = size * 0.5
    rim = np.array([(-0.4, 0), (0.4, 0), (0.5, -0.8), (-0.5, -0.8)]) * pot + (x, base)
    green = hsv(rng.uniform(0.2, 0.42), rng.uniform(0.4, 0.8), rng.uniform(0.35, 0.7))
    sprite = leaf_sprite(rng, green, surfaces)
    for k in range(int(rng.integers(8, 22))):
        angle = rng.normal(0, 0.8)
        far = size * rng.uniform(0.25, 0.7)
        px, py = x + far * np.sin(angle), base - pot * 0.7 - far * np.cos(angle)
        p.place(canvas, sprite, px, py, size * rng.uniform(0.4, 0.7), angle, 0.5 + 0.05 * k)
    if rng.random() < 0.5:
        flower = flower_sprite(rng, hsv(rng.random(), 0.7, 0.95), surfaces)
        for _ in range(int(rng.integers(1, 6))):
            px, py = rng.normal(x, size * 0.3), base - pot * 0.8 - rng.uniform(0.2, 0.9) * size
            p.place(canvas, flower, px, py, size * rng.uniform(0.25, 0.4), rng.uniform(0, 6))
    colour = surfaces.colour(0.3, 1)
    turning(canvas, rim, colour, x, np.array([pot * 0.5, pot * 0.4]),
            np.array([base - pot * 0.8, base]), light, 0.1)  # fmt: skip
