"""Small pictures to put on training views: words, faces and shapes, drawn once."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def stamp_bank(count: int = 96, side: int = 64) -> np.ndarray:
    """Words, faces and shapes on transparent ground, (count, 4, side, side) RGBA in [0, 1]."""
    rng = np.random.default_rng(0)
    stamps = [np.asarray(_draw_stamp(rng, index, side)) for index in range(count)]
    return np.stack(stamps).transpose(0, 3, 1, 2).astype(np.float32) / 255


def _draw_stamp(rng: np.random.Generator, index: int, side: int) -> Image.Image:
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    colour = (*(int(v) for v in rng.integers(0, 256, 3)), 255)
    box = (4, 4, side - 4, side - 4)
    kind = index % 3
    if kind == 0:  # one to four lines of letters
        letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!?&")
        lines = int(rng.integers(1, 5))
        font = ImageFont.load_default(size=int(side / lines * 0.8))
        for line in range(lines):
            word = "".join(rng.choice(letters, int(rng.integers(3, 9))))
            draw.text((2, line * side / lines), word, fill=colour, font=font)
    elif kind == 1:  # a round face
        draw.ellipse(box, fill=colour)
        dark = (*(value // 4 for value in colour[:3]), 255)
        for x in (0.35, 0.65):
            eye = (side * (x - 0.06), side * 0.3, side * (x + 0.06), side * 0.46)
            draw.ellipse(eye, fill=dark)
        smile = (side * 0.25, side * 0.35, side * 0.75, side * 0.8)
        draw.arc(smile, 20, 160, fill=dark, width=4)
    else:  # a polygon, or a bar as captions have
        corners = int(rng.integers(3, 9))
        turn = float(rng.uniform(0, 360))
        if rng.random() < 0.3:
            draw.rectangle((0, side // 3, side, 2 * side // 3), fill=colour)
        else:
            draw.regular_polygon((side / 2, side / 2, side / 2 - 4), corners, turn, fill=colour)
    return picture
