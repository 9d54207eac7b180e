"""A benchmark like NDEC, out of any photographs: hard negatives beside ordinary queries.

NDEC itself cannot be shared (docs/systems/asl.md, section 8). Results on this and on NDEC never
belong into one table.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from iscutils.datasets.benchmark import read_edits
from iscutils.edits.folders import STATE, write_csv
from iscutils.edits.likeness import keypoints, no_copy, thumbnails, unit_rows
from iscutils.edits.making import encode_jpeg
from iscutils.edits.negatives import QUALITY
from iscutils.edits.queryset import link_or_copy
from iscutils.edits.recipe_files import load_recipe
from iscutils.edits.recipes import Recipe
from iscutils.edits.synthesis import synthesise_queries
from iscutils.evaluation.submissions import read_ground_truth
from iscutils.files.artifacts import (
    KitError,
    atomic_path,
    content_key,
    file_hash,
    log,
    resolve,
    write_text,
)
from iscutils.files.executor import Executor
from iscutils.files.ids import picture_ending
from iscutils.files.images import ImageSet, drop, open_folder

VERSION = 2
SHARE = 0.49  # of hard negatives among all queries, as in NDEC
DECOYS = 1 / 3  # of the hard negatives are directional decoys
AREA = (0.2, 0.5)  # of the picture that a decoy's crop shows
POINTS = 20  # a crop with fewer shows nothing: every flat patch would be its copy
BOXES = 10  # draws of a crop with as many points
TRIES = 5  # nearest references that a picture is compared with
MARKER, KINDS, TRUTH = ".finished", "kinds.csv", "ground_truth.csv"


def hard_count(ordinary: int, share: float) -> int:
    """Hard negatives beside so many ordinary queries, if they are this share of all queries."""
    if not 0 <= share < 1:
        raise KitError(f"share={share} of hard negatives: give a number from 0 to below 1")
    return round(ordinary * share / (1 - share))


def ndec_like(
    images: ImageSet,
    distractors: ImageSet,
    recipe: Recipe | str,
    out: str | Path,
    *,
    positives: int,
    negatives: int,
    seed: int,
    executor: Executor,
    share: float = SHARE,
    vectors: tuple[np.ndarray, np.ndarray] | None = None,
) -> Path:
    """Make an ordinary query set and add hard negatives; return its folder, in ISC layout.

    Two thirds of the hard negatives are look-alikes: unedited held-out pictures, those nearest to a
    reference first. One third are directional decoys: a crop of 20 to 50 % of a held-out picture
    goes among the references (one that shows something: 20 SIFT points, where ten draws find such),
    the whole picture is the query. None has an original. Pictures that
    may be copies of a reference (hashes within 10 of 64 bits, or 20 matches under one homography)
    are passed over.

    Args:
        images, distractors, recipe, positives, negatives, seed, executor: as for
            `synthesise_queries`; the hard negatives come from distractors that it does not get.
        out: folder to write: `queries/`, `references/`, `ground_truth.csv`, `edits.csv`, and
            `kinds.csv` (query_id,kind; kind one of positive, negative, look_alike, decoy).
            `ordinary/` in it holds the ordinary set. Finished work is kept, a killed call resumes.
        share: of hard negatives among all queries, 0..1.
        vectors: descriptors of `images` and of `distractors`, (N, D) each, to find look-alikes;
            None for thumbnails, which need no model.

    Raises:
        KitError: a wrong share, or too few distractors.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    count = hard_count(positives + negatives, share)
    order = np.random.default_rng([seed, 0, 4]).permutation(len(distractors)).tolist()
    if len(order) < count + max(1, negatives):
        raise KitError(
            f"{len(order)} distractors are too few for {count} hard negatives and {negatives} "
            "ordinary ones: give more photographs, or lower the share of hard negatives"
        )
    # Half of what is left over goes to each side: the best look-alikes need a choice.
    spare = (len(order) - count - negatives) // 2
    hard, ordinary = order[: count + spare], sorted(order[count + spare :])
    given = None if vectors is None else [hashlib.sha256(v.tobytes()).hexdigest() for v in vectors]
    key = content_key(
        VERSION, images.key(), distractors.key(), recipe.key(), positives, negatives, seed, share,
        given,
    )  # fmt: skip
    folder = resolve(out)
    if _finished(folder, key):
        return folder
    base = synthesise_queries(
        images, distractors.subset(ordinary), recipe, folder / "ordinary",
        positives=positives, negatives=negatives, seed=seed, executor=executor,
    )  # fmt: skip
    held_out = distractors.subset(hard)
    decoys, alike = _choose(images, held_out, _similar(images, held_out, vectors, hard), count,
                            executor)  # fmt: skip
    _assemble(folder, base, held_out, decoys, alike, seed)
    write_text(folder / MARKER, key)
    return folder


