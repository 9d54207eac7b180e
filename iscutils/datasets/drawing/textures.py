"""Colours and surfaces of the procedural scenes: palettes, fractal noise, fabrics, photographs.

Textures are (H, W, 3) float32 RGB in [0, 1]; noises (H, W) float32 in [0, 1].
"""

from __future__ import annotations

import colorsys
from functools import lru_cache

import cv2
import numpy as np

from iscutils.datasets.photographs import TEXTURES, photograph, photograph_names

SIDE = 256  # of a base texture, px
LUMA = np.float32([0.299, 0.587, 0.114])  # ITU-R BT.601
_SCHEMES = {  # offsets of hue (turns), saturation range, value range
    "analogous": ((0, 0.04, 0.08, -0.05, 0.12), (0.25, 0.75), (0.25, 0.95)),
    "complement": ((0, 0.03, 0.5, 0.53, 0.06), (0.2, 0.8), (0.25, 0.95)),
    "triad": ((0, 0.33, 0.67, 0.05, 0.36), (0.25, 0.8), (0.3, 0.95)),
    "muted": ((0, 0.1, 0.5, 0.6, 0.2), (0.05, 0.35), (0.2, 0.95)),
    "vivid": ((0, 0.15, 0.33, 0.55, 0.8), (0.6, 1.0), (0.45, 1.0)),
    "pastel": ((0, 0.2, 0.4, 0.6, 0.85), (0.15, 0.4), (0.75, 1.0)),
}

_HUES = (0.4, 0.2, 0.4)  # shares of warm, blue and any leading hue


def palette(rng: np.random.Generator, count: int = 6) -> np.ndarray:
    """(count, 3) colours that go together, dark to light, by a random scheme of hues."""
    offsets, saturation, value = _SCHEMES[list(_SCHEMES)[rng.integers(len(_SCHEMES))]]
    # Photographs have more wood, skin, earth and sky than purple and green.
    hue = (rng.normal(0.075, 0.04), rng.normal(0.58, 0.05), rng.random())[rng.choice(3, p=_HUES)]
    values = np.linspace(*value, count) + rng.normal(0, 0.05, count)
    colours = [
        colorsys.hsv_to_rgb(
            (hue + offsets[rng.integers(len(offsets))] + rng.normal(0, 0.015)) % 1,
            rng.uniform(*saturation),
            float(np.clip(v, 0.05, 1)),
        )
        for v in values
    ]
    colours = np.float32(colours)
    return colours[np.argsort(colours @ LUMA)]


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour (3,) of a hue in turns (any number), saturation and value (clipped to [0, 1])."""
    return np.float32(
        colorsys.hsv_to_rgb(hue % 1, min(1, max(0, saturation)), min(1, max(0, value)))
    )


def near(rng: np.random.Generator, colour: np.ndarray, spread: float = 0.06) -> np.ndarray:
    """A colour (3,) close to the given one."""
    shift = rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    return np.clip(colour + shift, 0, 1).astype(np.float32)


def mix(a: np.ndarray, b: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """a where share is 0, b where it is 1; broadcasting."""
    return a + (b - a) * share


def smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=8)
def _frequencies(side: int, stretch: float) -> np.ndarray:
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    radius = np.hypot(rows, columns * stretch)
    radius[0, 0] = 1
    return radius


def fractal(
    rng: np.random.Generator, slope: float = 2.0, stretch: float = 1.0, side: int = SIDE
) -> np.ndarray:
    """Periodic (side, side) noise with power spectrum f^-slope; photographs have about 2.

    `stretch` above 1 gives horizontal streaks.
    """
    white = rng.standard_normal((side, side), dtype=np.float32)
    spectrum = np.fft.rfft2(white) * _frequencies(side, stretch) ** (-slope / 2)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(side, side)).astype(np.float32)
    return np.clip(0.5 + 0.21 * noise / noise.std(), 0, 1)


def sample(
    texture: np.ndarray,
    rng: np.random.Generator,
    height: int,
    width: int,
    zoom: float = 1.0,
    angle: float | None = None,
) -> np.ndarray:
    """A (height, width) piece of a texture or noise from a random place, mirrored at its edges."""
    angle = rng.uniform(0, 2 * np.pi) if angle is None else angle
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    x, y = rng.uniform(0, texture.shape[1]), rng.uniform(0, texture.shape[0])
    matrix = np.float32([[cosine, -sine, x], [sine, cosine, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REFLECT_101
    return cv2.warpAffine(texture, matrix, (width, height), flags=flags, borderMode=border)


def tinted(noise: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Noise (H, W) as colours: 0 is the first of the (n, 3) colours, 1 the last, linear between."""
    positions = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), positions, c) for c in colours.T], -1)
    return table.astype(np.float32)[(noise * 255).astype(np.uint8)]


