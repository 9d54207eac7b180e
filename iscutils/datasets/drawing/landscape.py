"""Landscapes: hills, fields, water, trees, rocks, houses."""

from __future__ import annotations

import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.skies import WHITE, plane, sky, water
from iscutils.datasets.drawing.textures import SIDE, Surfaces, hsv, mix, near, sample, smoothstep


def ridge(rng: np.random.Generator, width: int, roughness: float) -> np.ndarray:
    """A skyline (width,) in [0, 1]: a sum of waves, amplitude falling with frequency."""
    x = np.linspace(0, 1, width)
    waves = range(1, 24)
    line = sum(
        rng.normal() * k ** (-roughness) * np.sin(2 * np.pi * (k * 0.6 * x + rng.random()))
        for k in waves
    )
    return (line - line.min()) / (np.ptp(line) + 1e-6)


def landscape(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """Sky, ranges of hills, then fields, a desert or water; in front trees, rocks or a house."""
    horizon = int(height * rng.uniform(0.35, 0.75))
    upper, haze, light = sky(rng, horizon, width, surfaces)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:horizon] = upper
    canvas[horizon:] = haze
    kind = ("water", "field", "field", "desert")[rng.integers(4)]
    hue = {"desert": rng.uniform(0.05, 0.12)}.get(kind, rng.uniform(0.14, 0.42))
    if rng.random() < 0.2:
        hue = rng.random()  # heather, autumn, snow at dusk
    land = hsv(hue, rng.uniform(0.1, 0.65), rng.uniform(0.3, 0.75)) * light
    layers = int(rng.integers(0, 5))
    for layer in range(layers):
        _hills(rng, canvas, horizon, (layer + 1) / layers, land, haze, surfaces)
    if kind == "water":
        water(rng, canvas, horizon, light, surfaces)
    else:
        _ground(rng, canvas, horizon, land, haze, surfaces)
    things = (
        (_boats, _rocks, _grass) if kind == "water" else (_trees, _rocks, _house, _path, _grass)
    )
    for thing in rng.permutation(len(things))[: rng.integers(1, 4)]:
        things[thing](rng, canvas, horizon, land, light, surfaces)
    return canvas


def _hills(rng, canvas, horizon, nearness, land, haze, surfaces) -> None:
    width = canvas.shape[1]
    peak = horizon * rng.uniform(0.15, 0.7) * (1.1 - 0.6 * nearness)
    line = ridge(rng, width, rng.uniform(0.9, 1.8))
    tops = horizon - peak * (0.15 + 0.85 * line) + 2 * nearness
    rows = np.arange(horizon, dtype=np.float32)[:, None]
    mask = np.clip(rows - tops[None].astype(np.float32) + 0.5, 0, 1)
    colour = mix(haze, land, 0.2 + 0.65 * nearness)
    relief = sample(surfaces.rough, rng, horizon, width, rng.uniform(0.7, 1.5))
    slopes = np.gradient(line) * width / 8
    lit = np.clip(0.8 + 0.9 * (relief - 0.5) * nearness - 0.12 * slopes[None], 0.3, 1.4)
    paint = colour * lit[..., None].astype(np.float32)
    if nearness < 0.7 and rng.random() < 0.4:  # snow on the heights
        snow = smoothstep(relief + (horizon - rows) / peak, 1.0, 1.15) * nearness**0.3
        paint = mix(
            paint, mix(WHITE, haze, 0.3) * np.clip(lit, 0.6, 1.1)[..., None], snow[..., None]
        )
    mist = smoothstep(rows, horizon - 0.5 * peak, horizon + 0.3 * peak)[..., None] * 0.4
    p.blend(canvas, (slice(0, horizon), slice(0, width)), mix(paint, haze, mist), mask)


