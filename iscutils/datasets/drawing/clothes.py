"""Clothes, bags and shoes laid out on a plain ground, as they are photographed to be sold.

Pictures of such things look alike as wholes and differ in cut, cloth and print: what a descriptor
of photographs confuses first.
"""

from __future__ import annotations

import cv2
import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.textures import LUMA, Surfaces, mix, sample

Cut = list[tuple[float, float]]  # right half of an outline, from top to bottom, in [-1, 1]


def clothes(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """One thing to wear or to carry, in the middle of a ground, seen from above or hanging."""
    canvas = _ground(rng, height, width, surfaces)
    cut = CUTS[rng.integers(len(CUTS))](rng)
    lean, size = rng.normal(0, 0.06), rng.uniform(0.38, 0.52)
    x, y = width * rng.normal(0.5, 0.02), height * rng.normal(0.5, 0.02)
    scale = np.array([min(width * 1.1, height), height]) * size
    cloth = _cloth(rng, height, width, surfaces)
    light = (rng.uniform(-0.8, 0.8), -0.6)
    for outline in cut:
        points = p.shifted(p.turned(_smooth(np.array(outline)) * scale, lean), x, y)
        p.shade(
            canvas, p.shifted(points, 3 * light[0], 4), rng.uniform(2, 7), rng.uniform(0.2, 0.6)
        )
        _lay(rng, canvas, points, cloth, light, surfaces)
    if rng.random() < 0.4:
        _print(rng, canvas, x, y - height * size * rng.uniform(0.1, 0.4), height * size, surfaces)
    return canvas


def _ground(rng, height, width, surfaces) -> np.ndarray:
    kind = rng.random()
    if kind < 0.5:  # a sheet or a wall
        gray = np.float32(rng.uniform(0.35, 0.95)) * (1 + rng.normal(0, 0.03, 3).astype(np.float32))
        canvas = np.ones((height, width, 3), np.float32) * np.clip(gray, 0, 1)
        folds = sample(surfaces.soft, rng, height, width, rng.uniform(1, 3))
        canvas *= (1 + rng.uniform(0, 0.25) * (folds - 0.5))[..., None]
    elif kind < 0.75:
        across = rng.choice([0, np.pi / 2])
        canvas = sample(surfaces.wood(), rng, height, width, rng.uniform(1, 2), across)
    else:
        surface = surfaces.plain() if kind < 0.9 else surfaces.stone()
        canvas = sample(surface, rng, height, width, rng.uniform(0.7, 2))
        # Floors and sheets are seldom as bright as what lies on them
        canvas = mix(canvas, (canvas @ LUMA)[..., None], rng.uniform(0.2, 0.9))
    x, y = np.linspace(-1, 1, width)[None, :, None], np.linspace(-1, 1, height)[:, None, None]
    tilt = 1 + rng.normal(0, 0.08) * x + rng.normal(0, 0.08) * y
    return (canvas * tilt).astype(np.float32)


def _cloth(rng, height, width, surfaces) -> np.ndarray:
    """What it is made of, (height, width, 3): mostly one colour, else woven or printed."""
    kind = rng.random()
    if kind < 0.3:  # black to white
        colour = np.float32([1, 1, 1]) * rng.uniform(0.05, 0.95) + rng.normal(0, 0.015, 3)
    elif kind < 0.5:  # denim
        colour = np.float32([0.2, 0.29, 0.45]) * rng.uniform(0.4, 2) + rng.normal(0, 0.02, 3)
    elif kind < 0.8:
        colour = surfaces.colour(0, 1)
    else:
        zoom, turn = rng.uniform(0.4, 1.5), rng.normal(0, 0.1)
        return sample(surfaces.fabric(), rng, height, width, zoom, turn)
    worn = sample(surfaces.rough, rng, height, width, rng.uniform(0.5, 2))[..., None]
    faded = sample(surfaces.soft, rng, height, width, rng.uniform(0.6, 1.6))[..., None]
    cloth = np.clip(colour, 0.02, 1) * (0.9 + rng.uniform(0, 0.25) * worn)
    light = np.clip(cloth * 1.6 + 0.1, 0, 1)
    return mix(cloth, light, rng.uniform(0, 0.7) * faded).astype(np.float32)


def _lay(rng, canvas, points, cloth, light, surfaces) -> None:
    """Lay a piece of cloth with folds on the canvas."""
    if (box := p.region(points, canvas.shape)) is None:
        return
    mask = p.coverage(points, box)
    high, wide = mask.shape
    folds = sample(surfaces.streaks, rng, high, wide, rng.uniform(1.5, 4), rng.normal(1.4, 0.4))
    soft = sample(surfaces.soft, rng, high, wide, rng.uniform(0.8, 2))
    relief = 1 + rng.uniform(0.05, 0.4) * (folds - 0.5) + rng.uniform(0, 0.3) * (soft - 0.5)
    paint = cloth[:high, :wide] * relief[..., None]
    p.blend(canvas, box, p.rounded(mask, paint, light, rng.uniform(0.05, 0.25), 0), mask)
    seam, corners = np.zeros(mask.shape, np.uint8), points - (box[1].start, box[0].start)
    cv2.polylines(seam, [np.rint(corners).astype(np.int32)], True, 255, 1, cv2.LINE_AA)
    p.blend(canvas, box, np.zeros(3, np.float32), seam / np.float32(255) * rng.uniform(0, 0.5))


def _print(rng, canvas, x, y, size, surfaces) -> None:
    """A motif on it: words, a spot or a picture."""
    kind, extent = rng.integers(3), size * rng.uniform(0.12, 0.4)
    if kind == 0:
        text, colour = p.words(rng, int(rng.integers(1, 3))), surfaces.colour(0, 1)
        p.write(canvas, text, x - extent, y, extent * 0.6, colour, int(rng.integers(9)), 2 * extent)
    elif kind == 1:
        p.fill(canvas, p.blob(rng, x, y, extent, 0.3), surfaces.colour(0, 1))
    else:
        corners = p.shifted(p.box_points(-1, -1, 1, 1) * extent, x, y)
        p.project(canvas, surfaces.piece(64, 64), corners, rng.uniform(0.6, 1))


def _smooth(points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """A closed outline with its corners cut off."""
    for _ in range(rounds):
        after = np.roll(points, -1, 0)
        points = np.stack([points * 0.85 + after * 0.15, points * 0.15 + after * 0.85], 1).reshape(
            -1, 2
        )
    return points


def _mirrored(rng: np.random.Generator, half: Cut, spread: float = 0.02) -> np.ndarray:
    """Both halves of an outline, each drawn a little otherwise."""
    right = np.array(half)
    left = right[::-1] * (-1, 1)
    return np.concatenate([right, left]) + rng.normal(0, spread, (2 * len(right), 2))


def _trousers(rng: np.random.Generator) -> list[np.ndarray]:
    waist, hip, hem = rng.uniform(0.28, 0.42), rng.uniform(0.38, 0.55), rng.uniform(0.16, 0.3)
    end, apart, crotch = rng.uniform(0.1, 1), rng.uniform(0.05, 0.35), rng.uniform(-0.5, -0.2)
    end = max(end, crotch + 0.25)
    half = [(0, -0.98), (waist, -1), (hip, crotch), (apart + hem * 1.8, end), (apart, end + 0.03),
            (0.03, crotch + 0.12)]  # fmt: skip
    return [_mirrored(rng, half)]


def _shirt(rng: np.random.Generator) -> list[np.ndarray]:
    neck, shoulder, body = rng.uniform(0.12, 0.28), rng.uniform(0.4, 0.55), rng.uniform(0.38, 0.58)
    reach, drop, cuff = rng.uniform(0.6, 1.05), rng.uniform(-0.55, 0.5), rng.uniform(0.1, 0.25)
    hem = rng.uniform(0.5, 1)
    half = [(0, -0.8 + rng.uniform(0, 0.3)), (neck, -0.95), (shoulder, -0.85), (reach, drop),
            (reach - cuff, drop + cuff * 0.7), (body, -0.35), (body * rng.uniform(0.9, 1.2), hem),
            (0, hem + rng.normal(0.02, 0.03))]  # fmt: skip
    return [_mirrored(rng, half)]


def _dress(rng: np.random.Generator) -> list[np.ndarray]:
    strap, bust, waist = rng.uniform(0.15, 0.35), rng.uniform(0.28, 0.42), rng.uniform(0.22, 0.38)
    half = [(0, -0.7 + rng.uniform(-0.1, 0.2)), (strap, -1), (bust, -0.7), (waist, -0.15),
            (rng.uniform(0.3, 0.8), rng.uniform(0.5, 1)), (0, 0.95)]  # fmt: skip
    return [_mirrored(rng, half)]


def _skirt(rng: np.random.Generator) -> list[np.ndarray]:
    waist, hem = rng.uniform(0.3, 0.45), (rng.uniform(0.4, 0.8), rng.uniform(0.1, 0.8))
    half = [(0, -0.6), (waist, -0.6), hem, (0, rng.uniform(0.4, 0.85))]
    return [_mirrored(rng, half)]


def _hat(rng: np.random.Generator) -> list[np.ndarray]:
    brim = rng.uniform(0.5, 0.95)
    half = [(0, -0.7), (0.35, -0.6), (0.5, 0.1), (brim, 0.25), (brim * 0.8, 0.5), (0, 0.55)]
    return [_mirrored(rng, half)]


def _bag(rng: np.random.Generator) -> list[np.ndarray]:
    wide, low = rng.uniform(0.45, 0.8), rng.uniform(0.4, 0.8)
    strap = [(0, -0.9), (wide * 0.6, -0.6), (wide * 0.65, -0.1), (wide * 0.55, -0.1),
             (wide * 0.5, -0.5), (0, -0.78)]  # fmt: skip
    half = [(0, -0.2), (wide * 0.9, -0.2), (wide, low * 0.8), (wide * 0.9, low), (0, low)]
    return [_mirrored(rng, strap, 0.01), _mirrored(rng, half)]


def _shoes(rng: np.random.Generator) -> list[np.ndarray]:
    long, wide, turn = rng.uniform(0.6, 0.9), rng.uniform(0.2, 0.34), rng.normal(0, 0.25)
    sole = p.ellipse(0, 0, wide, long, 0, 16)
    sole[:, 0] *= 1 + 0.25 * sole[:, 1]
    pair = [p.shifted(p.turned(sole * (side, 1), side * turn), side * rng.uniform(0.3, 0.5), 0)
            for side in (-1, 1)]  # fmt: skip
    if rng.random() < 0.4:
        return pair
    middles = [shoe.mean(0) for shoe in pair]
    insides = [(shoe - middle) * (0.6, 0.45) for shoe, middle in zip(pair, middles, strict=True)]
    return pair + [p.shifted(inside, x, y + 0.25)
                   for inside, (x, y) in zip(insides, middles, strict=True)]  # fmt: skip


CUTS = (_trousers, _trousers, _shirt, _shirt, _shirt, _dress, _skirt, _hat, _bag, _shoes)
