"""Streets: house fronts with windows and shops, cars, lamps."""

from __future__ import annotations

import cv2
import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.landscape import tree
from iscutils.datasets.drawing.objects import INK, PAPER
from iscutils.datasets.drawing.skies import plane, sky
from iscutils.datasets.drawing.textures import Surfaces, hsv, mix, near, sample


def facade(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """The front of a house: storeys of windows, perhaps balconies, a shop and its sign."""
    wall = surfaces.colour(0.25, 1)
    grain = sample(surfaces.rough, rng, height, width, 0.8)[..., None]
    picture = wall * (0.8 + 0.35 * grain)
    if rng.random() < 0.4:
        bricks = surfaces.photo(keep_colour=0.2)
        picture = mix(picture, sample(bricks, rng, height, width, 0.8, 0.0), rng.uniform(0.2, 0.7))
    columns, storeys = int(rng.integers(2, 6)), int(rng.integers(2, 6))
    shop = rng.random() < 0.6
    ground = height * (0.28 if shop else 0.12)
    pitch_x, pitch_y = width / columns, (height - ground) / storeys
    wide, tall = pitch_x * rng.uniform(0.35, 0.65), pitch_y * rng.uniform(0.45, 0.72)
    frame, arched = near(rng, PAPER, 0.1), rng.random() < 0.2
    balcony, shutters = rng.random() < 0.25, rng.random() < 0.3
    accent = surfaces.colour(0, 0.7)
    for row in range(storeys):
        y = row * pitch_y + (pitch_y - tall) * 0.55
        for column in range(columns):
            x = column * pitch_x + (pitch_x - wide) / 2
            _window(rng, picture, x, y, wide, tall, frame, arched)
            if shutters:
                for left in (x - wide * 0.4, x + wide * 1.05):
                    p.fill(picture, p.box_points(left, y, left + wide * 0.35, y + tall), accent)
            if balcony:
                rail = p.box_points(
                    x - wide * 0.2, y + tall * 0.65, x + wide * 1.2, y + tall * 1.05
                )
                p.fill(picture, rail, accent * 0.6, 0.75)
        line = p.box_points(0, (row + 1) * pitch_y - 2, width, (row + 1) * pitch_y)
        p.fill(picture, line, wall * 0.6, 0.5)
    p.fill(picture, p.box_points(0, 0, width, height * 0.025), wall * 0.5)
    if shop:
        _shop(rng, picture, ground, surfaces, accent)
    return np.clip(picture, 0, 1)


def _window(rng, picture, x, y, wide, tall, frame, arched) -> None:
    edge = max(1.0, wide * 0.08)
    p.fill(picture, p.box_points(x - edge, y - edge, x + wide + edge, y + tall + edge), frame)
    if arched:
        p.fill(picture, p.ellipse(x + wide / 2, y, wide / 2 + edge, wide / 2), frame)
        p.fill(picture, p.ellipse(x + wide / 2, y, wide / 2, wide / 2 - edge), frame * 0.4)
    glass = hsv(0.58, rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.5))
    if rng.random() < 0.2:
        glass = hsv(0.12, rng.uniform(0.2, 0.6), rng.uniform(0.6, 0.95))
    p.fill(picture, p.box_points(x, y, x + wide, y + tall), glass)
    shine = np.array([(x, y + tall * 0.6), (x + wide * 0.8, y), (x + wide, y), (x, y + tall)])
    p.fill(picture, shine, np.float32([0.8, 0.87, 0.95]), rng.uniform(0, 0.35))
    if rng.random() < 0.35:  # a curtain
        p.fill(picture, p.box_points(x, y, x + wide * rng.uniform(0.2, 0.5), y + tall), frame, 0.6)
    bar = p.box_points(x + wide / 2 - edge / 3, y, x + wide / 2 + edge / 3, y + tall)
    p.fill(picture, bar, frame)
    p.fill(picture, p.box_points(x, y + tall * 0.4, x + wide, y + tall * 0.4 + edge / 1.5), frame)
    p.shade(
        picture,
        p.box_points(x - edge, y + tall + edge, x + wide + edge, y + tall + 3 * edge),
        1,
        0.4,
    )


