"""Make one edited picture: open its photograph, draw edits until enough is seen, find donors."""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from iscutils.edits.faces import detect_faces
from iscutils.edits.recipes import Group, Operations, Recipe
from iscutils.edits.record import Edited
from iscutils.edits.registry import apply, find_edit
from iscutils.files.artifacts import KitError, log, write_json
from iscutils.files.executor import Executor
from iscutils.files.formats import HEAD, picture_kind, read_regular
from iscutils.files.images import ImageError, ImageSet

VERSION = 2  # raise when an edit changes its pixels, so that finished folders are made anew
ATTEMPTS = 20
ATTEMPTS_BEFORE_FALLBACK = 5
DRAWN = 24  # donors drawn for one picture: enough though some may be broken
FACES = 10_000  # most donors that are searched for faces: plenty to draw from, found in minutes


class Source(NamedTuple):
    """An opened photograph: its id, its pixels (maybe reduced) and its size in the file, px."""

    name: str
    image: Image.Image
    size: tuple[int, int]


@dataclass(frozen=True)
class Maker:
    """Makes edited pictures of photographs; small calls, the same result in any process.

    images: the photographs. donors: photographs for compositions (may be the same set). pool:
    indices of the donors to choose among, empty for all. seed: of the set.
    """

    images: ImageSet
    donors: ImageSet
    recipe: Recipe
    seed: int
    pool: tuple[int, ...] = ()

    def make(
        self, i: int, stream: tuple[int, ...], original: bool = False
    ) -> tuple[Edited, list[str]]:
        """An edited copy of photograph i, and the ids of the donors in it.

        `stream`: numbers of this picture; edits come from `default_rng([seed, *stream])`. With
        `original` they come from the recipe's `original`, if it has one. The homography starts at
        the pixels of the photograph in its file. Raises `ImageError` for an unreadable photograph,
        and `KitError` for a recipe that never leaves enough of it in sight.
        """
        return self.edit(self.open(i), stream, original)

    def open(self, i: int) -> Source:
        """Photograph i, decoded at reduced scale where the recipe shrinks it anyway."""
        image, size = open_reduced(self.images, i, self.recipe.source)
        return Source(self.images.ids[i], image, size)

    def edit(
        self, source: Source, stream: tuple[int, ...], original: bool = False
    ) -> tuple[Edited, list[str]]:
        """Like `make`, of an opened photograph: several copies decode it once."""
        rng = np.random.default_rng([self.seed, *stream])
        donors = _Donors(self, source.name, rng)
        recipe = self.recipe
        if original and recipe.original is not None:
            return self._draw(recipe.original, source, rng, donors)
        # A photograph that is flat itself stays so: no fault of the recipe, no end of the set.
        lenient, plain = replace(recipe, min_contrast=0.0), None
        for _ in range(ATTEMPTS_BEFORE_FALLBACK if recipe.fallback else ATTEMPTS):
            made = self._draw(recipe.group, source, rng, donors)
            if recipe.accepts(made[0]):
                return made
            plain = made if lenient.accepts(made[0]) else plain
        if recipe.fallback is not None:
            return self._draw(recipe.fallback, source, rng, donors)
        if plain is not None:
            return plain
        raise KitError(_refusal(recipe, source.name, made[0]))

    def again(self, i: int, operations: Operations, donor_ids: list[str]) -> Edited:
        """The picture of recorded operations and donors, made once more."""
        where = self.donors.ids
        donors = [open_donor(self.donors, where.index(name), self.recipe) for name in donor_ids]
        return _applied(self.open(i), operations, donors)

    def _draw(
        self, group: Group, source: Source, rng: np.random.Generator, donors: _Donors
    ) -> tuple[Edited, list[str]]:
        side = self.recipe.source
        shrink = (("fit", {"side": side}),) if max(source.image.size) > side else ()
        operations = (*shrink, *group.sample(rng))
        ids, pictures = donors.get(
            max((find_edit(name).donors for name, _ in operations), default=0)
        )
        return _applied(source, operations, pictures), ids


def _applied(source: Source, operations: Operations, donors: list[Image.Image]) -> Edited:
    return apply(source.image, operations, donors).of_original(source.size)


def _refusal(recipe: Recipe, name: str, last: Edited) -> str:
    draws = f"of photograph {name} in {ATTEMPTS} draws"
    if last.visible < recipe.min_visible:
        return (
            f"recipe '{recipe.name}' left under {recipe.min_visible:.0%} visible {draws}: make its "
            "crops and compositions milder, or give it a fallback"
        )
    return f"recipe '{recipe.name}' kept no 'box_area' {draws}: widen it, or give it a fallback"


