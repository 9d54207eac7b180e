"""Choose the photographs a query set is made from: references, and distractors beside them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from iscutils import datasets
from iscutils.edits.manifest import read_manifest
from iscutils.files.artifacts import KitError, file_hash
from iscutils.files.executor import Executor
from iscutils.files.images import ImageError, ImageSet, drop, look_at

LEAST_DISTRACTORS = 20  # donors for compositions, also when few negative queries are wanted
Rows = list[tuple[str, str, str]]  # (image_id, file, reason)


@dataclass(frozen=True)
class Sources:
    """Photographs at hand: references and distractors have none in common.

    benchmark: folder of a benchmark that is there already, None when queries are to be made.
    skipped: (image_id, file, reason) of files that were left out.
    """

    benchmark: Path | None
    references: ImageSet
    distractors: ImageSet
    skipped: Rows


def open_sources(
    data: str,
    train_images: str,
    *,
    references: int,
    negatives: int,
    seed: int,
    folder: str | Path,
    executor: Executor,
) -> Sources:
    """The photographs that a `data` parameter stands for.

    A folder in ISC layout or an official data set is a benchmark already; its background stands in
    for the distractors.
    Builtin images have parts for both. A folder of photographs is split, see `split_photographs`.
    `references` limits the references, 0 = all. The name of an official data set is noted in
    `folder`. Raises `KitError` where there are fewer than `references`.
    """
    if data == "builtin":
        number = max(negatives, LEAST_DISTRACTORS)
        own = datasets.builtin_images("reference", references, seed)
        if len(own) < references:
            raise KitError(
                f"references={references}, but there are only {len(own)} builtin ones: lower it, "
                "or set data to a folder of photographs"
            )
        return Sources(None, own, datasets.builtin_images("distractor", number, seed), [])
    if datasets.is_benchmark(data):
        benchmark = datasets.open_benchmark(data, train_images, seed=seed, require_truth=False)
        ready = datasets.benchmark_file(data, folder)
        return Sources(ready, benchmark.references, benchmark.background, [])
    return split_photographs(
        datasets.open_images(data),
        references=references,
        negatives=negatives,
        seed=seed,
        executor=executor,
    )


def split_photographs(
    images: ImageSet, *, references: int, negatives: int, seed: int, executor: Executor
) -> Sources:
    """Split photographs at random into references and distractors.

    Unreadable files and byte-identical copies of other files are left out and listed, beside what
    the folder holds otherwise and notes on pictures that are used (`artifacts.NOTE`). `references`
    limits the references, 0 = all that are left. The distractors are as many as the negative
    queries need, but at least 20 (or a quarter of a small set) as donors. The order of ids is
    kept. Raises `KitError` if the set is too small.
    """
    left_out = [("", path, reason) for path, reason in getattr(images, "left_out", ())]
    twins = find_twins(images)
    images = drop(images, {row[0] for row in twins})
    number = max(negatives, min(LEAST_DISTRACTORS, len(images) // 4))
    order = np.random.default_rng([seed, 0, 2]).permutation(len(images)).tolist()
    wanted = number + references if references else len(images)
    chosen, remarks = _take_readable(images, order, wanted, executor)
    if len(chosen) < number + max(1, references):
        raise KitError(
            f"{len(chosen)} usable photographs are too few for {references or 'any'} references "
            f"and {number} distractors: give more photographs, or lower references and negatives"
        )
    distractors, own = sorted(chosen[:number]), sorted(chosen[number:])
    return Sources(None, images.subset(own), images.subset(distractors), left_out + twins + remarks)


def _take_readable(
    images: ImageSet, order: list[int], wanted: int, executor: Executor
) -> tuple[list[int], Rows]:
    """The first `wanted` indices of the order that can be decoded, and what to say of files.

    Only as many files are read as needed: a limit makes a huge folder quick.
    """
    chosen: list[int] = []
    rows: Rows = []
    while order and len(chosen) < wanted:
        part, order = order[: wanted - len(chosen)], order[wanted - len(chosen) :]
        bad, noted = look_at(images.subset(part), executor)
        bad_ids = {row[0] for row in bad}
        chosen += [i for i in part if images.ids[i] not in bad_ids]
        rows += bad + noted
    return chosen, rows


def find_twins(images: ImageSet) -> Rows:
    """Rows (image_id, file, reason) of files whose bytes equal those of an earlier file.

    With twins among the references a query would have two originals, and ground truth only one.
    Only files of equal size are read.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for i in range(len(images)):
        path = images.path(i)
        if path is not None and path.is_file():
            by_size[path.stat().st_size].append(i)
    rows = []
    for group in by_size.values():
        first: dict[str, int] = {}
        for i in group if len(group) > 1 else ():
            twin = first.setdefault(file_hash(images.path(i)), i)
            if twin != i:
                reason = f"same bytes as {images.ids[twin]}"
                rows.append((images.ids[i], str(images.path(i)), reason))
    return sorted(rows)


def load_some(images: ImageSet, number: int) -> dict[str, Image.Image]:
    """The first `number` readable images by id, for a look at them."""
    found: dict[str, Image.Image] = {}
    for i, name in enumerate(images.ids):
        if len(found) == number:
            break
        try:
            found[name] = images.load(i)
        except ImageError:
            continue
    return found


def known_queries(benchmark: datasets.Benchmark) -> tuple[list[str], list[str]]:
    """Ids of the queries with an original and of those without; both empty without ground truth."""
    truth = benchmark.ground_truth
    if truth is None:
        return [], []
    every = truth["query_id"].drop_duplicates()  # of several originals each has a row
    positive = every.isin(set(truth["query_id"][truth["reference_id"] != ""]))
    return every[positive].tolist(), every[~positive].tolist()


def find_manifest(folder: Path) -> pd.DataFrame | None:
    """`read_manifest` of a synthesised set; None for a benchmark from elsewhere."""
    return read_manifest(folder) if (folder / "manifest.parquet").exists() else None
