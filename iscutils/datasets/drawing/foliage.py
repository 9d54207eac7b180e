"""Leaves, flowers and pebbles, in front of one another or scattered on a surface."""

from __future__ import annotations

import cv2
import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.textures import Surfaces, hsv, mix, sample, tinted


def leaf_sprite(rng: np.random.Generator, colour: np.ndarray, surfaces: Surfaces) -> np.ndarray:
    """One leaf pointing up, (128, 128, 4), with its veins."""
    t = np.linspace(0, 1, 40)
    wide = rng.uniform(0.12, 0.45) * np.sin(np.pi * t ** rng.uniform(0.6, 1.4)) ** rng.uniform(
        0.6, 1.3
    )
    wide *= 1 + rng.uniform(0, 0.25) * np.abs(np.sin(t * rng.integers(0, 14) * np.pi))
    curve = rng.normal(0, 0.08) * np.sin(np.pi * t)
    y = 124 - 120 * t
    left, right = (
        np.stack([64 + 128 * (curve - wide), y], -1),
        np.stack([64 + 128 * (curve + wide), y], -1),
    )
    spine = np.stack([64 + 128 * curve, y], -1)
    sprite = np.zeros((128, 128, 4), np.float32)
    grain = sample(surfaces.rough, rng, 128, 128, 1.2)[..., None]
    paint = colour * (0.7 + 0.6 * grain)
    whole = (slice(0, 128), slice(0, 128))
    outline = np.concatenate([left, right[::-1]])
    sprite[..., 3] = p.coverage(outline, whole)
    sprite[..., :3] = p.rounded(sprite[..., 3], paint, (-0.6, -0.6), 0.6, 0)
    p.blend(
        sprite[..., :3],
        whole,
        paint * 0.7,
        p.coverage(np.concatenate([spine, right[::-1]]), whole) * 0.5,
    )
    vein = np.clip(colour * 1.5 + 0.06, 0, 1).tolist()
    body = np.ascontiguousarray(sprite[..., :3])
    for k in range(4, 38, 4):
        for edge in (left, right):
            a, b = spine[k], mix(spine[k], edge[min(k + 4, 39)], 0.85)
            cv2.line(
                body,
                np.rint(a).astype(int).tolist(),
                np.rint(b).astype(int).tolist(),
                vein,
                1,
                cv2.LINE_AA,
            )
    cv2.polylines(body, [np.rint(spine).astype(np.int32)], False, vein, 2, cv2.LINE_AA)
    sprite[..., :3] = body
    return sprite


def flower_sprite(rng: np.random.Generator, colour: np.ndarray, surfaces: Surfaces) -> np.ndarray:
    """One flower from above, (128, 128, 4): rings of petals round a heart."""
    sprite = np.zeros((128, 128, 4), np.float32)
    body = np.zeros((128, 128, 3), np.float32)
    petals, rings = int(rng.integers(5, 14)), int(rng.integers(1, 4))
    wide = rng.uniform(0.7, 1.5) * np.pi / petals
    for ring in range(rings):
        reach = 60 * (1 - 0.27 * ring)
        for k in range(petals):
            angle = 2 * np.pi * (k + 0.5 * ring) / petals
            out = np.array([np.sin(angle), np.cos(angle)]) * reach * 0.55
            outline = p.ellipse(
                64 + out[0], 64 + out[1], reach * 0.45, reach * wide * 0.5, np.pi / 2 - angle
            )
            box = p.region(outline, body.shape)
            if box is not None:
                mask = p.coverage(outline, box)
                tone = colour * rng.uniform(0.85, 1.1) * (0.75 + 0.13 * ring)
                p.blend(body, box, p.rounded(mask, tone, (-0.6, -0.6), 0.8, 0), mask)
                sprite[box][..., 3] = np.maximum(sprite[box][..., 3], mask)
    heart = p.ellipse(64, 64, *[rng.uniform(8, 18)] * 2)
    p.solid(body, heart, hsv(rng.uniform(0.05, 0.16), 0.8, rng.uniform(0.3, 0.9)), (-0.6, -0.6))
    sprite[..., :3] = body
    return sprite


