"""Photographs that scikit-image, scikit-learn and matplotlib carry in their packages, and tiles.

Nothing is downloaded: only files that the wheels of these libraries hold are named here, and one
that an installed version lacks is left out.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from iscutils.images import decode

PARTS = ("train", "reference", "distractor")
_SKIMAGE, _SKLEARN = ("skimage", "data"), ("sklearn", "datasets/images")
_MATPLOTLIB = ("matplotlib", "mpl-data/sample_data")

TEXTURES = "textures"
# Every photograph belongs to one part, with all its tiles; those of "textures" are never tiles, so
# that no scene shows a piece of an image of the set.
PHOTOGRAPHS: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "astronaut.png": _SKIMAGE,
        "coffee.png": _SKIMAGE,
        "motorcycle_left.png": _SKIMAGE,
    },
    "reference": {
        "camera.png": _SKIMAGE,
        "chelsea.png": _SKIMAGE,
        "china.jpg": _SKLEARN,
        "grace_hopper.jpg": _MATPLOTLIB,
    },
    "distractor": {
        "flower.jpg": _SKLEARN,
        "rocket.jpg": _SKIMAGE,
    },
    TEXTURES: {
        "brick.png": _SKIMAGE,
        "coins.png": _SKIMAGE,
        "grass.png": _SKIMAGE,
        "gravel.png": _SKIMAGE,
        "hubble_deep_field.jpg": _SKIMAGE,
        "ihc.png": _SKIMAGE,
        "moon.png": _SKIMAGE,
        "page.png": _SKIMAGE,
        "retina.jpg": _SKIMAGE,
        "text.png": _SKIMAGE,
    },
}
TILE = 150  # about the shortest side of a tile in the photograph, px
MOST = 3  # tiles along a side, so that one large photograph does not fill its part
LONG_SIDE = 360  # of a tile as an image, px


@cache
def package_folder(package: str, inside: str) -> Path | None:
    """Folder inside an installed package, found without importing it; None when it is missing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / inside
    return folder if folder.is_dir() else None


@cache
def photograph_names(part: str) -> tuple[str, ...]:
    """Names of the installed photographs of a part, sorted."""
    found = []
    for name, place in PHOTOGRAPHS[part].items():
        folder = package_folder(*place)
        if folder is not None and (folder / name).is_file():
            found.append(name)
    return tuple(sorted(found))


@cache
def photograph(part: str, name: str) -> np.ndarray:
    """One photograph, HWC uint8 RGB, read-only (it is shared by all that ask)."""
    pixels = np.asarray(decode(package_folder(*PHOTOGRAPHS[part][name]) / name))
    pixels.flags.writeable = False
    return pixels


@cache
def tiles(part: str) -> tuple[tuple[str, tuple[int, int, int, int]], ...]:
    """Disjoint tiles (photograph's name, (x0, y0, x1, y1) px) that cover a part's photographs.

    The grid lines are moved by a third of a tile at most, always the same way, so that tiles differ
    in size and shape.
    """
    found = []
    for number, name in enumerate(photograph_names(part)):
        height, width = photograph(part, name).shape[:2]
        rng = np.random.default_rng([PARTS.index(part), number])
        columns, rows = _cuts(rng, width), _cuts(rng, height)
        found += [
            (name, (x0, y0, x1, y1)) for y0, y1 in pairwise(rows) for x0, x1 in pairwise(columns)
        ]
    return tuple(found)


def _cuts(rng: np.random.Generator, length: int) -> list[int]:
    """Positions 0 ... length that cut a side into pieces of at least about TILE px."""
    pieces = min(MOST, max(1, length // int(TILE * 1.25)))
    cuts = np.linspace(0, length, pieces + 1)
    room = max(0.0, length / pieces - TILE) / 2
    cuts[1:-1] += rng.uniform(-room, room, pieces - 1)
    return [round(cut) for cut in cuts]


def tile(part: str, number: int) -> Image.Image:
    """Tile `number` of a part as an image whose long side is LONG_SIDE px."""
    name, (x0, y0, x1, y1) = tiles(part)[number]
    image = Image.fromarray(photograph(part, name)[y0:y1, x0:x1])
    scale = LONG_SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)