def _shop(rng, picture, ground, surfaces, accent) -> None:
    height, width = picture.shape[:2]
    top = height - ground
    p.fill(
        picture, p.box_points(width * 0.04, top + ground * 0.3, width * 0.7, height * 0.985), INK
    )
    goods = cv2.resize(surfaces.texture(), (80, 50)) * 0.8
    corners = p.box_points(width * 0.06, top + ground * 0.35, width * 0.68, height * 0.96)
    p.project(picture, goods, corners, rng.uniform(0.4, 0.9))
    p.fill(
        picture, p.box_points(width * 0.75, top + ground * 0.3, width * 0.94, height), accent * 0.7
    )
    p.fill(picture, p.box_points(width * 0.02, top, width * 0.98, top + ground * 0.27), accent)
    ink = PAPER if accent.mean() < 0.5 else INK
    text = p.words(rng, int(rng.integers(1, 3))).upper()
    size = ground * 0.2
    p.write(
        picture,
        text,
        width * 0.08,
        top + ground * 0.01,
        size,
        ink,
        int(rng.integers(3)),
        width * 0.84,
    )
    if rng.random() < 0.5:  # an awning
        stripes = np.repeat(np.stack([accent, PAPER] * 6)[None], 8, 0)
        corners = [(width * 0.04, top + ground * 0.27), (width * 0.72, top + ground * 0.27),
                   (width * 0.76, top + ground * 0.48), (0, top + ground * 0.48)]  # fmt: skip
        p.project(picture, cv2.resize(stripes, (96, 16), interpolation=cv2.INTER_NEAREST), corners)


def street(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """House fronts from across the road, or along both sides of it; cars, lamps, trees."""
    horizon = int(height * rng.uniform(0.55, 0.8))
    upper, haze, light = sky(rng, horizon, width, surfaces)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:horizon], canvas[horizon:] = upper, haze
    bright = np.clip(light * 1.15, 0.35, 1)
    if rng.random() < 0.55:
        road = _front_row(rng, canvas, horizon, bright, surfaces)
    else:
        road = _canyon(rng, canvas, horizon, bright, surfaces)
    for _ in range(int(rng.integers(0, 4))):
        size = height * rng.uniform(0.08, 0.2)
        car(
            rng,
            canvas,
            rng.uniform(0, width),
            mix(road, height, rng.uniform(0.35, 0.95)),
            size,
            surfaces,
        )
    for _ in range(int(rng.integers(0, 3))):
        x, tall = rng.uniform(0, width), height * rng.uniform(0.3, 0.6)
        if rng.random() < 0.5:
            leaf = hsv(rng.uniform(0.1, 0.4), 0.6, 0.5) * bright
            tree(rng, canvas, x, mix(road, height, 0.15), tall, leaf)
        else:
            p.fill(canvas, p.box_points(x, road - tall, x + 3, road + 6), INK)
            p.fill(canvas, p.ellipse(x + 1.5, road - tall, 7, 8), hsv(0.13, 0.3, 1))
    return canvas