def add_hard_negatives(
    base: str | Path, out: str | Path, *, seed: int, executor: Executor, share: float = SHARE
) -> Path:
    """A copy of a benchmark with hard negatives, made of references that no query was made from.

    Look-alikes and decoys are as in `ndec_like`; a reference that becomes one is no reference any
    more. So the set needs no photographs from elsewhere.

    Args:
        base: folder in ISC layout with a ground truth.
        out: folder to write, as that of `ndec_like` without `ordinary/`. Finished work is kept.
        seed, executor: as everywhere.
        share: of hard negatives among all queries, 0..1; half of the references without a query
            stay references where the share allows it.

    Raises:
        KitError: too few references without a query.
    """
    base, folder = resolve(base), resolve(out)
    queries, references = (
        open_folder(base / name, by_name=True) for name in ("queries", "references")
    )
    truth = read_ground_truth(base / TRUTH)
    count, used = hard_count(len(queries), share), set(truth.reference_id)
    free = [i for i, name in enumerate(references.ids) if name not in used]
    if len(free) < count:
        raise KitError(
            f"{len(free)} references without a query are too few for {count} hard negatives: give "
            "more references, or lower the share of hard negatives"
        )
    key = content_key(
        VERSION, references.key(), queries.key(), file_hash(base / TRUTH), seed, share
    )
    if _finished(folder, key):
        return folder
    order = np.random.default_rng([seed, 0, 4]).permutation(free)
    held_out = references.subset(order[: max(count, len(free) // 2)].tolist())
    kept = drop(references, set(held_out.ids))
    similar = _similar(kept, held_out, None, None)
    decoys, alike = _choose(kept, held_out, similar, count, executor)
    taken = {held_out.ids[i] for i in (*decoys, *alike)}
    _assemble(folder, base, held_out, decoys, alike, seed, without=taken)
    write_text(folder / MARKER, key)
    return folder


def _finished(folder: Path, key: str) -> bool:
    """Whether a folder holds this very set; if not, it is no longer called finished."""
    marker = folder / MARKER
    if (folder / STATE).exists():
        raise KitError(f"{folder} holds a set of another kind: choose an empty folder")
    if marker.exists() and marker.read_text(encoding="utf-8") == key:
        log.info("NDEC-like set finished before: %s", folder)
        return True
    marker.unlink(missing_ok=True)
    return False


def _similar(images, held_out, vectors, hard) -> np.ndarray:
    """Cosines (held-out images, references)."""
    if vectors is None:
        return thumbnails(held_out) @ thumbnails(images).T
    ours, theirs = (unit_rows(np.asarray(rows, np.float32)) for rows in vectors)
    return theirs[hard] @ ours.T


def _choose(images, held_out, similar, count, executor) -> tuple[list[int], list[int]]:
    """Held-out images that become decoys (at random) and look-alikes (the most similar ones)."""
    wanted = round(count * DECOYS)
    # The order of the held-out images is random already.
    decoys = _usable(images, held_out, similar, range(len(held_out)), wanted, executor)
    rest = np.setdiff1d(np.arange(len(held_out)), decoys)
    nearest = rest[np.argsort(-similar[rest].max(axis=1), kind="stable")]
    alike = _usable(images, held_out, similar, nearest.tolist(), count - wanted, executor)
    if len(decoys) + len(alike) < count:
        log.warning("%d hard negatives instead of %d", len(decoys) + len(alike), count)
    return decoys, alike


def _usable(
    images: ImageSet,
    held_out: ImageSet,
    similar: np.ndarray,
    order: Iterable[int],
    count: int,
    executor: Executor,
) -> list[int]:
    """The first `count` held-out images of the order that can be read and are no copies."""
    order, found = list(order), []
    while order and len(found) < count:
        part, order = order[: count - len(found)], order[count - len(found) :]
        likely = [np.argsort(-similar[i], kind="stable")[:TRIES].tolist() for i in part]
        jobs = list(zip(part, likely, strict=True))
        verdicts = executor.map(
            partial(no_copy, images, held_out), jobs, desc="hard negatives", chunk=4
        )
        found += [i for i, good in zip(part, verdicts, strict=True) if good]
    return found


def crop_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Box (x0, y0, x1, y1) of the picture's shape with 20 to 50 % of its area, anywhere in it."""
    side = np.sqrt(rng.uniform(*AREA))
    width, height = (max(1, round(length * side)) for length in size)
    x, y = int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1))
    return x, y, x + width, y + height


def decoy_box(picture: Image.Image, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """The first of ten crop boxes with 20 SIFT points, of none the one with the most."""
    best, most = None, -1
    for _ in range(BOXES):
        box = crop_box(picture.size, rng)
        points = len(keypoints(picture.crop(box))[0])
        if points >= POINTS:
            return box
        if points > most:
            best, most = box, points
    return best


def _assemble(
    folder: Path,
    base: Path,
    held_out: ImageSet,
    decoys: list[int],
    alike: list[int],
    seed: int,
    without: Collection[str] = (),
) -> None:
    """Take over the ordinary set, its references `without` some; add hard negatives and tables."""
    for name in ("queries", "references"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file in (folder / name).iterdir():  # of a call with other arguments
            file.unlink()
        images = open_folder(base / name, by_name=True)
        for i, image_id in enumerate(images.ids):
            if name == "queries" or image_id not in without:
                link_or_copy(images.path(i), folder / name / images.path(i).name)
    truth = read_ground_truth(base / TRUTH).to_numpy().tolist()
    # A query stands in each row of its originals, or in none where only positives are listed.
    known = list(dict.fromkeys([query for query, _ in truth] + open_folder(base / "queries").ids))
    listed = base / "edits.csv"
    edits = read_edits(listed, known) if listed.exists() else {}
    edits = [(query, edits.get(query, "")) for query in known]
    answered = {query for query, reference in truth if reference}
    kinds = [(query, "positive" if query in answered else "negative") for query in known]
    digits = len(truth[0][0]) - 1
    hard = [("decoy", i) for i in decoys] + [("look_alike", i) for i in alike]
    numbers = itertools.count(len(known))
    names = (name for n in numbers if (name := f"Q{n:0{digits}d}") not in set(known))
    for (kind, i), query in zip(hard, names, strict=False):
        number = int(query[1:])
        picture, path = held_out.load(i), held_out.path(i)
        if kind == "decoy":
            box = decoy_box(picture, np.random.default_rng([seed, number]))
            name = f"crop_of_{query}.jpg"
            _write(folder / "references" / name, encode_jpeg(picture.crop(box), QUALITY))
        if path is None:
            _write(folder / "queries" / f"{query}.jpg", encode_jpeg(picture, QUALITY))
        else:
            link_or_copy(path, folder / "queries" / f"{query}{picture_ending(path)}")
        truth.append((query, ""))
        edits.append((query, ""))
        kinds.append((query, kind))
    write_csv(folder / TRUTH, ("query_id", "reference_id"), truth)
    write_csv(folder / "edits.csv", ("query_id", "edits"), edits)
    write_csv(folder / KINDS, ("query_id", "kind"), kinds)


def _write(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_kinds(folder: str | Path) -> pd.Series:
    """Kind of each query of an NDEC-like set, indexed by query id; `KitError` for other sets."""
    path = resolve(folder) / KINDS
    if not path.exists():
        raise KitError(f"{path} does not exist: only a set made by ndec_like has it")
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("query_id")["kind"]


def hard_queries(folder: str | Path) -> list[str] | None:
    """Ids of the hard negative queries of an NDEC-like set; None for other benchmarks."""
    path = resolve(folder)
    if not (path / KINDS).exists():
        return None
    kinds = read_kinds(path)
    return kinds.index[kinds.isin(["look_alike", "decoy"])].tolist()


def query_set(
    images: ImageSet,
    distractors: ImageSet,
    recipe: Recipe | str,
    folder: str | Path,
    *,
    hard: float = 0.0,
    **options: Any,
) -> Path:
    """A benchmark below `folder`: ordinary, or with this share of hard negatives (`ndec_like`).

    `options` are those of `synthesise_queries`: positives, negatives, seed, executor.
    """
    if hard:
        out = Path(folder) / "ndec_like"
        return ndec_like(images, distractors, recipe, out, share=hard, **options)
    return synthesise_queries(images, distractors, recipe, Path(folder) / "benchmark", **options)
