"""Hard negative pairs: two pictures of one scene or one kind, neither a copy of the other.

Training on them teaches a model that look-alikes are no copies.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from iscutils.edits.folders import finish_folder, prepare_folder, write_csv
from iscutils.edits.making import VERSION, encode_jpeg, read_header
from iscutils.edits.queryset import link_or_copy
from iscutils.edits.recipe_files import load_recipe
from iscutils.edits.recipes import Recipe
from iscutils.files.artifacts import KitError, atomic_path, content_key, log, write_json
from iscutils.files.executor import Executor
from iscutils.files.ids import picture_ending
from iscutils.files.images import ImageError, ImageSet

NEAR = 10  # bits of 64: pictures whose hashes differ in no more are taken for copies
QUALITY = 95  # of tiles, which are cut out of their photograph
COLUMNS = ("pair_id", "image_a", "image_b", "kind", "source_a", "source_b")


class _Plan(NamedTuple):
    """A pair to make: kind "tiles" or "category", and its photographs as indices (maybe equal)."""

    pair_id: str
    kind: str
    a: int
    b: int


@dataclass(frozen=True)
class _Job:
    """What every pair needs; sent to the workers once."""

    images: ImageSet
    gap: float
    min_side: int
    folder: Path

    def record(self, plan: _Plan) -> Path:
        return self.folder / "records" / f"{plan.pair_id}.json"


def hard_negative_pairs(
    images: ImageSet,
    recipe: Recipe | str,
    count: int,
    out: str | Path,
    *,
    seed: int = 0,
    executor: Executor,
    categories: Mapping[str, str] | None = None,
) -> Path:
    """Make pairs of look-alikes that are no copies of each other; return their folder.

    The recipe's `pairs` say how: a share `tiles` of the pairs are two tiles of one large
    photograph, beside each other with a `gap` between, a share of the side they lie along, and with
    sides of at least `min_side` px. The others are two photographs of one category. Two pictures
    whose 64-bit perceptual hashes differ in at most 10 bits are passed over as copies. Every
    photograph is in one pair at most.

    Args:
        images: photographs, none of them queries or references of a test.
        recipe: with `pairs`, or the name of such a recipe.
        count: number of pairs.
        out: the folder to write; finished pairs in it are kept, so that a killed call resumes.
        seed: draws which photographs are paired.
        executor: from `open_executor`.
        categories: image id -> category; None for the folder's name of each file, or, when all lie
            in one folder, the id without its last number.

    Writes `images/` (tiles JPEG of quality 95, photographs as they are), `pairs.csv`
    (pair_id,image_a,image_b,kind,source_a,source_b; image ids in `images/`, ids of the photographs)
    and `unreadable.csv` (image_id,file,reason). `synthesise(open_images(out / "images"), ..)` makes
    their copies. Raises `KitError` when there are too few photographs.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if recipe.pairs is None:
        raise KitError(f"recipe '{recipe.name}' has no 'pairs': give one that has them")
    if count < 1 or seed < 0:
        raise KitError(f"count={count}, seed={seed}: give at least one pair, and a seed of 0 up")
    named = categories if categories is None else sorted(categories.items())
    folder = Path(out)
    key = content_key(VERSION, images.key(), recipe.key(), count, seed, named)
    plans, spares = _plan(images, recipe, count, seed, categories)
    if prepare_folder(folder, key, "set of pairs"):
        return folder
    for name in ("images", "records"):
        (folder / name).mkdir(exist_ok=True)
    job = _Job(images, recipe.pairs["gap"], int(recipe.pairs["min_side"]), folder)
    unreadable = _make_all(job, plans, spares, executor)
    files = sorted((folder / "records").glob("*.json"))
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = [[record[column] for column in COLUMNS] for record in records]
    write_csv(folder / "pairs.csv", COLUMNS, rows)
    write_csv(folder / "unreadable.csv", ("image_id", "file", "reason"), sorted(unreadable))
    finish_folder(folder, {"recipe": recipe.name, "seed": seed})
    return folder


def _plan(
    images: ImageSet,
    recipe: Recipe,
    count: int,
    seed: int,
    categories: Mapping[str, str] | None,
) -> tuple[list[_Plan], dict[str, deque[tuple[int, int]]]]:
    """The pairs to make, and further candidates of both kinds for those that cannot be made."""
    rng = np.random.default_rng([seed, 0, 3])
    order = rng.permutation(len(images)).tolist()
    tiles = round(count * recipe.pairs["tiles"])
    large = _large(images, order, tiles, recipe) if tiles else []
    if len(large) < tiles:
        raise KitError(
            f"{tiles} pairs of tiles need {tiles} photographs with room for two tiles of "
            f"{int(recipe.pairs['min_side'])} px and the gap; there are {len(large)}: give larger "
            "or more photographs, or lower 'count', 'tiles' or 'min_side'"
        )
    used = set(large)
    rest = [i for i in order if i not in used]
    paired = _paired(images, rest, categories, rng) if count > tiles else []
    if len(paired) < count - tiles:
        raise KitError(
            f"{count - tiles} pairs of one category are wanted, and there are {len(paired)}: give "
            "more photographs, or lower 'count'"
        )
    wanted = {"tiles": tiles, "category": count - tiles}
    candidates = {"tiles": [(i, i) for i in large], "category": paired}
    chosen = [(kind, *pair) for kind, n in wanted.items() for pair in candidates[kind][:n]]
    digits = max(5, len(str(count - 1)))
    plans = [_Plan(f"P{n:0{digits}d}", *pair) for n, pair in enumerate(chosen)]
    return plans, {kind: deque(candidates[kind][n:]) for kind, n in wanted.items()}


