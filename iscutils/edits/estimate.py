"""How long a set will take and how large it will be, from a few of its pictures."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from iscutils.edits.making import Maker, encode_jpeg, spread, stable_number
from iscutils.edits.manifest import describe, to_json
from iscutils.edits.recipe_files import load_recipe
from iscutils.edits.recipes import Recipe
from iscutils.files.artifacts import KitError
from iscutils.files.images import ImageError, ImageSet

SPARE = 1.05  # of the disc: a sample of some pictures is not the whole set
TAR_BLOCK = 512  # bytes; a file in a tar is a block of header and whole blocks of content


@dataclass(frozen=True)
class Estimate:
    """What the rest of a set will take.

    pictures: still to make. seconds: until then, on `workers` cores. bytes: of them on disc.
    free: bytes on that disc.
    """

    pictures: int
    seconds: float
    bytes: int
    seconds_per_picture: float  # of one core
    bytes_per_picture: float
    free: int
    workers: int

    def __str__(self) -> str:
        cores = "1 core" if self.workers == 1 else f"{self.workers} cores"
        return (
            f"{self.pictures:,} pictures: about {_duration(self.seconds)} on {cores} and "
            f"{_size(self.bytes)}; {_size(self.free)} are free"
        )

    def scaled(self, pictures: int) -> Estimate:
        """The same for another number of pictures."""
        share = pictures / self.pictures
        seconds, size = share * self.seconds, round(share * self.bytes)
        return replace(self, pictures=pictures, seconds=seconds, bytes=size)

    def check(self, folder: str | Path) -> None:
        """Raise `KitError` when the disc of the folder is too small."""
        if self.free < SPARE * self.bytes:
            raise KitError(
                f"{folder}: {self.pictures:,} pictures need about {_size(SPARE * self.bytes)}, but "
                f"{_size(self.free)} are free: choose another disc, fewer or smaller pictures, or "
                "switch the check off (check_disc)"
            )


def estimate(
    images: ImageSet,
    recipe: Recipe | str,
    per_image: int,
    *,
    donors: ImageSet | None = None,
    workers: int = 1,
    seed: int = 0,
    sample: int = 32,
    quality: int = 95,
    limit: int = 0,
    layout: str = "files",
    out: str | Path = ".",
    finished: int = 0,
) -> Estimate:
    """Make `sample` pictures in memory, and say what `synthesise` with these arguments takes.

    out: a folder on the disc that is meant, it need not exist. finished: photographs whose copies
    are there already. The other arguments are those of `synthesise`.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    maker = Maker(images, images if donors is None else donors, recipe, seed)
    sources = min(len(images), limit or len(images))
    chosen = spread(len(images), min(sample, sources))
    _measure(maker, chosen[:1], per_image, quality, layout)  # reads fonts and other assets
    opening, editing, size = _measure(maker, chosen, per_image, quality, layout)
    left = max(0, sources - finished)
    pictures = left * per_image
    each = editing + opening / per_image
    return Estimate(
        pictures, pictures * each / workers, round(pictures * size), each, size,
        _free(Path(out)), workers,
    )  # fmt: skip


def _measure(
    maker: Maker, chosen: list[int], per_image: int, quality: int, layout: str
) -> tuple[float, float, float]:
    """Seconds to open a photograph, seconds to make a copy of it, and bytes of a copy."""
    opening = editing = size = 0.0
    made = 0
    for number, i in enumerate(chosen):
        copy = number % per_image
        began = time.perf_counter()
        try:
            source = maker.open(i)
        except ImageError:
            continue
        opened = time.perf_counter()
        seed = (stable_number(source.name), copy)
        edited, donors = maker.edit(source, seed, original=copy == 0)
        data = encode_jpeg(edited.image, quality)
        row = len(to_json(describe(edited, source.name, seed, donors)).encode())
        opening, editing = opening + opened - began, editing + time.perf_counter() - opened
        size += len(data) + row / 2 if layout == "files" else _blocks(len(data)) + 1.5 * row + 512
        made += 1
    made = max(1, made)
    return opening / made, editing / made, size / made


def _blocks(size: int) -> int:
    return TAR_BLOCK * (1 + -(-size // TAR_BLOCK))


def _free(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{round(hours)} h" if hours < 72 else f"{round(hours / 24)} days"


def _size(number: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            value = number / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{max(1, round(number / 1e3))} kB"