def _ground(rng, canvas, horizon, land, haze, surfaces) -> None:
    height, width = canvas.shape[:2]
    deep = height - horizon
    if rng.random() < 0.5:
        texture = surfaces.photo(keep_colour=0)
        gray = plane(rng, texture.mean(-1), deep, width, rng.uniform(0.4, 1.2))
    else:
        gray = plane(rng, surfaces.rough, deep, width, rng.uniform(0.5, 1.5))
    patches = plane(rng, surfaces.soft, deep, width, rng.uniform(0.15, 0.4))
    other = near(rng, land, 0.15)
    base = mix(land, other, smoothstep(patches, 0.4, 0.6)[..., None])
    paint = base * (0.55 + 0.9 * gray)[..., None]
    if rng.random() < 0.3:  # furrows or rows of plants
        rows = 0.5 + 0.5 * np.sin(plane(rng, np.tile(np.linspace(0, 1, SIDE, dtype=np.float32),
                                  (SIDE, 1)), deep, width, 0.5) * rng.uniform(60, 140))  # fmt: skip
        paint *= (0.75 + 0.4 * rows)[..., None]
    air = np.exp(-np.linspace(0, 5, deep))[:, None, None] * 0.6
    canvas[horizon:] = np.clip(mix(paint, haze, air), 0, 1)


def _spots(rng, canvas, horizon, count):
    """Places on the ground, far to near: (x, y, size of a person there in px)."""
    height, width = canvas.shape[:2]
    depths = np.sort(rng.uniform(0.02, 1, count) ** 1.5)
    for depth in depths:
        y = horizon + depth * (height - horizon) * 0.95
        yield rng.uniform(-0.05, 1.05) * width, y, height * (0.03 + 0.22 * depth)


def _trees(rng, canvas, horizon, land, light, surfaces) -> None:
    conifers, hue = rng.random() < 0.4, rng.uniform(0.2, 0.4)
    if rng.random() < 0.25:
        hue = rng.uniform(0.02, 0.14)  # autumn
    for x, y, unit in _spots(rng, canvas, horizon, int(rng.integers(2, 14))):
        leaf = hsv(hue + rng.normal(0, 0.02), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.5)) * light
        (conifer if conifers else tree)(rng, canvas, x, y, unit * rng.uniform(1.2, 3), leaf)


def tree(
    rng: np.random.Generator, canvas: np.ndarray, x: float, y: float, size: float, leaf: np.ndarray
) -> None:
    """A broad-leaved tree of `size` px, standing at (x, y)."""
    p.shade(canvas, p.ellipse(x + size * 0.2, y, size * 0.5, size * 0.07), size / 25 + 0.5, 0.5)
    lean = rng.normal(0, 0.05) * size
    trunk = np.array([(-0.05, 0), (0.05, 0), (0.025, -0.6), (-0.025, -0.6)]) * size + (x, y)
    trunk[2:, 0] += lean
    p.fill(canvas, trunk, hsv(0.07, 0.4, rng.uniform(0.12, 0.3)))
    clumps = int(np.clip(size / 5, 6, 22))
    for clump in range(clumps):  # from the dark back to the lit front
        share = clump / clumps
        angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()) * 0.3 * (1 - 0.3 * share)
        cx = x + lean + size * far * np.cos(angle) - share * 0.06 * size
        cy = y - size * 0.7 + size * far * np.sin(angle) * 0.8 - share * 0.08 * size
        outline = p.blob(rng, cx, cy, size * rng.uniform(0.1, 0.2), 0.35)
        outline += rng.normal(0, size * 0.012, outline.shape)
        p.fill(canvas, outline, np.clip(near(rng, leaf * (0.5 + 0.9 * share), 0.03), 0, 1), 0.9)
        for _ in range(int(np.clip(size / 12, 0, 14))):  # leaves that catch the light, or not
            dx, dy = rng.normal(0, size * 0.075, 2)
            spot = p.blob(rng, cx + dx, cy + dy, size * rng.uniform(0.008, 0.03), 0.4)
            p.fill(canvas, spot, np.clip(leaf * (0.4 + share + rng.uniform(-0.1, 0.6)), 0, 1), 0.8)