class Surfaces:
    """What one scene is painted with: a palette, noises, textures, pictures to hang and print."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.colours = palette(rng)
        self.soft = fractal(rng, rng.uniform(2.6, 3.4))
        self.rough = fractal(rng, rng.uniform(1.6, 2.2))
        self.streaks = fractal(rng, 2.0, stretch=10)
        self._textures: list[np.ndarray] = []
        self.pictures: list[np.ndarray] = []

    def colour(self, low: float = 0, high: float = 1) -> np.ndarray:
        """A colour (3,) near one of the palette's, between two ranks of lightness in [0, 1]."""
        place = self.rng.uniform(low, high) * (len(self.colours) - 1)
        return near(self.rng, self.colours[round(place)], 0.04)

    def texture(self) -> np.ndarray:
        """One of up to five textures of this scene, (SIDE, SIDE, 3)."""
        if len(self._textures) < 5 and (not self._textures or self.rng.random() < 0.5):
            self._textures.append(self._new_texture())
        return self._textures[self.rng.integers(len(self._textures))]

    def piece(self, height: int, width: int, zoom: float = 1.0) -> np.ndarray:
        """A (height, width, 3) piece of one of the textures."""
        return sample(self.texture(), self.rng, height, width, zoom)

    def _new_texture(self) -> np.ndarray:
        kinds = (self.photo, self.photo, self.stone, self.wood, self.fabric, self.plain)
        return kinds[self.rng.integers(len(kinds))]()

    def photo(self, keep_colour: float = 0.45) -> np.ndarray:
        """A piece of a packaged photograph, in its colours or in those of the scene."""
        names = photograph_names(TEXTURES)
        if not names:
            return self.stone()
        pixels = photograph(TEXTURES, names[self.rng.integers(len(names))])
        limit = min(pixels.shape[:2])
        side = int(self.rng.integers(min(limit, 110), min(limit, 420) + 1))
        y = self.rng.integers(pixels.shape[0] - side + 1)
        x = self.rng.integers(pixels.shape[1] - side + 1)
        piece = (
            cv2.resize(pixels[y : y + side, x : x + side], (SIDE, SIDE)).astype(np.float32) / 255
        )
        if self.rng.random() < 0.5:
            piece = piece[:, ::-1]
        if self.rng.random() < keep_colour:
            return np.ascontiguousarray(piece)
        gray = piece @ LUMA
        low, high = np.percentile(gray[::4, ::4], (1, 99))
        return tinted(np.clip((gray - low) / (high - low + 0.05), 0, 1), self._shades())

    def _shades(self) -> np.ndarray:
        base = self.colour(0.3, 0.9)
        light = mix(base, np.float32([1, 0.98, 0.92]), self.rng.uniform(0.3, 0.8))
        return np.stack([base * self.rng.uniform(0.15, 0.5), base, light])

    def stone(self) -> np.ndarray:
        """Veined or speckled stone, plaster or earth."""
        noise = self.rough if self.rng.random() < 0.5 else self.soft
        if self.rng.random() < 0.4:  # veins
            waves = np.sin(self.soft * self.rng.uniform(15, 40) + 3 * self.rough)
            noise = 1 - np.abs(waves) ** self.rng.uniform(0.3, 1)
        return tinted(noise, self._shades())

    def wood(self) -> np.ndarray:
        """Boards with grain along x."""
        grain = 0.5 + 0.5 * np.sin(self.soft.T * 12 + self.streaks * self.rng.uniform(8, 16))
        light = self.rng.uniform(0.35, 0.85)
        base = hsv(self.rng.uniform(0.04, 0.11), self.rng.uniform(0.25, 0.7), light)
        wood = tinted(0.65 * self.streaks + 0.35 * grain, np.stack([base * 0.5, base, base * 1.25]))
        boards = int(self.rng.integers(2, 7))
        for board in range(boards):
            y0, y1 = board * SIDE // boards, (board + 1) * SIDE // boards
            wood[y0:y1] = np.roll(wood[y0:y1], int(self.rng.integers(SIDE)), 1)
            wood[y0:y1] *= self.rng.uniform(0.8, 1.1)
            wood[y0 : y0 + 2] *= 0.45
        return np.clip(wood, 0, 1)

    def fabric(self) -> np.ndarray:
        """Stripes, checks or dots of two or three colours, with threads and folds."""
        y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
        period = SIDE / self.rng.integers(4, 17)
        a, b = self.colour(0, 1), self.colour(0, 1)
        if np.abs(a - b).sum() < 0.5:
            b = np.clip(1 - b, 0.05, 0.95)
        phase_x, phase_y = x % period / period, y % period / period
        kind = self.rng.integers(4)
        if kind == 0:
            share = (phase_x < self.rng.uniform(0.2, 0.7)).astype(np.float32)
        elif kind == 1:
            share = ((phase_x < 0.5) * 0.5 + (phase_y < 0.5) * 0.5).astype(np.float32)
        elif kind == 2:
            radius = self.rng.uniform(0.15, 0.4)
            share = 1 - smoothstep(np.hypot(phase_x - 0.5, phase_y - 0.5), radius, radius + 0.06)
        else:  # waves
            share = smoothstep(np.sin((y + 6 * np.sin(x / period * 4)) / period * 6.3), -0.2, 0.2)
        cloth = mix(a, b, share[..., None])
        threads = 0.96 + 0.04 * np.sin(x * 2.1) * np.sin(y * 2.1)
        return np.clip(cloth * (threads * (0.8 + 0.4 * self.soft))[..., None], 0, 1)

    def plain(self) -> np.ndarray:
        """One colour with faint unevenness: paint, plastic, sand."""
        unevenness = 0.93 + 0.1 * self.rough + 0.04 * self.soft
        return np.clip(self.colour(0.1, 1) * unevenness[..., None], 0, 1)
