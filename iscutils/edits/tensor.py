"""Edits of whole batches as tensor arithmetic: training views at the speed of the device.

Loaders that edit one image at a time starve a GPU and waste a CPU. Here a recipe is drawn for every
image as everywhere else, and its operations are carried out for all images together, in phases:

1. places: all moves, canvases, overlays and compositions in the order they were drawn, as matrices;
   then one resampling of the batch and one of each layer (tensor_places, tensor_layers);
2. colours, in the order they were drawn (tensor_colour);
3. loss of detail, in a fixed order that ends with noise and JPEG (tensor_quality).

So a recipe that blurs before it crops, or recolours after it pastes, comes out a little otherwise.
"""

from __future__ import annotations

import numpy as np
import torch

from iscutils.edits.recipe_files import load_recipe
from iscutils.edits.recipes import Group, Operations, Recipe
from iscutils.edits.strength import weakened
from iscutils.edits.tensor_colour import KINDS, recolour
from iscutils.edits.tensor_geometry import Picture
from iscutils.edits.tensor_layers import Banks, render
from iscutils.edits.tensor_places import can_place, place
from iscutils.edits.tensor_quality import QUALITY, degrade
from iscutils.files.artifacts import log


class TensorEdits:
    """Draws an edited view of every image of a batch.

    Args:
        recipe: the edits, a `Recipe` or the name of one; at strength 1 they are drawn as it says.
        size: side of the views in pixels.
        group: "group" for the recipe's edits, "original" for those of its originals (nearly
            unedited pictures; the same as "group" where a recipe has none).

    Attributes:
        unsupported: operations of the recipe that have no batched form; they are left out.
    """

    def __init__(self, recipe: Recipe | str, size: int, group: str = "group"):
        self.recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        self.size = size
        self.group: Group = getattr(self.recipe, group) or self.recipe.group
        names = dict.fromkeys(leaf.operation for leaf in self.group.leaves())
        self.unsupported = tuple(name for name in names if not supported(name))
        self.banks: dict[torch.device, Banks] = {}
        if self.unsupported:
            log.warning(
                "recipe '%s': batched edits leave out %s; train with path 'images' to have them",
                self.recipe.name, ", ".join(self.unsupported),
            )  # fmt: skip

    @torch.no_grad()
    def __call__(
        self, images: torch.Tensor, generator: torch.Generator, strength: float = 1.0
    ) -> torch.Tensor:
        """Views (B, 3, size, size) float32 in [0, 1] of images (B, 3, H, W) float in [0, 1].

        The same generator state gives the same views. `strength` in [0, 1] leaves operations out
        and moves their values towards neutral ones. Donors are other images of the batch.
        """
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        rng = np.random.default_rng(int(seed))
        drawn = [weakened(self.group.sample(rng), strength, rng) for _ in range(len(images))]
        return self.apply(images, drawn, generator, int(rng.integers(2**31)))

    @torch.no_grad()
    def apply(
        self,
        images: torch.Tensor,
        drawn: list[Operations],
        generator: torch.Generator,
        donors: int = 0,
    ) -> torch.Tensor:
        """Views of images with given operations, one tuple an image; `donors` shifts the donors."""
        count, size = len(images), (images.shape[-1], images.shape[-2])
        pictures, colours, losses = [], [], []
        for row, operations in enumerate(drawn):
            picture = Picture(size, _Donors(row, count, donors))
            named = {"place": [], "colour": [], "quality": []}
            for name, values in operations:
                if can_place(name):
                    place(picture, name, values)
                elif name in KINDS:
                    named["colour"].append((name, values))
                elif name in QUALITY:
                    named["quality"].append((name, values))
            pictures.append(picture)
            colours.append(named["colour"])
            losses.append([*_reductions(picture, self.size), *named["quality"]])
        if images.device not in self.banks:
            self.banks[images.device] = Banks(images.device)
        banks = self.banks[images.device]
        views = render(images.float(), pictures, self.size, banks, generator)
        recolour(views, colours)
        degrade(views, losses, [picture.size for picture in pictures], generator)
        return views


def supported(name: str) -> bool:
    """Whether an operation has a batched form."""
    return can_place(name) or name in KINDS or name in QUALITY


class _Donors:
    """Which other image of the batch donor 0, 1, ... of an image is; never the image itself."""

    def __init__(self, row: int, count: int, start: int):
        self.row, self.count, self.start = row, count, start

    def __call__(self, number: int) -> int:
        # Odd steps, so that neighbours in the batch do not share their donors
        away = 1 + (self.start + 7 * self.row + number) % max(1, self.count - 1)
        return (self.row + away) % self.count


def _reductions(picture: Picture, side: int) -> list[tuple[str, dict[str, int]]]:
    """Steps that made the picture so small that a view of `side` px shows it."""
    found = []
    for matrix in picture.coarse:
        # How many view px a px of that step's result has, in the middle of the view
        back = matrix @ np.linalg.inv(picture.matrix)
        middle = back @ (picture.size[0] / 2, picture.size[1] / 2, 1.0)
        area = abs(np.linalg.det(back)) / abs(middle[2]) ** 3
        pixels = round(float(np.sqrt(area * picture.size[0] * picture.size[1])))
        if pixels < side:
            found.append(("reduce", {"pixels": pixels}))
    return found
