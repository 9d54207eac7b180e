"""Colour edits of whole batches: what a picture drew, in the order it drew it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from iscutils.edits.photometric import SEPIA
from iscutils.edits.registry import REGISTRY
from iscutils.edits.tensor_layers import pieces, to_device

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Edits that treat every channel value, or every luminance, by a table of its own.
TABLES = ("invert", "channel_invert", "posterise", "solarise", "gamma", "channel_gamma", "darken",
          "temperature")  # fmt: skip
SHADES = ("colour_map", "duotone", "two_colour")
SINGLE = {"brightness": "factor", "contrast": "factor", "saturation": "factor", "hue": "turn"}
NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
KINDS = {
    **dict.fromkeys(TABLES, "table"),
    **dict.fromkeys(SHADES, "shade"),
    **dict.fromkeys(("jitter", "gray", *SINGLE), "jitter"),
    "channel_shuffle": "mix",
    "sepia": "mix",
    "equalise": "equalise",
}
Values = Mapping[str, Any]


def recolour(views: torch.Tensor, drawn: list[list[tuple[str, Values]]]) -> None:
    """Apply the colour operations `drawn` for each of the views (B, 3, S, S), in place."""
    for level in range(max((len(operations) for operations in drawn), default=0)):
        groups: dict[str, list[int]] = {}
        for row, operations in enumerate(drawn):
            if len(operations) > level:
                groups.setdefault(KINDS[operations[level][0]], []).append(row)
        for kind, members in groups.items():
            for rows in pieces(members, views.device):
                where = to_device(rows, views.device)
                operations = [drawn[row][level] for row in rows]
                views[where] = EDITS[kind](views[where], operations).clamp_(0, 1)


def _jitter(views: torch.Tensor, operations: list) -> torch.Tensor:
    factors = np.array([list(_factors(*operation).values()) for operation in operations])
    turning = np.flatnonzero(factors[:, 3])
    columns = to_device(factors, views.device).T[..., None, None, None]
    brightness, contrast, saturation, hue = columns  # (n, 1, 1, 1) each
    views = (views * brightness).clamp_(0, 1)  # in place: memory is what costs time here
    middle = _luminance(views).mean((2, 3), keepdim=True)
    views = views.mul_(contrast).add_((1 - contrast) * middle).clamp_(0, 1)
    gray = _luminance(views)
    views = views.mul_(saturation).add_((1 - saturation) * gray).clamp_(0, 1)
    if len(turning):
        rows = to_device(turning, views.device)
        views[rows] = turn_hue(views[rows], hue[rows])
    return views


def _factors(name: str, values: Values) -> Values:
    if name == "gray":
        return NEUTRAL | {"saturation": 0.0}
    if name in SINGLE:
        return NEUTRAL | {name: values[SINGLE[name]]}
    return {key: values[key] for key in NEUTRAL}


def turn_hue(views: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Views (n, 3, S, S) with hues moved by turns (n, 1, 1, 1); value and saturation stay."""
    red, green, blue = views.unbind(1)
    value, least = views.amax(1), views.amin(1)
    chroma = value - least
    safe = chroma.clamp(min=1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector.add_(6 * turn[:, 0]).div_(6)
    sector = sector.sub_(sector.floor()).mul_(6)  # 0..6, sixths of the circle
    shares = (sector - 3).abs_().sub_(1), 2 - (sector - 2).abs_(), 2 - (sector - 4).abs_()
    return torch.stack([torch.addcmul(least, chroma, x.clamp_(0, 1)) for x in shares], 1)


def _luminance(views: torch.Tensor) -> torch.Tensor:
    red, green, blue = LUMA
    luminance = views[:, :1] * red
    return luminance.add_(views[:, 1:2], alpha=green).add_(views[:, 2:], alpha=blue)


def _ramp(name: str, values: Values) -> np.ndarray:
    """What the edit of a single picture makes of the grays 0..255: a table (256, 3)."""
    grays = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    return np.asarray(REGISTRY[name].function(Image.fromarray(grays), **values).image)[0]


def _table(views: torch.Tensor, operations: list) -> torch.Tensor:
    tables = np.stack([_ramp(*operation).T for operation in operations])  # (n, 3, 256)
    return _look_up(views, tables.astype(np.float32) / 255)


def _look_up(views: torch.Tensor, tables: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Views (n, C, S, S) through tables (n, 3, 256); one channel C gives all three."""
    places = (views * 255).round().long().flatten(2).expand(-1, 3, -1)
    tables = torch.as_tensor(tables).to(views.device)
    return tables.gather(2, places).view(len(views), 3, *views.shape[2:])


def _shade(views: torch.Tensor, operations: list) -> torch.Tensor:
    full = [values | {"strength": 1.0} if "strength" in values else values
            for _, values in operations]  # fmt: skip
    names = [name for name, _ in operations]
    tables = np.stack([_ramp(*pair).T for pair in zip(names, full, strict=True)])
    painted = _look_up(_luminance(views), tables.astype(np.float32) / 255)
    share = to_device([values.get("strength", 1.0) for _, values in operations], views.device)
    return torch.lerp(views, painted, share[:, None, None, None])


def _mix(views: torch.Tensor, operations: list) -> torch.Tensor:
    matrices = to_device(np.stack([_matrix(*operation) for operation in operations]), views.device)
    return (matrices @ views.flatten(2)).view_as(views)


def _matrix(name: str, values: Values) -> np.ndarray:
    if name == "sepia":
        return values["strength"] * SEPIA + (1 - values["strength"]) * np.eye(3)
    return np.eye(3)[["rgb".index(letter) for letter in values["order"]]]


def _equalise(views: torch.Tensor, _: list) -> torch.Tensor:
    """Each channel's histogram spread as Pillow's ImageOps.equalize does."""
    places = (views * 255).round().long().flatten(2)
    counts = torch.zeros(*places.shape[:2], 256, dtype=torch.long, device=views.device)
    counts.scatter_add_(2, places, torch.ones_like(places))
    last = 255 - (counts.flip(2) > 0).int().argmax(2, keepdim=True)  # brightest value there is
    step = (counts.sum(2, keepdim=True) - counts.gather(2, last)) // 255
    before = counts.cumsum(2) - counts
    levels = (before + step // 2) // step.clamp(min=1)
    levels = torch.where(step > 0, levels, torch.arange(256, device=views.device))
    tables = levels.clamp(0, 255).to(views.dtype) / 255
    return tables.gather(2, places).view_as(views)


EDITS = {
    "jitter": _jitter,
    "table": _table,
    "shade": _shade,
    "mix": _mix,
    "equalise": _equalise,
}