def pebble_sprite(rng: np.random.Generator, colour: np.ndarray, surfaces: Surfaces) -> np.ndarray:
    """One pebble, fruit, sweet or button, (128, 128, 4)."""
    whole = (slice(0, 128), slice(0, 128))
    kind = rng.integers(3)
    if kind == 0:
        outline = p.blob(rng, 64, 64, 44, 0.15)
    elif kind == 1:
        outline = p.ellipse(64, 64, 58, rng.uniform(34, 58))
    else:
        sides = int(rng.integers(3, 9))
        outline = p.ellipse(64, 64, 58, 58, rng.uniform(0, 6), sides)
    sprite = np.zeros((128, 128, 4), np.float32)
    sprite[..., 3] = p.coverage(np.clip(outline, 3, 124), whole)
    marks = surfaces.piece(128, 128, 0.7)
    paint = mix(colour, marks, rng.uniform(0, 0.8)) if rng.random() < 0.7 else colour
    sprite[..., :3] = p.rounded(
        sprite[..., 3], paint, (-0.6, -0.7), rng.uniform(0.5, 1.5), rng.uniform(0, 0.7)
    )
    return sprite


def foliage(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """Leaves in front of leaves, far ones dark and blurred, sometimes with flowers."""
    hue = rng.uniform(0.2, 0.42) if rng.random() < 0.65 else rng.random()
    colours = [
        hsv(hue + rng.normal(0, 0.04), rng.uniform(0.35, 0.9), rng.uniform(0.35, 0.8))
        for _ in range(5)
    ]
    sprites = [leaf_sprite(rng, colour, surfaces) for colour in colours]
    canvas = tinted(
        sample(surfaces.soft, rng, height, width), np.stack([colours[0] * 0.1, colours[1] * 0.6])
    )
    base, count = rng.uniform(0.12, 0.3) * width, int(rng.integers(70, 150))
    direction, spread = rng.uniform(0, 6.3), rng.uniform(0.4, 3)
    for k in range(count):
        near_ = k / count
        if k == count // 3:
            canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1, 3.5))
        size = base * (0.5 + 0.9 * near_) * rng.uniform(0.7, 1.4)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        turn, tone = direction + rng.normal(0, spread), (0.3 + 0.8 * near_) * rng.uniform(0.8, 1.15)
        p.place(canvas, sprites[rng.integers(5)], x, y, size, turn, tone, shadow=0.45)
    if rng.random() < 0.55:
        petals = [hsv(rng.random(), rng.uniform(0.2, 1), 0.95) for _ in range(2)]
        flowers = [flower_sprite(rng, colour, surfaces) for colour in petals]
        for _ in range(int(rng.integers(1, 12))):
            x, y = rng.uniform(0.05, 0.95) * width, rng.uniform(0.05, 0.95) * height
            size, turn, tone = (
                base * rng.uniform(0.5, 1.5),
                rng.uniform(0, 6.3),
                rng.uniform(0.8, 1.1),
            )
            p.place(canvas, flowers[rng.integers(2)], x, y, size, turn, tone, shadow=0.5)
    return canvas


def scatter(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """Pebbles, leaves, flowers or sweets lying on a surface, seen from above."""
    canvas = surfaces.piece(height, width, rng.uniform(0.8, 2.2))
    canvas *= rng.uniform(0.5, 1)
    makers = (pebble_sprite, pebble_sprite, leaf_sprite, flower_sprite)
    mixed, one = rng.random() < 0.3, makers[rng.integers(4)]
    sprites = [
        (makers[rng.integers(4)] if mixed else one)(rng, surfaces.colour(0.2, 1), surfaces)
        for _ in range(6)
    ]
    base, count = rng.uniform(0.08, 0.32) * width, int(rng.integers(5, 70))
    count = int(min(count, 3 * height * width / base**2))
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        size, turn, tone = (
            base * rng.uniform(0.6, 1.3),
            rng.uniform(0, 6.3),
            rng.uniform(0.75, 1.15),
        )
        p.place(canvas, sprites[rng.integers(6)], x, y, size, turn, tone, shadow=0.6)
    return canvas