def conifer(
    rng: np.random.Generator, canvas: np.ndarray, x: float, y: float, size: float, leaf: np.ndarray
) -> None:
    """A fir of `size` px, standing at (x, y)."""
    p.shade(canvas, p.ellipse(x + size * 0.15, y, size * 0.3, size * 0.05), size / 25 + 0.5, 0.5)
    tiers = int(rng.integers(4, 8))
    for tier in range(tiers):
        share = tier / tiers
        top, wide = y - size * (0.35 + 0.65 * share), size * 0.3 * (1 - share) + size * 0.03
        low = y - size * (0.08 + 0.75 * share)
        teeth = np.linspace(-1, 1, 9)
        hem = low + np.where(np.arange(9) % 2, -1, 1) * size * 0.02
        outline = np.concatenate([[(x, top)], np.stack([x + wide * teeth, hem], -1)[::-1]])
        p.fill(canvas, outline, near(rng, leaf * (0.55 + 0.6 * share), 0.02))
        lit = np.concatenate([[(x, top)], np.stack([x + wide * teeth[:4], hem[:4]], -1)[::-1]])
        p.fill(canvas, lit, leaf * 1.3, 0.35)


def _boats(rng, canvas, horizon, land, light, surfaces) -> None:
    for x, y, unit in _spots(rng, canvas, horizon, int(rng.integers(1, 6))):
        size, hull = unit * rng.uniform(0.6, 1.2), surfaces.colour(0, 1) * light
        p.shade(canvas, p.ellipse(x, y + size * 0.12, size * 0.9, size * 0.1), size / 15 + 0.5, 0.5)
        boat = np.array([(-0.9, -0.3), (1.0, -0.36), (0.7, 0.05), (-0.7, 0.05)]) * size + (x, y)
        p.fill(canvas, boat, hull)
        p.fill(canvas, boat * (1, 0.3) + (0, 0.7 * (y - size * 0.3)), np.clip(hull * 1.4, 0, 1))
        sails = [[(0, -0.4), (0, -2.2), (0.8, -0.5)], [(-0.06, -0.45), (-0.06, -1.9), (-0.6, -0.5)]]
        for sail in sails[: rng.integers(0, 3)]:
            p.fill(canvas, np.array(sail) * size + (x, y), near(rng, WHITE * 0.9, 0.06) * light)
        p.fill(canvas, p.box_points(x - 1, y - size * 2.2, x + 1, y - size * 0.3), hull * 0.4)


def _rocks(rng, canvas, horizon, land, light, surfaces) -> None:
    stone = hsv(rng.uniform(0, 0.15), rng.uniform(0, 0.3), rng.uniform(0.35, 0.7)) * light
    relief = surfaces.rough
    for x, y, unit in _spots(rng, canvas, horizon, int(rng.integers(2, 12))):
        radius = unit * rng.uniform(0.2, 0.8)
        outline = p.blob(rng, x, y, radius, 0.25) * (1, 0.7) + (0, y * 0.3)
        away = p.shifted(outline, radius * 0.25, radius * 0.3)
        p.shade(canvas, away, radius / 5 + 0.5, 0.55)
        side = int(radius * 5) + 8
        grain = sample(relief, rng, side, side, 0.8)[..., None]
        p.solid(canvas, outline, stone * (0.6 + 0.8 * grain), (-0.7, -0.9), 1.3)


