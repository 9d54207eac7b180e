"""The ground on which a transparent picture is laid: the one on which it shows most."""

from __future__ import annotations

import numpy as np
from PIL import Image

GROUNDS = {"white": 255, "black": 0, "gray": 128}
SIDE = 512  # px; edges are counted on a picture of this long side at most
CLEAR = 64  # levels from which on an edge is as clear as it needs to be
BETTER = 1.25  # times as many edges another ground must show than white, as a web page has it


def on_ground(image: Image.Image) -> Image.Image:
    """RGB of a picture with transparency, laid on white, black or gray.

    White unless another ground shows clearly more edges: white marks vanish on white, and black and
    white ones are only seen together on gray. An opaque picture stays as it is.
    """
    image = image.convert("RGBA")
    if image.getextrema()[3][0] == 255:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, choose_ground(image))
    return Image.alpha_composite(ground, image).convert("RGB")


def choose_ground(image: Image.Image) -> str:
    """Name of the ground for an RGBA picture, see `on_ground`."""
    small = image.reduce(max(1, -(-max(image.size) // SIDE)))
    pixels = np.asarray(small, np.float32)
    alpha = pixels[..., 3:] / 255
    colour = pixels[..., :3] * alpha
    shown = {
        name: _edges(colour + value * (1 - alpha), outside=value) for name, value in GROUNDS.items()
    }
    best = max(shown, key=shown.get)
    return best if shown[best] > BETTER * shown["white"] else "white"


def _edges(picture: np.ndarray, outside: float) -> float:
    """Sum of the steps between neighbours of (H, W, 3), each at most `CLEAR`, the rim included."""
    picture = np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=outside)
    steps = (np.abs(np.diff(picture, axis=axis)).max(axis=2) for axis in (0, 1))
    return float(sum(np.minimum(step, CLEAR).sum() for step in steps))
