"""Skies, level ground in perspective, water and towns at night."""

from __future__ import annotations

import cv2
import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.textures import SIDE, Surfaces, hsv, mix, near, sample, smoothstep

WHITE = np.float32([1, 1, 1])


_HOURS = {
    "day": ([0.22, 0.45, 0.80], [0.74, 0.86, 0.95], [1.0, 0.98, 0.92]),
    "morning": ([0.45, 0.62, 0.82], [0.98, 0.86, 0.74], [1.0, 0.90, 0.78]),
    "sunset": ([0.25, 0.25, 0.48], [0.98, 0.55, 0.28], [0.85, 0.58, 0.45]),
    "dusk": ([0.10, 0.12, 0.30], [0.62, 0.42, 0.55], [0.45, 0.40, 0.55]),
    "grey": ([0.55, 0.58, 0.62], [0.82, 0.83, 0.83], [0.80, 0.82, 0.84]),
    "storm": ([0.20, 0.23, 0.28], [0.60, 0.62, 0.58], [0.62, 0.64, 0.60]),
    "night": ([0.04, 0.06, 0.16], [0.18, 0.22, 0.38], [0.26, 0.30, 0.46]),
}


def sky(
    rng: np.random.Generator, height: int, width: int, surfaces: Surfaces
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sky whose last row is the horizon; the colours of the haze there and of light on land."""
    hour = list(_HOURS)[rng.integers(len(_HOURS))]
    zenith, haze, light = (near(rng, np.float32(c), 0.05) for c in _HOURS[hour])
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    picture = np.repeat(mix(zenith, haze, down ** rng.uniform(0.7, 1.8)), width, axis=1)
    y, x = np.ogrid[:height, :width]
    sun_x, sun_y = rng.uniform(0.05, 0.95) * width, rng.uniform(0.1, 0.95) * height
    far = np.hypot(x - sun_x, y - sun_y).astype(np.float32) / width
    if hour == "night":
        stars = rng.integers(0, (height, width), (int(rng.integers(40, 260)), 2))
        picture[stars[:, 0], stars[:, 1]] += rng.uniform(0.1, 0.9, (len(stars), 1))
        radius = rng.uniform(0.02, 0.06)
        picture += (0.85 * (1 - smoothstep(far, radius, radius + 0.006)))[..., None]
        picture += 0.12 * np.exp(-far / 0.08)[..., None]
    elif hour not in ("grey", "storm"):
        warm = mix(WHITE, haze, 0.4)
        picture += (0.55 * np.exp(-far / rng.uniform(0.08, 0.3)))[..., None] * warm
        picture += (1 - smoothstep(far, 0.02, 0.03))[..., None] * 0.6
    if rng.random() < 0.85:
        _clouds(rng, picture, surfaces, haze, light)
    return np.clip(picture, 0, 1), haze, light


def _clouds(rng, picture, surfaces, haze, light) -> None:
    """Clouds on a plane overhead: they shrink towards the horizon."""
    height, width = picture.shape[:2]
    noise = 0.65 * surfaces.soft + 0.35 * surfaces.rough
    depth = 1 / (1.12 - np.linspace(0, 1, height, dtype=np.float32))[:, None]
    zoom, across = rng.uniform(0.25, 0.7), rng.uniform(0, SIDE)
    x = (np.arange(width, dtype=np.float32)[None] - width / 2) * zoom * depth**0.7 + across
    y = np.broadcast_to(depth * rng.uniform(20, 50), x.shape) + rng.uniform(0, SIDE)
    maps = (x % SIDE).astype(np.float32), (y % SIDE).astype(np.float32)
    field = cv2.remap(noise, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    low = rng.uniform(0.3, 0.62)
    cover = smoothstep(field, low, low + rng.uniform(0.12, 0.35)) * rng.uniform(0.5, 0.95)
    dense = smoothstep(field, low + 0.05, low + 0.55)[..., None]
    lit, dark = mix(light, WHITE, 0.5), mix(haze, light * 0.5, 0.5)
    picture += (mix(lit, dark, dense) - picture) * cover[..., None]


def plane(
    rng: np.random.Generator,
    texture: np.ndarray,
    height: int,
    width: int,
    zoom: float = 1.0,
    turn: float | None = None,
) -> np.ndarray:
    """A texture on level ground seen from above it: row 0 is nearly the horizon."""
    depth = 1 / np.linspace(0.06, 1, height, dtype=np.float32)[:, None]
    x = (np.arange(width, dtype=np.float32)[None] - width * rng.uniform(0.3, 0.7)) * depth
    turn = rng.uniform(-0.6, 0.6) if turn is None else turn
    z = np.broadcast_to(depth * 130, x.shape)
    u = (np.cos(turn) * x - np.sin(turn) * z) * zoom + rng.uniform(0, SIDE)
    v = (np.sin(turn) * x + np.cos(turn) * z) * zoom + rng.uniform(0, SIDE)
    # Mirrored at the edges, so that textures need not be periodic.
    maps = [(np.abs(m % (2 * SIDE - 2) - (SIDE - 1))).astype(np.float32) for m in (u, v)]
    sharp = cv2.remap(texture, *maps, cv2.INTER_LINEAR)
    flat = cv2.remap(cv2.GaussianBlur(texture, (0, 0), 4), *maps, cv2.INTER_LINEAR)
    near_ = smoothstep(np.linspace(0, 1, height, dtype=np.float32), 0.05, 0.5)
    return mix(flat, sharp, near_.reshape(-1, *[1] * (texture.ndim - 1)))


def water(
    rng: np.random.Generator,
    canvas: np.ndarray,
    horizon: int,
    light: np.ndarray,
    surfaces: Surfaces,
) -> None:
    """Fill the canvas below the horizon with water that mirrors what is above it."""
    height, width = canvas.shape[:2]
    deep = height - horizon
    ripples = plane(rng, surfaces.streaks, deep, width, rng.uniform(0.6, 1.4), 0.0) - 0.5
    near_ = np.linspace(0, 1, deep, dtype=np.float32)[:, None]
    rows = horizon - 1 - np.arange(deep, dtype=np.float32)[:, None] * horizon / deep
    rows = np.clip(rows + ripples * (6 + 60 * near_), 0, horizon - 1)
    columns = np.arange(width, dtype=np.float32)[None] + ripples * 30 * near_
    mirrored = cv2.remap(
        canvas, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    body = hsv(rng.uniform(0.45, 0.6), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.5)) * light
    paint = mix(mirrored, body, (0.15 + 0.5 * near_)[..., None])
    paint *= (1 + 0.8 * ripples * near_)[..., None]
    canvas[horizon:] = np.clip(paint, 0, 1)


def night(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """Lights out of focus before a dark view, or the lit windows of a town across water."""
    horizon = int(height * rng.uniform(0.45, 0.9))
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, low = surfaces.colour(0, 0.3) * 0.45, surfaces.colour(0.2, 0.8) * 0.65
    canvas = np.repeat(mix(top, low, down), width, axis=1)
    canvas *= (0.8 + 0.5 * sample(surfaces.soft, rng, height, width))[..., None]
    x = 0.0
    while x < width:
        wide, tall = rng.uniform(0.05, 0.2) * width, rng.uniform(0.1, 0.75) * horizon
        wall = top * rng.uniform(0.3, 0.9)
        p.fill(canvas, p.box_points(x, horizon - tall, x + wide, horizon), wall)
        step, glow = rng.uniform(6, 12), hsv(rng.uniform(0.05, 0.16), rng.uniform(0.1, 0.6), 0.95)
        for wy in np.arange(horizon - tall + step, horizon - step, step):
            for wx in np.arange(x + step / 2, x + wide - step * 0.7, step):
                if rng.random() < 0.35:
                    rows = slice(int(wy), int(wy + step * 0.55))
                    canvas[rows, max(0, int(wx)) : int(wx + step * 0.5)] = glow * rng.uniform(
                        0.5, 1
                    )
        x += wide * rng.uniform(0.8, 1.2)
    water(rng, canvas, horizon, WHITE * 0.4, surfaces)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 4))
    size = rng.uniform(0.015, 0.06) * width
    for _ in range(int(rng.integers(0, 45))):
        disc = p.ellipse(
            rng.uniform(0, width),
            rng.normal(horizon, height * 0.2),
            *[size * rng.uniform(0.6, 1.5)] * 2,
        )
        colour = hsv(rng.choice([0.02, 0.09, 0.13, 0.35, 0.55, 0.9]), rng.uniform(0.2, 0.9), 1)
        if (box := p.region(disc, canvas.shape)) is not None:
            canvas[box] += p.coverage(disc, box)[..., None] * colour * rng.uniform(0.2, 0.7)
    return canvas
