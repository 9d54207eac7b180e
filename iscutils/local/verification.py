"""Local verification: candidates from points and whole pictures, one score for every pair."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.evaluation.pairs import sort_pairs
from iscutils.evaluation.submissions import write_predictions
from iscutils.files.artifacts import atomic_path, content_key, log, write_json
from iscutils.files.executor import Executor
from iscutils.local.branches import PAIR, Crops, propose
from iscutils.local.config import LocalConfig
from iscutils.local.matching import PairMatch, match_pair
from iscutils.local.merge import merge_branches, read_curves
from iscutils.local.store import Features, with_features
from iscutils.local.voting import vote
from iscutils.local.whole import whole_candidates

VERSION = 4  # raise when the same pair gets another score
CHUNK = 32  # pairs per task and per file of finished work
MATRIX = [f"h{i}{j}" for i in range(3) for j in range(3)]
VALUES = [
    "score", "inliers", "matches", "mirrored", "mean_distance", "coverage", "agreement", *MATRIX
]  # fmt: skip


def score_pairs(
    pairs: pd.DataFrame,
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
    executor: Executor,
    *,
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """Score every (query_id, reference_id) of `pairs`; each pair on its own.

    Returns one row per distinct pair: query_id, reference_id, score (higher = more alike), inliers,
    matches (before geometry), mirrored, mean_distance (squared L2 of the matches), coverage (part
    of the query that the reference covers), agreement (local correlation of the pixels, -1..1),
    h00..h22 (homography, reference px -> query px, original pictures; empty without geometry).
    Pairs whose pictures have no features file entry (skipped ones) are left out. With `folder`,
    finished chunks are kept there, so that a killed call continues.
    """
    ids = pairs[["query_id", "reference_id"]].drop_duplicates()
    ids = ids.sort_values(["query_id", "reference_id"], ignore_index=True)
    ids = with_features(ids, query_features, reference_features).reset_index(drop=True)
    queries, references = query_features.index(), reference_features.index()
    rows = np.column_stack(
        [ids["query_id"].map(queries), ids["reference_id"].map(references)]
    ).astype(np.int64)  # (pairs, 2)
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    key = content_key(VERSION, query_features.key, reference_features.key, asdict(config))
    job = partial(
        _score_chunk, query_features, reference_features, config,
        None if folder is None else Path(folder), key,
    )  # fmt: skip
    scored = list(executor.map(job, chunks, desc="pairs"))
    values = np.concatenate([np.zeros((0, len(VALUES))), *scored])
    table = pd.concat([ids, pd.DataFrame(values, columns=VALUES)], axis=1)
    return sort_pairs(
        table.astype({"inliers": int, "matches": int, "mirrored": int, "score": float})
    )


def _score_chunk(
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
    folder: Path | None,
    key: str,
    rows: np.ndarray,
) -> np.ndarray:
    """Values (pairs, len(VALUES)) of some pairs (pairs, 2), given as rows of the feature files."""
    path = None if folder is None else folder / f"{content_key(key, rows)}.npy"
    if path is not None and path.exists():
        return np.load(path, allow_pickle=False)
    load_query = lru_cache(maxsize=1)(query_features.load)  # pairs come sorted by query
    values = np.array(
        [_row(match_pair(load_query(q), reference_features.load(r), config)) for q, r in rows]
    )
    if path is not None:
        with atomic_path(path) as temporary:
            np.save(temporary, values, allow_pickle=False)
    return values


def _row(pair: PairMatch) -> list[float]:
    matrix = np.full(9, np.nan) if pair.homography is None else pair.homography.ravel()
    return [
        pair.score, pair.inliers.sum(), pair.matches, pair.mirrored, pair.mean_distance,
        pair.coverage, pair.agreement, *matrix,
    ]  # fmt: skip


def find_candidates(
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
    others: pd.DataFrame | None = None,
    *,
    votes: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """All pairs worth a look: voted, alike as whole pictures, and `others` of a global descriptor.

    Returns query_id, reference_id and, from the sources in use, votes, correlation of the whole
    pictures and global_score (NaN where that source did not propose the pair). `votes` is the
    result of `vote`, if it is at hand.
    """
    columns = ["query_id", "reference_id"]
    if votes is None:
        votes = vote(query_features, reference_features, config)
    table = votes[[*columns, "votes"]]
    if config.whole_candidates:
        whole = whole_candidates(
            query_features, reference_features, config.whole_candidates, config.negatives
        )
        table = table.merge(whole, on=columns, how="outer")
    if others is not None:
        best = sort_pairs(others).groupby("query_id").head(config.other_candidates)
        table = table.merge(
            best[[*columns, "score"]].rename(columns={"score": "global_score"}),
            on=columns, how="outer",
        )  # fmt: skip
    return table


def verify(
    query_features: Features,
    reference_features: Features,
    candidates: pd.DataFrame | None,
    config: LocalConfig,
    out: str | Path,
    executor: Executor,
    *,
    votes: pd.DataFrame | None = None,
    crops: Crops | None = None,
    crop_candidates: pd.DataFrame | None = None,
    crop_votes: pd.DataFrame | None = None,
    calibration: str | Path | None = None,
) -> Path:
    """Write the final ranked pairs of the local stage, `matches.csv`, and return its path.

    Every pair is scored from pictures of its two sides alone, as the rules of ISC 2021 demand.
    With `config.branches` each of imgFp's branches scores what it proposes and the scores are
    merged (columns score_a, score_b, score_c; see `merge_branches`). Otherwise all candidates of a
    query are scored with all its pictures, and the best picture counts: a crop can only raise the
    score of a pair. Column `picture` then names the crop, "x0 y0 x1 y1" in px, "" for the whole
    query. Without crops both use whole queries only.

    Finished work is kept: `out` when nothing changed, else the pairs scored before a kill.

    Args:
        candidates: pairs (query_id, reference_id, score) of a global descriptor, or None; voted
            pairs and those alike as whole pictures are added.
        votes, crop_votes: results of `vote` for queries and crops, if they are at hand.
        crops: further pictures of the queries, of `crops.open_crops`.
        crop_candidates: as `candidates`, for the crops; query_id is the id of the crop.
        calibration: JSON of `calibration.calibrate`; needed by merge "calibrated", otherwise it
            adds the column `probability` to that of branches.
    """
    out = Path(out)
    curves = None if calibration is None else read_curves(calibration)
    tables = [candidates, votes, crop_candidates, crop_votes]
    tables.append(None if crops is None else crops.table)
    key = content_key(
        VERSION, query_features.key, reference_features.key, asdict(config),
        *(None if table is None else table.to_csv(index=False) for table in tables),
        None if crops is None else crops.features.key, curves,
    )  # fmt: skip
    state = out.with_suffix(".json")
    if out.exists() and _finished(state, key):
        log.info("local verification finished before: %s", out)
        return out
    folder = out.with_name(f".{out.stem}-{key}.parts")
    kept = folder / "pairs.csv"
    if kept.exists():  # of a killed call
        pairs = _read_pairs(kept)
    else:
        find = propose if config.branches else _candidates_of_pictures
        pairs = find(
            query_features, reference_features, config, candidates, votes=votes, crops=crops,
            crop_candidates=crop_candidates, crop_votes=crop_votes,
        )  # fmt: skip
        with atomic_path(kept) as temporary:
            pairs.to_csv(temporary, index=False)
    table = score_pictures(
        pairs, query_features, reference_features, crops, config, executor, folder=folder
    )
    if config.branches:
        table = merge_branches(table, config, curves)
    elif crops is not None:
        table = sort_pairs(table).drop_duplicates(["query_id", "reference_id"])
    table = final_rows(table, config)
    write_predictions(out, table, cap=None, extra=True)
    write_json(state, {"key": key, "pairs": len(pairs), "rows": len(table)})
    shutil.rmtree(folder, ignore_errors=True)
    return out


def _candidates_of_pictures(
    query_features: Features,
    reference_features: Features,
    config: LocalConfig,
    candidates: pd.DataFrame | None,
    *,
    votes: pd.DataFrame | None,
    crops: Crops | None,
    crop_candidates: pd.DataFrame | None,
    crop_votes: pd.DataFrame | None,
) -> pd.DataFrame:
    """Candidates of all pictures of a query, each to be scored with all of them."""
    pairs = find_candidates(query_features, reference_features, config, candidates, votes=votes)
    if crops is None:
        return pairs
    more = find_candidates(
        crops.features, reference_features, config, crop_candidates, votes=crop_votes
    )
    more["query_id"] = more["query_id"].map(crops.owners())
    pairs = pd.concat([pairs, more])[PAIR].drop_duplicates()
    pictures = crops.table[["picture", "query_id"]]
    pictures = pd.concat([pictures, pairs[["query_id"]].drop_duplicates().assign(picture="")])
    return pairs.merge(pictures, on="query_id").sort_values([*PAIR, "picture"], ignore_index=True)


def score_pictures(
    pairs: pd.DataFrame,
    query_features: Features,
    reference_features: Features,
    crops: Crops | None,
    config: LocalConfig,
    executor: Executor,
    *,
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """Score pairs with the pictures of the query that they name, as `score_pairs` does.

    pairs: query_id, reference_id, perhaps picture ("" for the whole query, else the crop's id) and
    branch; rows of `propose`. Returns them with the columns of `score_pairs`, positions in px and
    coverage as a share of the whole query; `picture` becomes "x0 y0 x1 y1". Pairs whose pictures
    have no features are left out.
    """
    score = partial(score_pairs, config=config, executor=executor, folder=folder)
    if "picture" not in pairs:
        return score(pairs, query_features, reference_features)
    whole = score(pairs[pairs["picture"] == ""], query_features, reference_features)
    tables, boxes = [whole.assign(picture="")], {"": ""}
    if crops is not None:
        of_crops = pairs[pairs["picture"] != ""].assign(query_id=lambda table: table["picture"])
        scored = score(of_crops, crops.features, reference_features)
        tables.append(_in_query(scored, crops, query_features))
        boxes |= crops.boxes()
    named = pairs[[name for name in ("branch", *PAIR, "picture") if name in pairs]]
    scored = pd.concat([table for table in tables if len(table)] or tables[:1])
    table = named.merge(scored, on=[*PAIR, "picture"])
    return table.assign(picture=table.pop("picture").map(boxes))


def _in_query(table: pd.DataFrame, crops: Crops, query_features: Features) -> pd.DataFrame:
    """Scored pairs of crops, as pairs of their queries: maps and shares of the whole picture."""
    places = crops.table.set_index("picture").loc[table["query_id"]]
    x0, y0, x1, y1 = (places[side].to_numpy(float) for side in ("x0", "y0", "x1", "y1"))
    rows = places["query_id"].map(query_features.index()).to_numpy(np.int64)
    areas = query_features.sizes[rows].astype(float).prod(axis=1)
    table = table.assign(
        picture=table["query_id"], query_id=places["query_id"].to_numpy(),
        coverage=table["coverage"] * (x1 - x0) * (y1 - y0) / areas,
    )  # fmt: skip
    for j in range(3):  # a shift by (x0, y0) after the map, whose last row is not 0 0 1 in general
        table[f"h0{j}"] += x0 * table[f"h2{j}"]
        table[f"h1{j}"] += y0 * table[f"h2{j}"]
    return table


def _read_pairs(path: Path) -> pd.DataFrame:
    """Pairs that a killed call had found; ids stay texts, whatever they look like."""
    names = ("query_id", "reference_id", "branch", "picture")
    numbers = dict.fromkeys(("votes", "correlation", "global_score"), "")
    return pd.read_csv(
        path, dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=numbers
    )


def _finished(state: Path, key: str) -> bool:
    try:
        return json.loads(state.read_text(encoding="utf-8")).get("key") == key
    except (OSError, ValueError):
        return False


def final_rows(table: pd.DataFrame, config: LocalConfig) -> pd.DataFrame:
    """The best `rows_per_query` rows of each query; without score 0 unless `keep_zero`."""
    if not config.keep_zero:
        table = table[table["score"] > 0]
    return sort_pairs(table).groupby("query_id").head(config.rows_per_query)
