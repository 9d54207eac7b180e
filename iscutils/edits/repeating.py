"""Make pictures of a synthesised set once more from its manifest: proof of what it says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iscutils.edits.folders import read_state
from iscutils.edits.making import Maker, encode_jpeg
from iscutils.edits.manifest import manifest_file, picture_bytes, read_manifest
from iscutils.edits.recipes import Group, Recipe
from iscutils.edits.record import Edited
from iscutils.files.artifacts import KitError
from iscutils.files.images import ImageSet


def repeat_edits(folder: str | Path, name: str, images: ImageSet, donors: ImageSet) -> Edited:
    """Make one picture again from its manifest row and the photographs it was made from.

    name: of a query, or of a picture of a training set. images: references, or what `synthesise`
    was given. donors: distractors, or the photographs that compositions took.
    """
    table = read_manifest(folder, names=[name])
    if table.empty:
        raise KitError(f"picture '{name}' is not in {manifest_file(folder)}")
    return _repeat(table.iloc[0], read_state(folder)["source"], images, donors)


def repeat_picture(folder: str | Path, name: str, images: ImageSet, donors: ImageSet) -> bytes:
    """The bytes of one picture's file, made again; see `repeat_edits`."""
    quality = read_state(folder)["quality"]
    return encode_jpeg(repeat_edits(folder, name, images, donors).image, quality)


def count_repeated(
    folder: str | Path, images: ImageSet, donors: ImageSet, limit: int = 10
) -> tuple[int, int]:
    """Make the first pictures again: (number with the bytes of their file, number made)."""
    state = read_state(folder)
    key = "query_id" if state.get("kind") == "query set" else "image"
    names = read_manifest(folder, columns=[key])[key][:limit].tolist()
    table = read_manifest(folder, names=names)
    equal = 0
    for _, row in table.iterrows():
        edited = _repeat(row, state["source"], images, donors)
        again = encode_jpeg(edited.image, state["quality"])
        equal += again == picture_bytes(folder, row)
    return equal, len(table)


def _repeat(row: pd.Series, side: int, images: ImageSet, donors: ImageSet) -> Edited:
    """The picture of a manifest row; side: at which photographs were opened, px."""
    negative = row.get("reference_id") == ""
    sources = donors if negative else images
    for name, where in ((row["source_id"], sources), *((name, donors) for name in row["donors"])):
        if name not in where.ids:
            raise KitError(f"photograph '{name}' of {row.iloc[0]} is missing in the given images")
    recipe = Recipe("", "", Group("each", {}, ()), source=side)  # nothing else of it counts
    maker = Maker(sources, donors, recipe, 0)
    return maker.again(sources.ids.index(row["source_id"]), row["operations"], row["donors"])