def _large(images: ImageSet, order: list[int], wanted: int, recipe: Recipe) -> list[int]:
    """The first photographs that hold two tiles, some more than wanted to replace broken ones."""
    found = []
    for i in order:
        if len(found) == wanted + wanted // 10 + 1:
            break
        path = images.path(i)
        size = images.load(i).size if path is None else read_header(path)[1]
        if tile_boxes(size, recipe.pairs["gap"], int(recipe.pairs["min_side"])):
            found.append(i)
    return found


def tile_boxes(
    size: tuple[int, int], gap: float, min_side: int
) -> tuple[tuple[int, int, int, int], ...]:
    """Two boxes (x0, y0, x1, y1) along the long side of a picture, none if too small.

    `gap`: share of the long side between them, 0..0.5.
    """
    long, short = max(size), min(size)
    length = int(long * (1 - gap) / 2)
    if min(length, short) < min_side:
        return ()
    spans = ((0, length), (long - length, long))
    if size[0] >= size[1]:
        return tuple((start, 0, end, short) for start, end in spans)
    return tuple((0, start, short, end) for start, end in spans)


def _paired(
    images: ImageSet,
    order: list[int],
    categories: Mapping[str, str] | None,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Disjoint pairs of photographs of one category, in random order."""
    names = default_categories(images) if categories is None else categories
    waiting: dict[str, int] = {}
    pairs = []
    for i in order:
        name = names.get(images.ids[i])
        if name is None:
            continue
        if name in waiting:
            pairs.append((waiting.pop(name), i))
        else:
            waiting[name] = i
    return [pairs[n] for n in rng.permutation(len(pairs))]


def default_categories(images: ImageSet) -> dict[str, str]:
    """Category of each image id: its folder, or, of one folder only, the id without last digits."""
    paths = [images.path(i) for i in range(len(images))]
    parents = [path.parent.name if path else "" for path in paths]
    if len({path.parent if path else None for path in paths}) > 1:
        return dict(zip(images.ids, parents, strict=True))
    return {name: re.sub(r"[ _-]*\d+$", "", name) for name in images.ids}


def _make_all(
    job: _Job,
    plans: list[_Plan],
    spares: dict[str, deque[tuple[int, int]]],
    executor: Executor,
) -> set[tuple[str, str, str]]:
    """Make the pairs; those that cannot be made get other photographs."""
    unreadable: set[tuple[str, str, str]] = set()
    missing = 0
    while plans:
        reasons = executor.map(partial(_make, job), plans, desc="pairs", chunk=4)
        again = []
        for plan, (refused, bad) in zip(plans, reasons, strict=True):
            unreadable.update(bad)
            if not refused:
                continue
            if spares[plan.kind]:
                a, b = spares[plan.kind].popleft()
                again.append(plan._replace(a=a, b=b))
            else:
                missing += 1
        plans = again
    if missing:
        log.warning("%d pairs not made: no photographs left for them", missing)
    return unreadable


def _make(job: _Job, plan: _Plan) -> tuple[bool, list[tuple[str, str, str]]]:
    """Make one pair unless it is there; whether it is refused, and rows of unreadable files."""
    sources = {"source_a": job.images.ids[plan.a], "source_b": job.images.ids[plan.b]}
    if job.record(plan).exists():
        former = json.loads(job.record(plan).read_text(encoding="utf-8"))
        if all(former[column] == name for column, name in sources.items()):
            return False, []
    pictures, unreadable = [], []
    for i in dict.fromkeys((plan.a, plan.b)):
        try:
            pictures.append(job.images.load(i))
        except ImageError as error:
            path = str(job.images.path(i) or "")
            unreadable.append((job.images.ids[i], path, str(error)))
    if unreadable:
        return True, unreadable
    if plan.kind == "tiles":
        boxes = tile_boxes(pictures[0].size, job.gap, job.min_side)
        pictures = [pictures[0].crop(box) for box in boxes]
    if len(pictures) < 2 or hash_distance(*pictures) <= NEAR:
        return True, []
    names = [f"{plan.pair_id}_a", f"{plan.pair_id}_b"]
    for name, i, picture in zip(names, (plan.a, plan.b), pictures, strict=True):
        _write(job, name, None if plan.kind == "tiles" else job.images.path(i), picture)
    pair = {"pair_id": plan.pair_id, "image_a": names[0], "image_b": names[1], "kind": plan.kind}
    write_json(job.record(plan), pair | sources)  # last: with it the pair is finished
    return False, []


def _write(job: _Job, name: str, file: Path | None, picture: Image.Image) -> None:
    """A photograph's own file, where there is one, else the picture as a JPEG."""
    for former in (job.folder / "images").glob(f"{name}.*"):  # of a call that was killed
        former.unlink()
    if file is not None:
        link_or_copy(file, job.folder / "images" / f"{name}{picture_ending(file)}")
        return
    with atomic_path(job.folder / "images" / f"{name}.jpg") as temporary:
        temporary.write_bytes(encode_jpeg(picture, QUALITY))


def hash_distance(a: Image.Image, b: Image.Image) -> int:
    """Number of the 64 bits by which the perceptual hashes of two pictures differ."""
    return int((perceptual_hash(a) != perceptual_hash(b)).sum())


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """64 bits (64,) bool: signs of the low cosine frequencies, against their median.

    The luminance at 32 x 32 px, its 8 x 8 lowest frequencies (Zauner 2010, "Implementation and
    benchmarking of perceptual image hash functions").
    """
    small = image.convert("L").resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=3.0)
    low = cv2.dct(np.asarray(small, np.float32))[:8, :8].ravel()
    return low > np.median(low)
