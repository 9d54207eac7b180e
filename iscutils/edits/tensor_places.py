"""Places of everything a recipe may draw: moves of the registry, compositions, overlays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from iscutils.edits.record import scaling, shift
from iscutils.edits.registry import REGISTRY
from iscutils.edits.tensor_geometry import SQUARE, Layer, Picture, corner_of
from iscutils.edits.tensor_overlays import OVERLAYS

LOSSY = {"resize", "resized_crop", "squash", "fit"}  # moves that may leave fewer pixels


def place(picture: Picture, name: str, values: Mapping[str, Any]) -> None:
    """Add one geometric, overlay or composition operation of a picture to its plan."""
    if name in PLACES:
        PLACES[name](picture, values)
        return
    move = REGISTRY[name].move(picture.size, **values)
    if "fill" in values and values.get("canvas") != "inner":
        picture.extend(move.matrix, move.size, move.fill)
    else:
        picture.move(move.matrix, move.size)
    if name in LOSSY:
        picture.coarse.append(picture.matrix)


def can_place(name: str) -> bool:
    """Whether `place` knows an operation."""
    return name in PLACES or REGISTRY[name].move is not None


def _fitted(size: tuple, canvas: tuple, values: Mapping) -> tuple[int, int]:
    """Size of a picture that fills a share of a canvas: of its tighter side, or height."""
    if values.get("units") == "canvas":
        scale = values["size"] * canvas[1] / size[1]
    else:
        scale = values["size"] * min(canvas[0] / size[0], canvas[1] / size[1])
    return tuple(max(1, round(side * scale)) for side in size)


def _cover(picture: Picture, x: float, y: float, width: float, height: float) -> np.ndarray:
    """Texture of the middle of a donor that fills a rectangle of the canvas."""
    scale = max(width / picture.source[0], height / picture.source[1])
    part = width / scale / picture.source[0], height / scale / picture.source[1]
    return np.diag([*part, 1.0]) @ picture.area(x, y, width, height)


def _paste(picture: Picture, values: Mapping) -> None:
    canvas, former = picture.source, picture.area(0, 0, *picture.size)
    new = _fitted(picture.size, canvas, values)
    matrix = shift(*corner_of(new, canvas, values)) @ scaling(picture.size, new)
    picture.move(matrix, canvas)
    picture.layers.append(
        Layer("photo", former, 1 - values["opacity"], 1.0, picture.area(0, 0, *canvas),
              picture.donor(values["donor"]))
    )  # fmt: skip


def _underlay(picture: Picture, values: Mapping) -> None:
    new = _fitted(picture.source, picture.size, values)
    region = picture.area(*corner_of(new, picture.size, values), *new)
    rounded = 0.4 * min(new) / new[0], 0.4 * min(new) / new[1]
    radii = {"rectangle": SQUARE, "rounded": rounded, "ellipse": (1.0, 1.0)}[values["shape"]]
    picture.layers.append(
        Layer("photo", region, values["opacity"], index=picture.donor(values["donor"]),
              radii=radii, soft=2 * values.get("feather", 0.0))
    )  # fmt: skip


def _opacity(picture: Picture, values: Mapping) -> None:
    texture = _cover(picture, 0, 0, *picture.size)
    shares = [1 - values["own"], values["second"]]
    for number, share in enumerate(shares if values["second"] else shares[:1]):
        index = picture.donor(values["donor"] + number)
        picture.layers.append(Layer("photo", texture, share, share, index=index))


def _blurred_mask(picture: Picture, values: Mapping) -> None:
    # The same field as the edit of a single picture.
    field = np.random.default_rng(values["seed"]).standard_normal((6, 6)).astype(np.float32)
    field = cv2.resize(field, (64, 64), interpolation=cv2.INTER_CUBIC)
    threshold = np.quantile(field, 1 - values["cover"])
    soft = 0.5 + (field - threshold) / (6 * values["softness"] * field.std())
    picture.layers.append(
        Layer("mask", picture.area(0, 0, *picture.size),
              texture=_cover(picture, 0, 0, *picture.size),
              index=picture.donor(values["donor"]), extra=np.clip(soft, 0, 1))
    )  # fmt: skip


def _collage(picture: Picture, values: Mapping) -> None:
    width, height = picture.size
    gap = round(values["gap"] * min(picture.size))
    if values["layout"] == "grid":
        size, slot = (2 * width + gap, 2 * height + gap), values["seed"] % 4
        corners = [((i % 2) * (width + gap), (i // 2) * (height + gap)) for i in range(4)]
        tiles = [(*corner, width, height) for corner in corners]
    else:
        size, slot, tiles = _pair(picture, values["layout"], gap)
    picture.extend(shift(*tiles[slot][:2]), size, values["fill"])
    others = [tile for i, tile in enumerate(tiles) if i != slot]
    for number, tile in enumerate(others):
        index = picture.donor(values["donor"] + number)
        layer = Layer("photo", picture.area(*tile), texture=_cover(picture, *tile), index=index)
        picture.layers.append(layer)


def _pair(picture: Picture, layout: str, gap: int) -> tuple[tuple, int, list[tuple]]:
    """Canvas, own slot and the two tiles (x, y, width, height) of a side-by-side collage."""
    axis = 0 if layout in ("left", "right") else 1
    length, across, other = picture.size[axis], picture.size[1 - axis], picture.source
    second = across * other[axis] / other[1 - axis]
    second = max(1, round(min(max(second, 0.5 * length), 2 * length)))
    slot = 0 if layout in ("left", "top") else 1
    spans = (length, second) if slot == 0 else (second, length)
    total, starts = length + gap + second, (0, spans[0] + gap)
    tiles = [(start, 0, span, across) for start, span in zip(starts, spans, strict=True)]
    if axis:
        tiles = [(y, x, height, width) for x, y, width, height in tiles]
    return ((total, across) if axis == 0 else (across, total)), slot, tiles


PLACES: dict[str, Callable[[Picture, Mapping], None]] = {
    **OVERLAYS,
    "paste": _paste,
    "underlay": _underlay,
    "opacity": _opacity,
    "blurred_mask": _blurred_mask,
    "collage": _collage,
}
