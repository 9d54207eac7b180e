"""Candidates by votes: every query point votes for the picture of its nearest reference point.

Source: imgFp (arXiv 2112.02373), branches B and C. Besides the published acceptance rule there are
plain counts with a minimum, mirrored search, and counting only votes that agree geometrically.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from tqdm import tqdm

from iscutils.local.config import LocalConfig
from iscutils.local.sift import mirror_descriptors, order_of_strongest
from iscutils.local.store import Features

BLOCK = 2_000_000  # reference points searched at a time: 1 GB as float32
QUERY_POINTS = 16_384  # query points searched at a time, at least
TURNS = 12  # cells of 30 degrees; cells of scale are octaves


class NearestPoint:
    """Exact nearest point by squared L2 distance; faiss where installed, else NumPy.

    Distances of integers are exact in float32 (below 2^24), so both give the same result; of
    equal distances the lower index wins.
    """

    def __init__(self, points: np.ndarray):
        self.points = np.ascontiguousarray(points, np.float32)  # (M, 128)
        self.index = None
        try:
            import faiss
        except ImportError:
            return
        self.index = faiss.IndexFlatL2(self.points.shape[1])
        self.index.add(self.points)
        self.points = self.points[:0]  # faiss has its own copy

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances (Q,) and indices (Q,) of the nearest points of queries (Q, 128)."""
        queries = np.ascontiguousarray(queries, np.float32)
        if self.index is not None:
            distances, indices = self.index.search(queries, 1)
            return distances[:, 0], indices[:, 0]
        norms = (self.points**2).sum(axis=1)
        distances, indices = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)
        for start in range(0, len(queries), 256):  # bounds the memory of the distance matrix
            rows = slice(start, start + 256)
            block = queries[rows]
            table = (block**2).sum(axis=1)[:, None] + norms - 2 * block @ self.points.T
            indices[rows] = table.argmin(axis=1)
            distances[rows] = table.min(axis=1)
        return distances, indices


@dataclass(frozen=True)
class Hits:
    """The nearest reference point of every query point, for one half of the search.

    Arrays of one row per query point: `query` and `reference` are rows of the feature files,
    `point` the reference point hit, `distance` its squared L2 distance, `turn` (degrees) and
    `octave` (log2) how the query point is turned and scaled against it.
    """

    query: np.ndarray
    reference: np.ndarray
    point: np.ndarray
    distance: np.ndarray
    turn: np.ndarray
    octave: np.ndarray


def vote(
    query_features: Features, reference_features: Features, config: LocalConfig
) -> pd.DataFrame:
    """References that the points of each query vote for.

    Returns columns query_id, reference_id, votes, mirrored (the half that found it) and
    mean_distance (over all hits of that reference in that half), best first within a query. A
    reference appears once per query, with its better half. With `consistent_votes`, `votes` counts
    different reference points whose hits agree on turn and scale; else all hits.
    """
    tables = [
        choose(count_votes(hits, config.consistent_votes), config).assign(mirrored=mirrored)
        for mirrored, hits in search_hits(query_features, reference_features, config)
    ]
    table = pd.concat(tables, ignore_index=True)
    table = _in_order(table).drop_duplicates(["query", "reference"])
    return pd.DataFrame(
        {
            "query_id": np.array(query_features.ids, object)[table["query"]],
            "reference_id": np.array(reference_features.ids, object)[table["reference"]],
            "votes": table["votes"].to_numpy(),
            "mirrored": table["mirrored"].to_numpy(bool),
            "mean_distance": table["mean_distance"].to_numpy(),
        }
    )


def search_hits(
    query_features: Features, reference_features: Features, config: LocalConfig
) -> Iterator[tuple[bool, Hits]]:
    """Yield (mirrored, hits) of the plain half and, with `mirror_search`, of the mirrored one."""
    halves = (False, True) if config.mirror_search else (False,)
    queries = _voting_points(query_features, config.vote_points)
    references = _voting_points(reference_features, config.vote_points)
    best = np.full((len(halves), len(queries.row)), np.inf, np.float32)
    nearest = np.zeros(best.shape, np.int64)
    blocks = range(0, len(references.row), BLOCK)
    groups = _groups(queries.row)
    progress = tqdm(desc="votes", total=len(blocks) * len(groups))
    for start in blocks:
        chosen = slice(start, start + BLOCK)
        index = NearestPoint(_descriptors(reference_features, references, chosen))
        for group in groups:
            descriptors = _descriptors(query_features, queries, group)
            for half, mirrored in enumerate(halves):
                turned = mirror_descriptors(descriptors) if mirrored else descriptors
                distance, found = index.search(turned)
                closer = distance < best[half, group]
                best[half, group][closer] = distance[closer]
                nearest[half, group][closer] = found[closer] + start
            progress.update()
    progress.close()
    if not len(blocks):
        queries = queries.subset(slice(0, 0))
    for half, mirrored in enumerate(halves):
        hit = references.subset(nearest[half, : len(queries.row)])
        yield mirrored, _hits(queries, hit, best[half, : len(queries.row)], mirrored)


