"""Edited pictures and small tables to look at: what the figures of `gallery` show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from PIL import Image

from iscutils.edits.recipe_files import load_recipe
from iscutils.edits.recipes import Recipe, edit
from iscutils.edits.record import Edited
from iscutils.edits.registry import apply, grade_operation


def apply_graded(
    image: Image.Image, donors: Sequence[Image.Image], names: Sequence[str]
) -> dict[str, Edited]:
    """Operations at three strengths each: a twentieth, half and nineteen twentieths of the range.

    Keys are "name", and " " and "  " after it for the second and third strength: one title a row.
    """
    return {
        name + " " * i: apply(image, [grade_operation(name, share)], donors)
        for name in names
        for i, share in enumerate((0.05, 0.5, 0.95))
    }


def apply_recipes(
    images: Sequence[Image.Image], donors: Sequence[Image.Image], recipes: Sequence[str], seed: int
) -> dict[str, Edited]:
    """Copy i of every recipe made from picture i, by "recipe: i"; all recipes see one sequence."""
    found = {}
    for name in recipes:
        recipe = load_recipe(name)
        for i, image in enumerate(images):
            rng = np.random.default_rng([seed, i])
            found[f"{name}: {i}"] = draw_accepted(image, recipe, rng, donors)
    return found


def draw_accepted(
    image: Image.Image, recipe: Recipe, rng: np.random.Generator, donors: Sequence[Image.Image]
) -> Edited:
    """An edited picture as a set would hold it: refused draws are drawn again, five times."""
    for _ in range(5):
        edited = edit(image, recipe, rng, donors)
        if recipe.accepts(edited):
            break
    return edited


def visible_by_recipe(pictures: Mapping[str, Edited]) -> pd.DataFrame:
    """Visible fraction of every picture of `apply_recipes`: columns recipe, visible."""
    rows = [(title.rpartition(":")[0], picture.visible) for title, picture in pictures.items()]
    return pd.DataFrame(rows, columns=["recipe", "visible"])


def count_edits(edits: Sequence[str]) -> pd.Series:
    """How many of the "a+b+c" lists name each edit, the most frequent first."""
    names = pd.Series([name for text in edits for name in text.split("+") if name], dtype=object)
    return names.value_counts()


def to_batch(images: Iterable[Image.Image], side: int) -> np.ndarray:
    """Pictures squashed to (B, 3, side, side) float32 in [0, 1]."""
    pixels = [np.asarray(image.resize((side, side))) for image in images]
    return np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255  # (B, 3, side, side)
