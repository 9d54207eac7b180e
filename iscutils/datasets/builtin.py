"""Photographs that come with the kit, in three parts: nothing is downloaded.

`photographs/CREDITS.csv` names part, source, licence and credit line of each. They are scaled to
256 px on the long side. Weights that come with the kit are not trained on them.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from iscutils.files.artifacts import KitError, content_key
from iscutils.files.ids import image_id
from iscutils.files.images import FileImages

FOLDER = Path(__file__).parent / "photographs"
PARTS = ("train", "reference", "distractor")


class BuiltinImages(FileImages):
    """Files of the kit; their key is the same on every machine, whenever the kit was installed."""

    def subset(self, indices: Iterable[int]) -> BuiltinImages:
        images = super().subset(indices)
        return BuiltinImages(images.ids, images.files)

    def key(self) -> str:
        return content_key(self.ids, [os.path.getsize(file) for file in self.files])


def builtin_images(part: str, limit: int = 0, seed: int = 0) -> BuiltinImages:
    """The photographs of one part in an order of the seed; `limit` is the most of them, 0 = all.

    The parts share no photograph, so that what is learned on "train" is not looked up in
    "reference", and "distractor" photographs have no original there. Image `i` is the same for
    every limit.
    """
    if part not in PARTS:
        raise KitError(f"builtin images have no part '{part}': choose one of {', '.join(PARTS)}")
    if limit < 0 or seed < 0:
        raise KitError(f"limit={limit}, seed={seed}: neither can be negative (limit 0 = all)")
    files = [FOLDER / row["file"] for row in read_credits() if row["part"] == part]
    order = np.random.default_rng([seed, PARTS.index(part)]).permutation(len(files))
    chosen = [files[i] for i in order[: limit or len(files)]]
    return BuiltinImages(map(image_id, chosen), chosen)


@cache
def read_credits() -> tuple[dict[str, str], ...]:
    """A row for each photograph: file, part, source, licence, credit."""
    with open(FOLDER / "CREDITS.csv", newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