def _house(rng, canvas, horizon, land, light, surfaces) -> None:
    for x, y, unit in _spots(rng, canvas, horizon, int(rng.integers(1, 4))):
        size = unit * rng.uniform(1.0, 1.8)
        wall, roof = (
            near(rng, surfaces.colour(0.5, 1), 0.1) * light,
            surfaces.colour(0, 0.6) * light,
        )
        wide, tall, gable = size * rng.uniform(0.7, 1.4), size * 0.6, size * rng.uniform(0.3, 0.5)
        p.shade(canvas, p.ellipse(x + wide * 0.6, y, wide, tall * 0.15), tall / 8, 0.5)
        half, top = wide * 0.5, -tall - gable
        front = p.shifted([(0, 0), (0, -tall), (half / 2, top), (half, -tall), (half, 0)], x, y)
        side = p.box_points(x + wide * 0.5, y - tall, x + wide * 1.3, y)
        p.fill(canvas, side, wall * 0.75)
        p.fill(canvas, front, wall)
        slope = [(0.2, top), (1.1, top), (1.36, -tall * 0.97), (0.47, -tall * 0.97)]
        slope = p.shifted(np.array(slope) * (wide, 1), x, y)
        p.fill(canvas, slope, roof)
        glow = hsv(0.12, 0.5, 0.95) if light.mean() < 0.6 else np.float32([0.2, 0.25, 0.3])
        for column in (0.08, 0.3, 0.62, 0.86, 1.08):
            px = x + wide * column
            window = p.box_points(px, y - tall * 0.75, px + wide * 0.12, y - tall * 0.4)
            p.fill(canvas, window, glow)
        p.fill(canvas, p.box_points(x + wide * 0.2, y - tall * 0.35, x + wide * 0.3, y), roof * 0.6)


def _path(rng, canvas, horizon, land, light, surfaces) -> None:
    height, width = canvas.shape[:2]
    t = np.linspace(0, 1, 24)
    bend, end = rng.normal(0, 0.25), rng.uniform(0.2, 0.8)
    middle = (end + bend * np.sin(t * rng.uniform(2, 5)) * t) * width
    half = (0.004 + rng.uniform(0.05, 0.2) * t**1.3) * width
    y = horizon + t**1.4 * (height - horizon)
    outline = np.concatenate(
        [np.stack([middle - half, y], -1), np.stack([middle + half, y], -1)[::-1]]
    )
    colour = mix(near(rng, np.float32([0.6, 0.55, 0.47]), 0.1) * light, land, 0.25)
    p.fill(canvas, outline, colour, rng.uniform(0.6, 0.95))


def _grass(rng, canvas, horizon, land, light, surfaces) -> None:
    """Blades, reeds or flowers close to the camera, along the lower edge."""
    height, width = canvas.shape[:2]
    tall, flowers = height * rng.uniform(0.08, 0.3), rng.random() < 0.5
    petal = hsv(rng.random(), 0.8, 0.9) * light
    for _ in range(int(rng.integers(30, 90))):
        x, size = rng.uniform(0, width), tall * rng.uniform(0.4, 1.2)
        bend, thick = rng.normal(0, 0.3) * size, 0.8 + size / 50
        blade = np.array([(x - thick, height), (x + bend * 0.4, height - size * 0.6),
                          (x + bend, height - size), (x + bend * 0.4 + thick, height - size * 0.55),
                          (x + thick, height)])  # fmt: skip
        p.fill(canvas, blade, np.clip(near(rng, land * rng.uniform(0.4, 1.1), 0.03), 0, 1))
        if flowers and rng.random() < 0.35:
            radius = tall * rng.uniform(0.04, 0.1)
            p.fill(canvas, p.blob(rng, x + bend, height - size, radius), near(rng, petal))


def picture(surfaces: Surfaces) -> np.ndarray:
    """One of two pictures of this scene, to print or hang: a view or a photograph, (90, 120, 3)."""
    rng = surfaces.rng
    if len(surfaces.pictures) < 2:
        view = rng.random() < 0.6
        made = landscape(rng, 90, 120, surfaces) if view else surfaces.photo(keep_colour=0.8)
        surfaces.pictures.append(np.clip(made, 0, 1))
    return surfaces.pictures[rng.integers(len(surfaces.pictures))]
