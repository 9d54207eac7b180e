"""How much of its photograph a batched view shows; draws that hide too much are drawn again.

The rules are those of `Edited.visible`, on a coarser grid.
"""

from __future__ import annotations

import numpy as np
import torch

from iscutils.edits.recipes import Group, Operations
from iscutils.edits.stamps import emoji_bank, word_bank
from iscutils.edits.strength import weakened
from iscutils.edits.tensor import TensorEdits
from iscutils.edits.tensor_geometry import SQUARE, Layer, Picture
from iscutils.edits.tensor_places import can_place, place

GRID = 32  # points a side
ATTEMPTS = 5  # draws of a picture that shows too little, before the recipe's fallback


def edit_and_measure(
    edits: TensorEdits, images: torch.Tensor, generator: torch.Generator, strength: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Edited views (B, 3, size, size) of images (B, 3, H, W), and the shares they show, (B,) 0..1.

    Like calling `edits`, but draws that leave less than the recipe's `min_visible` are repeated.
    """
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    rng, size = np.random.default_rng(int(seed)), (images.shape[-1], images.shape[-2])
    drawn = [_draw(edits, size, strength, rng) for _ in range(len(images))]
    views = edits.apply(images, [row[0] for row in drawn], generator, int(rng.integers(2**31)))
    shares = torch.tensor([row[1] for row in drawn], dtype=torch.float32)
    return views, shares.to(images.device)


def _draw(
    edits: TensorEdits, size: tuple[int, int], strength: float, rng: np.random.Generator
) -> tuple[Operations, float]:
    recipe = edits.recipe

    def drawn(group: Group) -> tuple[Operations, float]:
        operations = weakened(group.sample(rng), strength, rng)
        return operations, visible_share(operations, size)

    for _ in range(ATTEMPTS):
        found = drawn(edits.group)
        if found[1] >= recipe.min_visible:
            return found
    return drawn(recipe.fallback) if recipe.fallback else found


def visible_share(operations: Operations, size: tuple[int, int]) -> float:
    """Share 0..1 of a picture of (width, height) px that is seen after batched edits."""
    picture, kept = Picture(size, lambda number: number), 1.0
    for name, values in operations:
        if can_place(name):
            place(picture, name, values)
        elif name == "shuffle_pixels":
            kept *= 1 - values["share"]
    centres = (np.arange(GRID) + 0.5) / GRID
    across, down = np.meshgrid(centres * size[0], centres * size[1])
    points = np.stack([across.ravel(), down.ravel(), np.ones(GRID * GRID)])  # (3, points)
    inside = (np.abs(_moved(picture.area(0, 0, *picture.size), points)) <= 1 + 1e-9).all(0)
    seen = inside.astype(float)
    for layer in picture.layers:
        seen *= 1 - _opacity(layer, points)
    return float(kept * seen.mean())


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (3, P) in the coordinates of an area, (2, P); far outside behind the camera."""
    x, y, depth = matrix @ points * np.sign(matrix[2, 2])
    return np.where(depth > 1e-9, np.stack([x, y]) / np.maximum(depth, 1e-9), 1e3)


def _opacity(layer: Layer, points: np.ndarray) -> np.ndarray:
    """Opacity (P,) of a layer over points (3, P) of the source."""
    at = _moved(layer.region, points)
    if layer.kind == "stripes":
        return (at[0] - np.floor(at[0]) < layer.extra) * layer.inside
    if layer.kind == "emoji":
        return _looked_up(emoji_bank()[layer.index, 3], at) * layer.inside
    opacity = _covered(layer, np.abs(at))
    if layer.kind == "mask":
        return opacity * _looked_up(np.asarray(layer.extra), at)
    if layer.kind == "word":
        texture = at if layer.texture is None else _moved(layer.texture, points)
        return opacity * _looked_up(word_bank().masks[layer.index, 0], texture) / 255
    return opacity


def _covered(layer: Layer, away: np.ndarray) -> np.ndarray:
    """Opacity (P,) at distances (2, P) from the middle of the layer's area."""
    rim = away.max(0)
    covered = rim <= 1
    if layer.radii == (1.0, 1.0):
        rim = np.hypot(*away)
        covered = rim <= 1
    elif layer.radii != SQUARE:
        radii = np.array(layer.radii)[:, None]
        covered = (np.maximum(0, (away - (1 - radii)) / radii) ** 2).sum(0) <= 1
    opacity = np.where(covered, layer.inside, layer.outside)
    return opacity * np.clip((1 - rim) / layer.soft, 0, 1) if layer.soft else opacity


def _looked_up(mask: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values of a mask (H, W) that fills [-1, 1] squared, at points (2, P); 0 outside."""
    height, width = mask.shape
    column = ((at[0] + 1) / 2 * width).astype(int).clip(0, width - 1)
    row = ((at[1] + 1) / 2 * height).astype(int).clip(0, height - 1)
    return mask[row, column] * (np.abs(at) <= 1).all(0)
