"""Places of emoji, words and shapes on pictures of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from iscutils.edits.record import shift
from iscutils.edits.stamps import EMOJI, WORD_WIDTH, word_bank
from iscutils.edits.tensor_geometry import Layer, Picture, corner_of, unit_colour


def _emoji_layer(picture: Picture, number: int, centre: tuple, side: float, values: Mapping):
    cosine, sine = math.cos(math.radians(values["turn"])), math.sin(math.radians(values["turn"]))
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, side / 2]]) * (2 / side)
    region = turn @ shift(-centre[0], -centre[1]) @ picture.matrix
    picture.layers.append(Layer("emoji", region, values["opacity"], index=number % EMOJI))


def _sticker(picture: Picture, values: Mapping) -> None:
    rng = np.random.default_rng(values["seed"])
    for _ in range(values["count"]):
        side = max(2, round(values["size"] * rng.uniform(0.6, 1.0) * min(picture.size)))
        number, x, y = int(rng.integers(2**31)), *rng.uniform(0, 1, 2)
        _emoji_layer(picture, number, (x * picture.size[0], y * picture.size[1]), side, values)


def _emoji(picture: Picture, values: Mapping) -> None:
    reference = picture.size[1] if values["units"] == "canvas" else min(picture.size)
    side, angle = max(2, round(values["size"] * reference)), math.radians(values["turn"])
    extent = side * (abs(math.cos(angle)) + abs(math.sin(angle)))
    x, y = corner_of((extent, extent), picture.size, values)
    _emoji_layer(picture, values["number"], (x + extent / 2, y + extent / 2), side, values)


def _write(
    picture: Picture, word: int, x: float, y: float, height: float, colour: tuple, opacity: float
) -> None:
    """Put one line of the word bank at a corner, its ink `height` px high."""
    bank = word_bank()
    region = picture.area(x, y, height * bank.ratio[word], height)
    share = bank.width[word] / WORD_WIDTH  # of the stored strip that has ink
    texture = np.array([[share, 0, share - 1], [0, 1, 0], [0, 0, 1.0]]) @ region
    colour = unit_colour(colour)
    picture.layers.append(
        Layer("word", region, opacity, texture=texture, index=word, colour=colour)
    )


def _text(picture: Picture, values: Mapping) -> None:
    rng, bank = np.random.default_rng(values["seed"]), word_bank()
    for _ in range(values["lines"]):
        word = int(rng.choice(bank.scripts[values["script"]]))
        height = max(2.0, bank.height[word] * values["size"] * min(picture.size))
        free = picture.size[0] - height * bank.ratio[word], picture.size[1] - height
        x, y = rng.uniform(0, 1, 2) * free
        _write(picture, word, x, y, height, values["colour"], values["opacity"])


def _glyphs(picture: Picture, values: Mapping) -> None:
    """Lines of a size near the wanted one from the bank: their letters are others."""
    rng, bank = np.random.default_rng(values["seed"]), word_bank()
    lines = bank.scripts[values["script"]]
    font = max(4.0, values["size"] * min(picture.size))
    # A glyph is about half as wide as the font is high; free lines are cut where they end.
    wanted = 0.5 * values["length"] * font
    if values["units"] == "free":
        wanted = min(wanted, picture.size[0])
    widths = bank.height[lines] * bank.ratio[lines] * font
    near = lines[np.argsort(np.abs(widths - wanted))[:6]]
    x, y = values["x"] * picture.size[0], values["y"] * picture.size[1]
    for line in range(values["lines"]):
        word = int(rng.choice(near))
        height = bank.height[word] * font
        size = height * bank.ratio[word], height + 1.25 * font * (values["lines"] - 1)
        if values["units"] == "free":
            x, y = corner_of(size, picture.size, values)
        top = y + 1.25 * font * line
        _write(picture, word, x, top, height, values["colour"], values["opacity"])


def _stripes(picture: Picture, values: Mapping) -> None:
    angle, short = math.radians(values["angle"]), min(picture.size)
    cosine, sine = math.cos(angle), math.sin(angle)
    wave = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, short / values["number"]]])
    # First coordinate: periods, counted from the middle of the first pixel
    region = wave * (values["number"] / short) @ shift(-0.5, -0.5) @ picture.matrix
    colour = unit_colour(values["colour"])
    picture.layers.append(
        Layer("stripes", region, values["opacity"], colour=colour, extra=values["width"])
    )


def _meme(picture: Picture, values: Mapping) -> None:
    width, height = picture.size
    bar = max(1, round(values["height"] * height))
    top, bottom = (bar * (values["place"] != other) for other in ("bottom", "top"))
    paper, ink = ((0,) * 3, (255,) * 3) if values["dark"] else ((255,) * 3, (0,) * 3)
    picture.extend(shift(0, top), (width, height + top + bottom), paper)
    rng, bank = np.random.default_rng(values["seed"]), word_bank()
    for used, middle in ((top, top / 2), (bottom, picture.size[1] - bottom / 2)):
        if used:
            word = int(rng.choice(bank.scripts[values["script"]]))
            ink_height = min(0.5 * bar * bank.height[word], 0.9 * bar,
                             0.9 * width / bank.ratio[word])  # fmt: skip
            left = (width - ink_height * bank.ratio[word]) / 2
            _write(picture, word, left, middle - ink_height / 2, ink_height, ink, 1.0)


def _erase(picture: Picture, values: Mapping) -> None:
    (width, height), ratio = picture.size, values["ratio"]
    total = values["area"] * width * height
    across = round(min(width, max(math.sqrt(total * ratio), total / height)))
    down = min(height, round(total / max(1, across)))
    if across and down:
        region = picture.area(*corner_of((across, down), picture.size, values), across, down)
        kind = "noise" if values["fill"] == "noise" else "plain"
        picture.layers.append(Layer(kind, region, colour=unit_colour(values["colour"])))


OVERLAYS = {
    "sticker": _sticker,
    "emoji": _emoji,
    "text": _text,
    "glyphs": _glyphs,
    "stripes": _stripes,
    "meme": _meme,
    "erase": _erase,
}
