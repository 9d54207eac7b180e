"""Votes within a shortlist: a query's points look among those of its own references alone.

A descriptor finds a few hundred references of millions; points then say which of them are worth a
verification, at the price of a few hundred pictures, without an index of all points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.files.artifacts import atomic_path, content_key
from iscutils.files.executor import Executor
from iscutils.local.config import LocalConfig
from iscutils.local.hits import Hits, Points, hits_between
from iscutils.local.nearest import NearestPoint
from iscutils.local.sift import mirror_descriptors, order_of_strongest
from iscutils.local.store import Features, with_features

VERSION = 1  # raise when the same points get other hits
QUERIES = 16  # per task and per file of finished work
NAMES = [field.name for field in fields(Hits)]

Strong = tuple[Points, np.ndarray]  # points of pictures, and their descriptors (M, 128) uint8


def hits_among(
    pairs: pd.DataFrame,
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
    executor: Executor,
    folder: str | Path | None = None,
) -> list[tuple[bool, Hits]]:
    """The nearest point, among those of its shortlist, of every voting point of every query.

    Args:
        pairs: query_id, reference_id: the shortlists. Pictures without features are left out.
        folder: where finished chunks are kept, so that a killed call continues.

    Returns:
        (mirrored, hits) of each half, as of `voting.search_hits`.
    """
    names = with_features(pairs, query_features, reference_features)
    names = names[["query_id", "reference_id"]].drop_duplicates()
    queries, references = query_features.index(), reference_features.index()
    rows = names["reference_id"].map(references)
    lists = [
        (int(query), sorted(own.tolist()))
        for query, own in rows.groupby(names["query_id"].map(queries), sort=True)
    ]
    chunks = [lists[start : start + QUERIES] for start in range(0, len(lists), QUERIES)]
    halves = (False, True) if config.mirror_search else (False,)
    key = content_key(
        VERSION, query_features.key, reference_features.key, config.vote_points, halves
    )
    job = partial(
        _search_chunk, query_features, reference_features, config.vote_points, halves,
        None if folder is None else Path(folder), key,
    )  # fmt: skip
    none = np.zeros((len(halves), len(NAMES), 0))
    found = np.concatenate([none, *executor.map(job, chunks, desc="votes")], axis=2)
    return [(half, _to_hits(columns)) for half, columns in zip(halves, found, strict=True)]


def _search_chunk(
    query_features: Features,
    reference_features: Features,
    count: int,
    halves: Sequence[bool],
    folder: Path | None,
    key: str,
    lists: Sequence[tuple[int, list[int]]],
) -> np.ndarray:
    """Columns of `Hits` (halves, 6, M) for some queries and their references, rows of the files."""
    path = None if folder is None else folder / f"{content_key(key, lists)}.npy"
    if path is not None and path.exists():
        return np.load(path, allow_pickle=False)
    load = lru_cache(maxsize=None)(partial(strongest, reference_features, count))
    found = np.concatenate(
        [_search_one(strongest(query_features, count, row), own, load, halves)
         for row, own in lists], axis=2,
    )  # fmt: skip
    if path is not None:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, found, allow_pickle=False)
    return found


def _search_one(
    query: Strong, references: Sequence[int], load: Callable[[int], Strong], halves: Sequence[bool]
) -> np.ndarray:
    """Columns of `Hits` (halves, 6, M) of one query."""
    points, own = query
    among = [load(row) for row in references]
    known = np.concatenate([descriptors for _, descriptors in among])
    if not len(own) or not len(known):
        return np.zeros((len(halves), len(NAMES), 0))
    places = Points(
        *(np.concatenate([getattr(part, name) for part, _ in among])
          for name in ("row", "index", "keypoints"))
    )  # fmt: skip
    both = np.concatenate([mirror_descriptors(own) if half else own for half in halves])
    distance, place = NearestPoint(known).search(both)
    distance, place = (found.reshape(len(halves), -1) for found in (distance, place))
    hits = [
        hits_between(points, places.subset(place[i]), distance[i], half)
        for i, half in enumerate(halves)
    ]
    return np.stack([np.stack([getattr(hit, name) for name in NAMES]) for hit in hits])


def _to_hits(columns: np.ndarray) -> Hits:
    """Columns (6, M) as they are kept, all in float64, which is exact for rows of any file."""
    kinds = {"query": np.int64, "reference": np.int64, "point": np.int64}
    return Hits(
        *(column.astype(kinds.get(name, np.float32))
          for name, column in zip(NAMES, columns, strict=True))
    )  # fmt: skip


def strongest(features: Features, count: int, row: int) -> Strong:
    """The `count` strongest points of a picture, 0 for all, in file order."""
    picture, start = features.load(row), int(features.offsets[row])
    chosen = np.sort(order_of_strongest(picture.responses, count))
    places = Points(np.full(len(chosen), row), start + chosen, picture.keypoints[chosen])
    return places, picture.descriptors[chosen]
