"""Images without a download, in three parts: procedural scenes, and tiles of some photographs."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from iscutils.artifacts import (
    KitError,
    atomic_path,
    content_key,
    resolve,
    wait_if_following,
    write_text,
)
from iscutils.datasets.photographs import PARTS, TEXTURES, photograph_names, tile, tiles
from iscutils.datasets.scenes import VERSION, draw_scene, scene_index
from iscutils.executor import Executor
from iscutils.ids import file_name_of
from iscutils.images import FileImages, GeneratedImages, ImageSet

SIZES = {"train": 600, "reference": 300, "distractor": 150}
PREFIXES = {"train": "train", "reference": "ref", "distractor": "dis"}
TILE_EVERY = 8  # every eighth image is a tile of a photograph, as long as there are tiles


def builtin_images(part: str, limit: int = 0, seed: int = 0) -> GeneratedImages:
    """The images of one part, drawn when they are loaded; `limit` 0 gives SIZES[part] of them.

    The parts share no photograph and no scene, so that what is learned on "train" is not looked up
    in "reference", and "distractor" images have no original there. Image `i` is the same for every
    limit; beyond the usual size there are as many scenes as asked for. The seed changes the scenes.
    """
    if part not in PARTS:
        raise KitError(f"builtin images have no part '{part}': choose one of {', '.join(PARTS)}")
    if limit < 0 or seed < 0:
        raise KitError(f"limit={limit}, seed={seed}: neither can be negative (limit 0 = all)")
    count = limit or SIZES[part]
    ids = [f"{PREFIXES[part]}_{i:06d}" for i in range(count)]
    items = [_item(part, i) for i in range(count)]
    # Which photographs are installed is part of the key: it changes tiles and textures.
    parameters = ["builtin", VERSION, part, seed, tiles(part), photograph_names(TEXTURES)]
    return GeneratedImages(ids, partial(_draw, part, seed), items, parameters)


def _item(part: str, i: int) -> tuple[str, int]:
    """What image i is: ("tile", its number) or ("scene", its index)."""
    order = _tile_order(part)
    if i % TILE_EVERY == 0 and i // TILE_EVERY < len(order):
        return "tile", order[i // TILE_EVERY]
    return "scene", scene_index(part, i)


@cache
def _tile_order(part: str) -> list[int]:
    """Tiles in an order in which neighbours come from different photographs (mostly)."""
    return np.random.default_rng(PARTS.index(part)).permutation(len(tiles(part))).tolist()


def _draw(part: str, seed: int, item: tuple[str, int]) -> Image.Image:
    kind, number = item
    return tile(part, number) if kind == "tile" else draw_scene(seed, number)


def materialise(
    images: ImageSet, folder: str | Path, executor: Executor, quality: int = 95
) -> FileImages:
    """Write generated images as JPEG files `<id>.jpg` and return the set of these files.

    Files that are finished are kept, so a killed run goes on where it stopped and a larger limit
    adds to a smaller one; those drawn with other parameters (seed, version) are written anew. A set
    of files is returned as it is.
    """
    if isinstance(images, FileImages):
        return images
    folder = resolve(folder)
    files = [folder / f"{file_name_of(identity)}.jpg" for identity in images.ids]
    # Without the ids: what an id shows follows from the parameters alone.
    key, marker = content_key(images.parameters, quality), folder / ".key"
    # A follower draws nothing: a file written twice would have two keys.
    wait_if_following(marker, key)
    for file in files:
        wait_if_following(file)
    if not marker.exists() or marker.read_text(encoding="utf-8") != key:
        for file in files:  # removed first: from then on a file that exists is a right one
            file.unlink(missing_ok=True)
        write_text(marker, key)
    missing = [i for i, file in enumerate(files) if not file.exists()]
    write = partial(_write, images, str(folder), quality)
    desc = f"drawing {folder.name}" if missing else ""
    for _ in executor.map(write, missing, desc=desc, chunk=4):
        pass
    return FileImages(images.ids, files)


def _write(images: ImageSet, folder: str, quality: int, i: int) -> None:
    with atomic_path(Path(folder, f"{file_name_of(images.ids[i])}.jpg")) as temporary:
        # 4:4:4: coloured edges of drawn shapes would bleed otherwise
        images.load(i).save(temporary, "JPEG", quality=quality, subsampling=0)