class _Donors:
    """The donors of one picture: drawn at once, decoded when the first composition asks."""

    def __init__(self, maker: Maker, own: str, rng: np.random.Generator):
        self.maker, self.own = maker, own
        number = len(maker.pool) or len(maker.donors)
        # A generator of its own: how many donors there are must not change the drawn edits.
        self.drawn = rng.spawn(1)[0].integers(0, number, DRAWN).tolist() if number else []
        self.found: dict[str, Image.Image] = {}

    def get(self, number: int) -> tuple[list[str], list[Image.Image]]:
        """Ids and pictures of so many readable donors, if there are; never the photograph."""
        if len(self.found) < number:
            self._load(number)
        return list(self.found)[:number], list(self.found.values())[:number]

    def _load(self, number: int) -> None:
        pool, every = self.maker.pool, range(len(self.maker.donors))
        drawn = [pool[n] for n in self.drawn] if pool else self.drawn
        # The others in order, in case that the drawn ones are broken; the last, that all are.
        for others in (pool, every) if pool else (every,):
            self._find(chain(drawn, others), number)
            if self.found:
                return
        raise KitError(
            f"none of the {len(every)} donor photographs can be read, and compositions need one "
            "beside the edited photograph: give other photographs"
        )

    def _find(self, candidates: Iterable[int], number: int) -> None:
        donors = self.maker.donors
        for i in candidates:
            name = donors.ids[i]
            if name == self.own or name in self.found:
                continue
            try:
                self.found[name] = open_donor(donors, i, self.maker.recipe)
            except ImageError:
                continue
            if len(self.found) == number:
                break


def open_reduced(images: ImageSet, i: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Picture i for use at a long side of `side` px, and its whole size (width, height).

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as it stays larger than that.
    """
    kind, header = read_header(images.path(i))
    if kind != "JPEG" or max(header) <= side:
        image = images.load(i)
        return image, image.size
    # The short side that belongs to a long side of `side`, so that neither gets too small.
    image = images.load(i, min_side=math.ceil(side * min(header) / max(header)))
    turned = (header[0] - header[1]) * (image.width - image.height) < 0  # by its EXIF orientation
    whole = header[::-1] if turned else header
    scale = round(whole[0] / image.width)
    if image.size != tuple(-(-length // scale) for length in whole):  # rows are missing
        image = images.load(i)
        whole = image.size
    return image, whole


def read_header(path: Path | None) -> tuple[str, tuple[int, int]]:
    """Format and (width, height) of an image file, as stored; ("", (0, 0)) where it has none."""
    if path is None:
        return "", (0, 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size: the decoder decides
            kind = picture_kind(read_regular(path, HEAD))
            with Image.open(path, formats=(kind,)) as image:
                return kind, image.size
    except Exception:  # hostile files raise nearly anything; the decoder will say what is wrong
        return "", (0, 0)


def open_donor(donors: ImageSet, i: int, recipe: Recipe) -> Image.Image:
    """Donor i, its long side at most that of the recipe's sources."""
    donor = donors.load(i, min_side=max(1, recipe.source // 2))
    donor.thumbnail((recipe.source, recipe.source), Image.Resampling.BILINEAR)
    return donor


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """JPEG bytes of a picture; quality 1..100, colours at half resolution."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def stable_number(name: str) -> int:
    """A number of 60 bits that depends on the name alone, for the seed of its pictures."""
    return int(hashlib.sha256(name.encode("utf-8")).hexdigest()[:15], 16)


def spread(number: int, limit: int) -> list[int]:
    """Indices below `number`, all or `limit` of them at even distances (limit 0 = all)."""
    if not limit or limit >= number:
        return list(range(number))
    return [i * number // limit for i in range(limit)]


def donor_pool(
    donors: ImageSet, recipe: Recipe, folder: Path, executor: Executor
) -> tuple[int, ...]:
    """Which donors the recipe wants: those with a face, or () for all of them.

    The answer is kept in `folder`, so that a resumed call does not look again.
    """
    if not recipe.faces:
        return ()
    file = folder / "faces.json"
    if file.exists():
        return tuple(json.loads(file.read_text(encoding="utf-8")))
    looked = spread(len(donors), FACES)
    found = executor.map(partial(_has_face, donors), looked, desc="faces", chunk=16)
    pool = tuple(i for i, face in zip(looked, found, strict=True) if face)
    log.info(
        "%d of %d donor photographs show a face%s",
        len(pool), len(looked), "" if pool else ": all are used",
    )  # fmt: skip
    write_json(file, list(pool))
    return pool


def _has_face(donors: ImageSet, i: int) -> bool:
    try:
        return len(detect_faces(donors.load(i, min_side=320))) > 0
    except ImageError:
        return False
