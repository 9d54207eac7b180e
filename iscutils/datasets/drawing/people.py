"""Drawn people."""

from __future__ import annotations

import cv2
import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.objects import INK, PAPER
from iscutils.datasets.drawing.skies import sky
from iscutils.datasets.drawing.textures import Surfaces, hsv, sample


def figure(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """A drawn person, head and shoulders, before a backdrop out of focus."""
    canvas = cv2.GaussianBlur(surfaces.piece(height, width, 2), (0, 0), rng.uniform(2, 9))
    if rng.random() < 0.4:
        half, _, _ = sky(rng, height, width, surfaces)
        canvas = cv2.GaussianBlur(half, (0, 0), 2)
    for x in np.sort(rng.uniform(0.2, 0.8, int(rng.choice([1, 1, 2, 3])))) * width:
        _person(
            rng,
            canvas,
            x,
            height * rng.uniform(0.36, 0.5),
            height * rng.uniform(0.17, 0.26),
            surfaces,
        )
    return canvas


def _person(rng, canvas, x, y, head, surfaces) -> None:
    """Head of half-height `head` px around (x, y), hair, shoulders, perhaps glasses or a hat."""
    height = canvas.shape[0]
    skin = hsv(rng.uniform(0.03, 0.08), rng.uniform(0.25, 0.6), rng.uniform(0.35, 0.95))
    hair = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.1, 0.7), rng.uniform(0.05, 0.7))
    lean, wide = rng.normal(0, 0.08), rng.uniform(0.68, 0.85)

    def at(points):  # in units of half a head
        return p.shifted(p.turned(np.asarray(points) * head, lean), x, y)

    lit = (-0.6 if rng.random() < 0.5 else 0.6, -0.6)
    side = int(head * 6) + 8
    strands = sample(surfaces.streaks, rng, side, side, 0.7, rng.normal(1.57, 0.2))[..., None]
    long_hair = rng.random() < 0.5
    if long_hair:
        p.solid(
            canvas,
            at(p.blob(rng, 0, 0.25, 1.2, 0.08) * (0.95, 1.15)),
            hair * (0.4 + 0.9 * strands),
            lit,
            0.5,
        )
    low = (height - y) / head
    shoulders = at([(-2.1, low), (-1.75, 1.75), (-0.5, 1.3), (0.5, 1.3), (1.75, 1.75), (2.1, low)])
    p.solid(canvas, shoulders, surfaces.piece(side, side, 1.2), lit, 0.4)
    p.fill(
        canvas, at([(-0.33, 0.6), (0.33, 0.6), (0.42, 1.4), (0, 1.65), (-0.42, 1.4)]), skin * 0.75
    )
    for ear in (-1, 1):
        p.fill(canvas, at(p.ellipse(ear * wide, 0.08, 0.13, 0.22)), skin * 0.85)
    face = p.ellipse(0, 0, wide, 1.0)
    face[:, 0] *= 1 - 0.22 * np.clip(face[:, 1], 0, 1) ** 2
    p.solid(canvas, at(face), skin, lit, 0.55)
    for eye in (-0.33, 0.33):
        p.fill(canvas, at(p.ellipse(eye, -0.05, 0.15, 0.085)), PAPER)
        p.fill(
            canvas,
            at(p.ellipse(eye + rng.normal(0, 0.01), -0.05, 0.075, 0.08)),
            hsv(rng.random(), 0.4, 0.3),
        )
        brow = p.box_points(eye - 0.19, -0.27, eye + 0.19, -0.21)
        p.fill(canvas, at(brow), hair * 0.7)
    p.fill(canvas, at([(-0.04, 0.0), (0.05, 0.0), (0.14, 0.34), (-0.1, 0.34)]), skin * 0.82)
    smile = np.linspace(-0.28, 0.28, 9)
    bend = rng.uniform(0, 0.14) * (1 - (smile / 0.28) ** 2)
    mouth = np.concatenate(
        [np.stack([smile, 0.56 + bend], -1), np.stack([smile, 0.54 + bend * 0.3], -1)[::-1]]
    )
    p.fill(canvas, at(mouth), hsv(0.98, 0.6, rng.uniform(0.35, 0.75)))
    fringe = p.ellipse(0, 0, wide * 1.06, 1.08)
    fringe[:, 1] = np.minimum(
        fringe[:, 1], rng.uniform(-0.62, -0.35) + 0.25 * rng.normal() * fringe[:, 0]
    )
    p.solid(canvas, at(fringe), hair * (0.4 + 0.9 * strands), lit, 0.5)
    extra = rng.random()
    if extra < 0.3:
        for eye in (-0.34, 0.34):
            ring = np.concatenate(
                [p.ellipse(eye, -0.03, 0.25, 0.21), p.ellipse(eye, -0.03, 0.2, 0.165)[::-1]]
            )
            p.fill(canvas, at(ring), INK)
        p.fill(canvas, at(p.box_points(-0.1, -0.06, 0.1, -0.02)), INK)
    elif extra < 0.5:
        colour = surfaces.colour(0, 1)
        p.solid(
            canvas, at([(-0.85, -0.5), (-0.7, -1.35), (0.7, -1.35), (0.85, -0.5)]), colour, lit, 0.4
        )
        p.fill(canvas, at(p.ellipse(0, -0.52, 1.35, 0.14)), colour * 0.7)
