"""Procedural scenes: any number of different pictures, each from two numbers alone.

The idea is old in vision research (dead leaves, fractal skies): such pictures share what counts of
the statistics of photographs - edges, occlusion, a power spectrum near f^-2 - and of any number of
them no two show the same.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from iscutils.datasets.drawing import foliage, landscape, patterns, people, prints, rooms, skies
from iscutils.datasets.drawing.streets import street
from iscutils.datasets.drawing.textures import LUMA, Surfaces, mix
from iscutils.datasets.photographs import PARTS

VERSION = 1  # raise it when the drawing changes: it is part of the key of generated images
LAYOUTS = {  # how often each is drawn
    landscape.landscape: 5,
    foliage.foliage: 2,
    foliage.scatter: 3,
    skies.night: 1,
    rooms.still_life: 4,
    street: 4,
    rooms.room: 3,
    people.figure: 2,
    prints.poster: 3,
    prints.page: 2,
    patterns.mosaic: 2,
    patterns.collage: 3,
}
_SHARES = np.cumsum(list(LAYOUTS.values())) / sum(LAYOUTS.values())
_RATIOS = (1, 5 / 4, 4 / 3, 4 / 3, 3 / 2, 3 / 2, 16 / 9)


def scene_index(part: str, number: int) -> int:
    """Index of scene `number` (from 0) of a part: those of the three parts never meet."""
    return number * len(PARTS) + PARTS.index(part)


def draw_scene(seed: int, index: int) -> Image.Image:
    """Scene `index` as PIL RGB, long side 320 to 480 px; the same bytes for the same numbers."""
    rng = np.random.default_rng([seed, index])
    height, width = frame(rng, int(rng.integers(320, 481)))
    surfaces = Surfaces(rng)
    layout = list(LAYOUTS)[np.searchsorted(_SHARES, rng.random())]
    return photographed(rng, layout(rng, height, width, surfaces))


def frame(rng: np.random.Generator, long_side: int) -> tuple[int, int]:
    """Height and width in px of a picture in one of the usual formats, three of ten upright."""
    height, width = round(long_side / _RATIOS[rng.integers(len(_RATIOS))]), long_side
    return (width, height) if rng.random() < 0.3 else (height, width)


def photographed(rng: np.random.Generator, canvas: np.ndarray) -> Image.Image:
    """A canvas (H, W, 3) as a camera shows it, PIL RGB; see `develop`."""
    return Image.fromarray((develop(rng, canvas) * 255 + 0.5).astype(np.uint8))


def develop(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """What a camera adds to a canvas (H, W, 3): exposure, white balance, tone curve, vignetting,
    softness and grain; a few pictures become black and white or sepia. Values in [0, 1].
    """
    height, width = canvas.shape[:2]
    canvas = np.clip(canvas, 0, 1).astype(np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    balance = 1 + rng.normal(0, 0.035, 3).astype(np.float32)
    canvas *= (1 - np.float32(rng.uniform(0, 0.22)) * (x * x + y * y))[..., None] * balance
    canvas = _tone(rng, canvas)
    if rng.random() < 0.06:
        sepia = np.float32([1, 0.9, 0.74]) if rng.random() < 0.4 else np.ones(3, np.float32)
        canvas = (canvas @ LUMA)[..., None] * sepia
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.75))
    grain = rng.standard_normal((height, width), dtype=np.float32)
    canvas += np.float32(rng.uniform(0.002, 0.018)) * grain[..., None]
    return np.clip(canvas, 0, 1)


def _tone(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    light = canvas[::4, ::4] @ LUMA
    # Towards the full range and a usual exposure, not all the way: a night stays dark, mist pale.
    dark, bright = np.percentile(light, (1, 99))
    black = dark * rng.uniform(0.3, 0.9)
    white = max(mix(bright, 1, rng.uniform(0.1, 0.6)), black + 0.3)
    levels = np.clip((np.linspace(0, 1, 256) - black) / (white - black), 0, 1)
    mean = float(np.clip((light.mean() - black) / (white - black), 0.02, 0.95))
    gamma = (np.log(rng.uniform(0.36, 0.56)) / np.log(mean)) ** 0.6
    curve = levels ** float(np.clip(gamma, 0.45, 1.8))
    curve = mix(curve, curve * curve * (3 - 2 * curve), rng.uniform(0, 0.6))  # contrast
    curve = rng.uniform(0, 0.04) + curve * rng.uniform(0.94, 1)
    return curve.astype(np.float32)[(np.clip(canvas, 0, 1) * 255).astype(np.uint8)]