@dataclass(frozen=True)
class _Points:
    row: np.ndarray  # picture
    index: np.ndarray  # row in the file's arrays of points
    keypoints: np.ndarray  # (M, 4)

    def subset(self, chosen: slice | np.ndarray) -> _Points:
        return _Points(self.row[chosen], self.index[chosen], self.keypoints[chosen])


def _voting_points(features: Features, count: int) -> _Points:
    """The strongest `count` points of every picture, in file order."""
    keypoints, responses = features.all_points()
    chosen = [
        start + np.sort(order_of_strongest(responses[start:end], count))
        for start, end in zip(features.offsets[:-1], features.offsets[1:], strict=True)
    ]
    index = np.concatenate([np.zeros(0, np.int64), *chosen])
    row = np.repeat(np.arange(len(chosen)), [len(one) for one in chosen])
    return _Points(row, index, keypoints[index])


def _descriptors(features: Features, points: _Points, chosen: slice) -> np.ndarray:
    index = points.index[chosen]
    if not len(index):
        return np.zeros((0, 128), np.uint8)
    return features.descriptors(int(index[0]), int(index[-1]) + 1)[index - index[0]]


def _groups(row: np.ndarray) -> list[slice]:
    edges = [*range(0, len(row), QUERY_POINTS), len(row)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _hits(queries: _Points, hit: _Points, distance: np.ndarray, mirrored: bool) -> Hits:
    # A mirror reverses the sense of turning: angles then add up instead of cancelling.
    angle = queries.keypoints[:, 3] + (1 if mirrored else -1) * hit.keypoints[:, 3]
    octave = np.log2(queries.keypoints[:, 2] / hit.keypoints[:, 2])
    return Hits(queries.row, hit.row, hit.index, distance, angle % 360, octave)


def count_votes(hits: Hits, consistent: bool) -> pd.DataFrame:
    """Votes and mean distance of every (query, reference) that was hit, rows as indices."""
    table = pd.DataFrame(
        {"query": hits.query, "reference": hits.reference, "distance": hits.distance}
    )
    groups = table.astype({"distance": float}).groupby(["query", "reference"], sort=True)
    counted = groups["distance"].agg(["size", "mean"]).reset_index()
    counted.columns = ["query", "reference", "votes", "mean_distance"]
    if consistent and len(hits.query):
        best = _consistent(hits)
        counted = counted.drop(columns="votes").merge(best, on=["query", "reference"])
    return counted


def _consistent(hits: Hits) -> pd.DataFrame:
    """Most votes of different reference points in one cell of turn and scale.

    Four grids, shifted by half a cell, so that no pose lies at a border of all of them (Jegou,
    Douze, Schmid, "Hamming embedding and weak geometric consistency", ECCV 2008, in short).
    """
    grids = []
    for shift in (0, 0.5):
        turn = np.floor(hits.turn / 360 * TURNS + shift).astype(np.int64) % TURNS
        for other in (0, 0.5):
            octave = np.floor(hits.octave + other).astype(np.int64)
            grids.append(
                pd.DataFrame(
                    {
                        "query": hits.query,
                        "reference": hits.reference,
                        "cell": (octave * TURNS + turn) * 4 + len(grids),
                        "point": hits.point,
                    }
                )
            )
    votes = pd.concat(grids).drop_duplicates()
    votes = votes.groupby(["query", "reference", "cell"]).size().reset_index(name="votes")
    return votes.groupby(["query", "reference"])["votes"].max().reset_index()


def accepts(votes: int, runner_up: int | None, mean_distance: float, limit: float = 8000) -> bool:
    """The published rule for the reference with most votes; `runner_up` None: no other was hit."""
    if mean_distance >= limit:
        return False
    return votes > 5 if runner_up is None else votes > 3 and votes > runner_up


def choose(counted: pd.DataFrame, config: LocalConfig) -> pd.DataFrame:
    """The candidates of each query among its counted references, by the rule of `config`."""
    ordered = _in_order(counted)
    if config.vote_rule == "top":
        enough = ordered[ordered["votes"] >= config.min_votes]
        return enough.groupby("query").head(config.max_candidates)
    first = ordered.drop_duplicates("query")
    second = ordered[ordered.duplicated("query")].drop_duplicates("query")
    runner_up = second.set_index("query")["votes"].to_dict()
    limit = config.max_mean_distance
    kept = [
        accepts(row.votes, runner_up.get(row.query), row.mean_distance, limit)
        for row in first.itertuples()
    ]
    return first[np.array(kept, dtype=bool)]


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """By query, then votes falling, mean distance rising, reference."""
    order = ["query", "votes", "mean_distance", "reference"]
    return table.sort_values(order, ascending=[True, False, True, True], kind="stable")
