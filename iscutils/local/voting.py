"""Candidates by votes: every query point votes for the picture of its nearest reference point.

Source: imgFp (arXiv 2112.02373), branches B and C. Besides the published acceptance rule there are
plain counts with a minimum, mirrored search, and counting only votes that agree geometrically.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from iscutils.files.artifacts import atomic_path, content_key
from iscutils.files.executor import Executor
from iscutils.local.among import hits_among
from iscutils.local.config import LocalConfig
from iscutils.local.hits import Hits, Points, hits_between
from iscutils.local.point_index import CompressedPoints, FlatPoints, open_points, read_points
from iscutils.local.sift import mirror_descriptors, order_of_strongest
from iscutils.local.store import Features

VERSION = 1  # raise when the same points get other hits
QUERY_POINTS = 16_384  # query points searched at a time: the unit of resuming
MANY_QUERY_POINTS = 131_072  # the same, where reference points are read from disc for each block
TURNS = 12  # cells of 30 degrees; cells of scale are octaves


def vote(
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
    *,
    folder: str | Path | None = None,
    executor: Executor | None = None,
    training: Features | None = None,
    among: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """References that the points of each query vote for.

    Returns columns query_id, reference_id, votes, mirrored (the half that found it) and
    mean_distance (over all hits of that reference in that half), best first within a query. A
    reference appears once per query, with its better half. With `consistent_votes`, `votes` counts
    different reference points whose hits agree on turn and scale; else all hits. `config.index`
    says how points are searched; a compressed index is built beside the reference features, with
    the workers of `executor`, from their points or those of background pictures (`training`). With
    `folder`, finished blocks of query points are kept there, so that a killed call continues.

    `among`, pairs query_id, reference_id, are shortlists: a query's points are then compared with
    those of its own references alone, exactly and without an index, by the workers of `executor`.
    """
    if among is None:
        halves = search_hits(
            query_features, reference_features, config,
            folder=folder, executor=executor, training=training,
        )  # fmt: skip
    else:
        halves = hits_among(among, query_features, reference_features, config, executor, folder)
    return votes_of_hits(halves, query_features, reference_features, config)


def votes_of_hits(
    halves: Iterable[tuple[bool, Hits]],
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
) -> pd.DataFrame:
    """The table of `vote` from hits that are at hand: (mirrored, hits) of each half."""
    tables = [
        choose(count_votes(hits, config.consistent_votes), config).assign(mirrored=mirrored)
        for mirrored, hits in halves
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
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
    *,
    folder: str | Path | None = None,
    executor: Executor | None = None,
    training: Features | None = None,
) -> Iterator[tuple[bool, Hits]]:
    """Yield (mirrored, hits) of the plain half and, with `mirror_search`, of the mirrored one.

    The other arguments are those of `vote`. A query point for which a compressed index finds
    nothing has no row.
    """
    halves = (False, True) if config.mirror_search else (False,)
    queries = _voting_points(query_features, config.vote_points)
    references = _voting_points(reference_features, config.vote_points)
    if not len(references.row):
        queries = queries.subset(slice(0, 0))
    distance = np.zeros((len(halves), len(queries.row)), np.float32)
    place = np.zeros(distance.shape, np.int64)
    if len(queries.row):
        points = open_points(
            reference_features, references.index, config, executor, training=training
        )
        key = content_key(
            VERSION, query_features.key, reference_features.key, config.vote_points, halves,
            config.index, config.probes, config.rerank, None if training is None else training.key,
        )  # fmt: skip
        step = QUERY_POINTS if points.in_memory else MANY_QUERY_POINTS
        with tqdm(desc="votes", total=len(queries.row), unit="points") as progress:
            for start in range(0, len(queries.row), step):
                block = slice(start, min(start + step, len(queries.row)))
                path = None if folder is None else Path(folder) / f"{key}-{start:012d}.npz"
                job = partial(_search_block, points, query_features, queries.index[block], halves)
                distance[:, block], place[:, block] = _kept(path, job)
                progress.update(block.stop - start)
    for half, mirrored in enumerate(halves):
        found = np.flatnonzero(place[half] >= 0)
        hit = references.subset(place[half, found])
        yield mirrored, hits_between(queries.subset(found), hit, distance[half, found], mirrored)


def _search_block(
    points: FlatPoints | CompressedPoints,
    features: Features,
    index: np.ndarray,
    halves: tuple[bool, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and places (halves, Q) of the points nearest to some query points."""
    plain = read_points(features, index)
    both = np.concatenate([mirror_descriptors(plain) if half else plain for half in halves])
    distance, place = points.search(both)
    return distance.reshape(len(halves), -1), place.reshape(len(halves), -1)


def _kept(path: Path | None, job: Callable) -> tuple[np.ndarray, np.ndarray]:
    """What the job returned before, if it was kept; else run it, and keep what it returns."""
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as file:
            return file["distance"], file["place"]
    distance, place = job()
    if path is not None:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, distance=distance, place=place)
    return distance, place


def _voting_points(features: Features, count: int) -> Points:
    """The strongest `count` points of every picture, in file order."""
    keypoints, responses = features.all_points()
    if not count:
        row = np.repeat(np.arange(len(features)), np.diff(features.offsets))
        return Points(row, np.arange(len(keypoints)), keypoints)
    chosen = [
        start + np.sort(order_of_strongest(responses[start:end], count))
        for start, end in zip(features.offsets[:-1], features.offsets[1:], strict=True)
    ]
    index = np.concatenate([np.zeros(0, np.int64), *chosen])
    row = np.repeat(np.arange(len(chosen)), [len(one) for one in chosen])
    return Points(row, index, keypoints[index])


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
