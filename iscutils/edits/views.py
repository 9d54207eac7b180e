"""Training views made one image at a time, with every operation a recipe may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from iscutils.edits.making import Maker
from iscutils.edits.recipe_files import load_recipe
from iscutils.edits.recipes import Recipe
from iscutils.edits.strength import Weakened
from iscutils.files.artifacts import KitError, content_key, log
from iscutils.files.images import ImageSet

MISSES = 100  # images in a row that cannot be used before the whole set is held to be broken


class EditedViews(Dataset):
    """Views of photographs for a `DataLoader`: decoded, edited and squashed on the fly.

    Item i is (views (V, 3, size, size) uint8, index of the image), the same in any process; it
    depends on (seed, epoch, i, number of the view). Donors are other images of the set. In the
    place of an image that cannot be read stands the next one that can, and its index is given.

    Args:
        images: the photographs.
        recipe: the edits, a `Recipe` or the name of one.
        size: side of the views in pixels.
        views: number of views of each image.
        seed: of all edits.
        mild_first: the first view is made by the recipe's edits of originals, if it has them.
        source: longest side of the photographs before the edits, px; None: that of the recipe, but
            at most four times `size`, which leaves all pixels to a crop of a 16th of the area.
        strengths: of the edits (0..1) in the first epochs, the last one for all others; see
            `weakened`. Empty: full strength.

    Attributes:
        unusable: ids of images that could not be used, as this process met them.
    """

    def __init__(
        self,
        images: ImageSet,
        recipe: Recipe | str,
        size: int,
        views: int = 2,
        seed: int = 0,
        mild_first: bool = True,
        source: int | None = None,
        strengths: Sequence[float] = (),
    ):
        if len(images) < 2:
            raise KitError(f"{len(images)} training images are too few for pairs: give at least 2")
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        self.recipe = replace(recipe, source=source or min(recipe.source, 4 * size))
        self.images, self.size, self.views, self.seed = images, size, views, seed
        self.mild_first, self.strengths, self.epoch = mild_first, tuple(strengths), 0
        self.ids = images.ids
        self.unusable: set[str] = set()

    def key(self) -> str:
        """Ten hexadecimal digits that change with whatever changes the views."""
        settings = (self.size, self.views, self.seed, self.mild_first, self.strengths)
        return content_key(self.images.key(), self.recipe.key(), settings)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of items that are asked for by a plain index."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[torch.Tensor, int]:
        """Views of an image; the item is its index, or (epoch, index)."""
        epoch, index = item if isinstance(item, tuple) else (self.epoch, item)
        for tried in range(min(MISSES, len(self))):
            chosen = (int(index) + tried) % len(self)
            try:
                return self._views(epoch, chosen), chosen
            except (KitError, OSError) as error:  # a file that is broken, or gone
                self._note(chosen, str(error))
        raise KitError(
            f"{min(MISSES, len(self))} training images in a row cannot be used, the last one is "
            f"{self.ids[chosen]}: check the folder, or train on cached pixels"
        )

    def _views(self, epoch: int, index: int) -> torch.Tensor:
        maker = Maker(self.images, self.images, self._recipe(epoch), self.seed)
        source = maker.open(index)
        made = [
            maker.edit(source, (epoch, index, view), self.mild_first and view == 0)[0].image
            for view in range(self.views)
        ]
        squashed = [
            np.asarray(view.resize((self.size,) * 2, Image.Resampling.BILINEAR, reducing_gap=3.0))
            for view in made
        ]
        return torch.from_numpy(np.stack(squashed).transpose(0, 3, 1, 2).copy())

    def _recipe(self, epoch: int) -> Recipe:
        """The recipe at the strength of an epoch."""
        strength = self.strengths[min(epoch, len(self.strengths) - 1)] if self.strengths else 1.0
        if strength >= 1:
            return self.recipe
        original = self.recipe.original and Weakened(self.recipe.original, strength)
        return replace(self.recipe, group=Weakened(self.recipe.group, strength), original=original)

    def _note(self, index: int, reason: str) -> None:
        if self.ids[index] not in self.unusable:
            self.unusable.add(self.ids[index])
            log.warning("training image %s is left out: %s", self.ids[index], reason)


def one_thread(_worker: int = 0) -> None:
    """For loader processes: they share the cores, so none of them may take all."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