def _front_row(rng, canvas, horizon, light, surfaces) -> int:
    height, width = canvas.shape[:2]
    x, foot = -rng.uniform(0, 0.2) * width, horizon + height * 0.08
    fronts = [facade(rng, 230, 190, surfaces) for _ in range(3)]
    while x < width:
        wide, tall = width * rng.uniform(0.25, 0.55), foot * rng.uniform(0.5, 1.02)
        picture = fronts[rng.integers(3)] * (light * rng.uniform(0.8, 1.1))
        p.project(canvas, picture, p.box_points(x, foot - tall, x + wide, foot))
        if rng.random() < 0.4:
            roof = np.array([(x - 3, foot - tall), (x + wide / 2, foot - tall - wide * 0.3),
                             (x + wide + 3, foot - tall)])  # fmt: skip
            p.fill(canvas, roof, surfaces.colour(0, 0.5) * light)
        x += wide
    foot = int(foot)
    deep = height - foot
    canvas[foot:] = asphalt(rng, deep, width, surfaces) * light
    kerb = max(2, deep // 4)
    canvas[foot : foot + kerb] *= 1.35
    canvas[foot + kerb : foot + kerb + 2] *= 0.6
    for x in np.arange(rng.uniform(-60, 0), width, 70):
        y = foot + deep * 0.65
        dash = np.array([(x, y), (x + 36, y), (x + 34, y + deep * 0.05), (x - 2, y + deep * 0.05)])
        p.fill(canvas, dash, PAPER * light, 0.8)
    return foot


def _canyon(rng, canvas, horizon, light, surfaces) -> int:
    """Houses on both sides that run to a vanishing point."""
    height, width = canvas.shape[:2]
    vanish = np.array([width * rng.uniform(0.3, 0.7), horizon])
    canvas[horizon:] = asphalt(rng, height - horizon, width, surfaces) * light
    fronts = [facade(rng, 200, 170, surfaces) for _ in range(3)]
    for side in (-1, 1):
        edge = 0 if side < 0 else width
        reach = abs(edge - vanish[0])
        shares = [1.25]
        while shares[-1] > 0.12:
            shares.append(shares[-1] * rng.uniform(0.5, 0.72))
        for near_, far in zip(shares[:-1][::-1], shares[1:][::-1], strict=True):
            tall = rng.uniform(0.8, 1.5) * height * 0.75
            front = fronts[rng.integers(3)] * light * (0.75 if side < 0 else 1.0)
            xs = [vanish[0] + side * reach * s for s in (near_, far)]
            low = [horizon + (height - horizon) * 0.62 * s for s in (near_, far)]
            top = [horizon - tall * s for s in (near_, far)]
            a, b = (0, 1) if side < 0 else (1, 0)
            corners = [(xs[a], top[a]), (xs[b], top[b]), (xs[b], low[b]), (xs[a], low[a])]
            p.project(canvas, front, np.float32(corners))
    for share in (0.1, 0.2, 0.4, 0.8):
        y0, y1 = (horizon + (height - horizon) * s for s in (share, share * 1.4))
        wide = width * 0.012
        far, close = wide * share, wide * share * 1.4
        dash = p.shifted([(-far, y0), (far, y0), (close, y1), (-close, y1)], vanish[0], 0)
        p.fill(canvas, dash, PAPER * light, 0.8)
    return horizon


def asphalt(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """A road surface in perspective."""
    gray = plane(rng, surfaces.rough, height, width, 1.2)[..., None]
    stains = plane(rng, surfaces.soft, height, width, 0.3)[..., None]
    base = near(rng, np.float32([0.36, 0.36, 0.38]), 0.06)
    return base * (0.55 + 0.5 * gray + 0.4 * stains)


def car(
    rng: np.random.Generator,
    canvas: np.ndarray,
    x: float,
    base: float,
    size: float,
    surfaces: Surfaces,
) -> None:
    """A car from the side, `size` px high."""
    colour, way = surfaces.colour(0.1, 1), -1 if rng.random() < 0.5 else 1

    def shape(points):  # in units of the car's height
        return p.shifted(np.array(points) * (size * way, size), x, base)

    p.shade(canvas, p.ellipse(x, base, size * 1.5, size * 0.14), size * 0.07, 0.7)
    body = shape([(-1.4, -0.18), (-1.38, -0.52), (-0.95, -0.6), (-0.6, -0.97), (0.35, -1.0),
                  (0.75, -0.62), (1.3, -0.52), (1.42, -0.18)])  # fmt: skip
    p.solid(canvas, body, colour, (0, -1.0), 0.5, 0.15)
    for pane in ([(-0.85, -0.6), (-0.55, -0.9), (-0.15, -0.92), (-0.15, -0.6)],
                 [(-0.07, -0.6), (-0.07, -0.92), (0.3, -0.92), (0.6, -0.6)]):  # fmt: skip
        p.fill(canvas, shape(pane), np.float32([0.15, 0.2, 0.26]))
    for wheel in (-0.85, 0.85):
        p.fill(
            canvas, p.ellipse(x + wheel * size, base - size * 0.18, size * 0.25, size * 0.25), INK
        )
        p.fill(
            canvas,
            p.ellipse(x + wheel * size, base - size * 0.18, size * 0.13, size * 0.13),
            PAPER * 0.7,
        )
    p.fill(
        canvas, shape([(1.3, -0.46), (1.4, -0.44), (1.4, -0.32), (1.3, -0.34)]), hsv(0.14, 0.3, 1)
    )
