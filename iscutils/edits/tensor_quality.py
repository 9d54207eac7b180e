"""Loss of detail for whole batches: resolution, blur, noise, shuffled pixels, JPEG.

All of it acts on finished views. They run in the order of `ORDER`, whatever the recipe's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from iscutils.edits.tensor_jpeg import jpeg
from iscutils.edits.tensor_layers import pieces, to_device, view_grid

Values = Mapping[str, Any]
Size = tuple[int, int]  # (width, height) of the canvas that was squashed to the view, px


def degrade(
    views: torch.Tensor,
    drawn: list[list[tuple[str, Values]]],
    sizes: list[Size],
    generator: torch.Generator,
) -> None:
    """Apply the quality operations `drawn` for each of the views (B, 3, S, S), in place."""
    for names, edit in ORDER:
        waiting = [[o for o in operations if o[0] in names] for operations in drawn]
        if edit is _separable:  # any number of them is one product of matrices
            rows = [row for row, operations in enumerate(waiting) if operations]
            batches = [(rows, [waiting[row] for row in rows])] if rows else []
        else:
            batches = []
            for turn in range(max((len(operations) for operations in waiting), default=0)):
                rows = [row for row, operations in enumerate(waiting) if len(operations) > turn]
                batches.append((rows, [waiting[row][turn] for row in rows]))
        for members, operations in batches:
            given = dict(zip(members, operations, strict=True))
            for rows in pieces(members, views.device):
                where, shapes = to_device(rows, views.device), [sizes[row] for row in rows]
                chosen = [given[row] for row in rows]
                views[where] = edit(views[where], chosen, shapes, generator).clamp_(0, 1)


def _separable(views: torch.Tensor, chains: list, sizes: list[Size], _: Any) -> torch.Tensor:
    """Blurs and coarser pixels: a matrix along x and one along y for each view."""
    side, matrices = views.shape[-1], []
    for operations, size in zip(chains, sizes, strict=True):
        both = []
        for length in size:
            matrix = None
            for name, values in operations:
                step = _axis(name, values, side, length, min(size))
                matrix = step if matrix is None else step @ matrix
            both.append(matrix)
        matrices.append(torch.stack(both))
    along_x, along_y = torch.stack(matrices).to(views.device)[:, None].unbind(2)  # (n, 1, S, S)
    return along_y @ views @ along_x.mT


def _axis(name: str, values: Values, side: int, length: int, short: int) -> torch.Tensor:
    """Matrix (S, S) of an operation along an axis of the canvas of `length` px.

    "reduce" is no edit: it is a former step's own resolution, in px over the whole view.
    """
    if name == "blur":
        return _gaussian(side, round(values["radius"] * short / length * side, 2))
    if name == "box_blur":
        return _box(side, 2 * round(values["radius"] * short / length * side) + 1)
    if name == "blur_pixels":
        return _gaussian(side, round(values["radius"] / length * side, 2))
    if name == "pixelate":
        return _coarse(side, min(side, max(1, round(values["cells"] * length / short))), "nearest")
    cells = values["pixels"] * (length / short if name == "lose_resolution" else 1)
    return _coarse(side, min(side, max(1, round(cells))), "linear")


@lru_cache(maxsize=1024)
def _gaussian(side: int, sigma: float) -> torch.Tensor:
    distance = torch.arange(side)[:, None] - torch.arange(side)[None]
    weights = (-(distance**2) / (2 * max(sigma, 0.05) ** 2)).exp()
    return weights / weights.sum(1, keepdim=True)


@lru_cache(maxsize=256)
def _box(side: int, width: int) -> torch.Tensor:
    distance = torch.arange(side)[:, None] - torch.arange(side)[None]
    weights = (distance.abs() <= width // 2).float()
    return weights / weights.sum(1, keepdim=True)


@lru_cache(maxsize=1024)
def _coarse(side: int, pixels: int, up: str) -> torch.Tensor:
    """Shrink to so many pixels, then enlarge: as equal cells, or linear between them."""
    unit = torch.eye(side)[None]  # rows are channels of a picture that is one pixel high
    if up == "nearest":
        small = F.adaptive_avg_pool1d(unit, pixels)
        return F.interpolate(small, side, mode="nearest-exact")[0].T.contiguous()
    small = F.interpolate(unit[:, :, None], (1, pixels), mode="bilinear", antialias=True)
    return F.interpolate(small, (1, side), mode="bilinear")[0, :, 0].T.contiguous()


def _smeared(views: torch.Tensor, operations: list, sizes: list[Size], _: Any) -> torch.Tensor:
    """Mean of each view along a path: averages of two copies moved by ever smaller parts of it."""
    paths, longest, side = [], 0.0, views.shape[-1]
    for (name, values), (width, height) in zip(operations, sizes, strict=True):
        if name == "zoom_blur":
            paths.append((0.0, 0.0, values["strength"]))
            longest = max(longest, values["strength"] * side / math.sqrt(2))
        else:
            length, angle = values["length"] * min(width, height), math.radians(values["angle"])
            x, y = 2 * length * math.cos(angle) / width, -2 * length * math.sin(angle) / height
            paths.append((x, y, 0.0))
            longest = max(longest, 0.5 * side * math.hypot(x, y))
    x, y, zoom = np.array(paths).T
    share = 0.25
    while share * longest > 0.25 and share > 2**-8:
        copies = []
        for part in (share, -share):
            matrices = np.tile(np.eye(3), (len(paths), 1, 1))
            matrices[:, 0, 0] = matrices[:, 1, 1] = np.exp(-part * zoom)
            matrices[:, 0, 2], matrices[:, 1, 2] = -part * x, -part * y
            grid = view_grid(matrices, side, views.device)
            copies.append(F.grid_sample(views, grid, align_corners=False, padding_mode="border"))
        views, share = (copies[0] + copies[1]) / 2, share / 2
    return views


def _sharper(views: torch.Tensor, operations: list, sizes: list[Size], _: Any) -> torch.Tensor:
    """Add the difference to a blurred copy (sharpen), or to the 3 x 3 mean (edge_enhance)."""
    side = views.shape[-1]
    softer, factors = [], []
    for name, values in operations:
        softer.append(_gaussian(side, 1.0) if name == "sharpen" else _box(side, 3))
        normal = name == "edge_enhance" and values["strength"] == "normal"
        factors.append(values["factor"] if name == "sharpen" else 4.5 if normal else 9.0)
    matrix = torch.stack(softer)[:, None].to(views.device)
    factor = to_device(factors, views.device)[:, None, None, None]
    return views + factor * (views - matrix @ views @ matrix.mT)


def _shuffled(
    views: torch.Tensor, operations: list, _: Any, generator: torch.Generator
) -> torch.Tensor:
    """Exchange a share of the pixels of each view among each other."""
    flat = views.flatten(2)
    count = flat.shape[2]
    share = to_device([values["share"] for _, values in operations], views.device)[:, None]
    draw = _uniform((2, len(views), count), generator, views.device)
    chosen = draw[0] < share
    # Chosen pixels first, once in order and once at random: the two orders say who goes where.
    place = torch.arange(count, device=views.device)
    even = place / count + 2  # those left alone stay in order
    target = torch.where(chosen, place / count, even).argsort(dim=1, stable=True)
    source = torch.where(chosen, draw[1], even).argsort(dim=1, stable=True)
    order = torch.empty_like(source).scatter_(1, target, source)
    return flat.gather(2, order[:, None].expand_as(flat)).view_as(views)


def _noisy(
    views: torch.Tensor, operations: list, _: Any, generator: torch.Generator
) -> torch.Tensor:
    kinds = np.array([values["kind"] for _, values in operations])
    amount = to_device([values["amount"] for _, values in operations], views.device)
    amount = amount[:, None, None, None]
    dots = np.flatnonzero(kinds == "salt_pepper")
    if len(dots):
        rows = to_device(dots, views.device)
        draw = _uniform((len(dots), 1, *views.shape[2:]), generator, views.device)
        half = amount[rows] / 2
        dotted = torch.where(draw < half, 0.0, views[rows])
        views[rows] = torch.where(draw > 1 - half, 1.0, dotted)
    grainy = np.flatnonzero(kinds != "salt_pepper")
    if len(grainy):
        rows = to_device(grainy, views.device)
        # variance: constant, in proportion to the square of the value, or to the value
        powers = {"gaussian": 0.0, "speckle": 1.0, "poisson": 0.5}
        power = to_device([powers[kind] for kind in kinds[grainy]], views.device)
        part = views[rows]
        # Gaussian grain alone, the usual case, is spared the power
        scale = part.clamp(min=1e-9) ** power[:, None, None, None] if power.any() else 1.0
        grain = torch.randn(part.shape, generator=generator, device=generator.device)
        views[rows] = part + amount[rows] * scale * grain.to(views.device)
    return views


def _coded(views: torch.Tensor, operations: list, *_: Any) -> torch.Tensor:
    quality = to_device([values["quality"] for _, values in operations], views.device)
    return jpeg(views, quality)


def _uniform(shape: tuple, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


ORDER: tuple[tuple[tuple[str, ...], Callable[..., torch.Tensor]], ...] = (
    (("reduce", "lose_resolution", "pixelate", "blur", "blur_pixels", "box_blur"), _separable),
    (("motion_blur", "zoom_blur"), _smeared),
    (("sharpen", "edge_enhance"), _sharper),
    (("shuffle_pixels",), _shuffled),
    (("noise",), _noisy),
    (("jpeg",), _coded),
)
QUALITY = tuple(name for names, _ in ORDER for name in names if name != "reduce")
