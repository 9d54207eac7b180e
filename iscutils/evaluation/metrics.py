"""Metrics of copy detection, by definition (docs/evaluation.md, section 1).

All rows of all queries form one list by falling score, wrong rows first among equal scores. Among
the first i rows TP_i are true; P_i = TP_i / i, R_i = TP_i / N for N true pairs. Pairs that are not
listed count as missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from iscutils.evaluation.copydays_metric import (
    copydays_metrics,
    copydays_table,
    pooled_trapezoid,
    trapezoid_average_precision,
)
from iscutils.evaluation.pairs import (
    PairList,
    check_ground_truth,
    check_predictions,
    check_truth,
    join_truth,
    sort_pairs,
)
from iscutils.files.artifacts import KitError

__all__ = [
    "Metrics",
    "PairList",
    "bootstrap",
    "by_edit",
    "candidate_recall",
    "check_ground_truth",
    "check_predictions",
    "check_truth",
    "copydays_metrics",
    "copydays_table",
    "evaluate",
    "join_truth",
    "pooled_trapezoid",
    "precision_recall_curve",
    "random_predictions",
    "trapezoid_average_precision",
]


@dataclass(frozen=True)
class Metrics:
    """Results of `evaluate`; all rates in 0..1, `threshold_p90` None when no point has P >= 0.9."""

    uap: float
    recall_at_p90: float
    threshold_p90: float | None
    recall_at_1: float
    recall_at_10: float
    candidate_recall: float
    queries: int
    positives: int
    rows: int

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields as a plain dictionary, ready for `metrics.json`."""
        return asdict(self)


def evaluate(
    predictions: pd.DataFrame,
    ground_truth: pd.DataFrame,
    *,
    unlisted: str = "false",
    cap: int | None = None,
    duplicates: str = "error",
) -> Metrics:
    """µAP, R@P90 with its threshold, recall@1 and recall@10 of scored pairs.

    `predictions`: query_id, reference_id, score (higher = more alike), any row order.
    `ground_truth`: query_id, reference_id; an empty reference is a distractor query.
    `unlisted`: rows of queries that the truth does not list count as "false" (the official
    library), or "drop" removes them (the challenge platform). `cap` keeps that many best rows,
    ordered by score, query and reference, as a submission file does. `duplicates`: a pair given
    twice is an "error", or "max" keeps its best score.

    µAP = sum of (R_i - R_(i-1)) P_i; R@P90 = largest R_i with P_i >= 0.9; recall@k = share of
    true pairs with fewer than k other rows of their query scoring at least as much.
    Raises `KitError` for non-finite scores, empty ids, repeated pairs, a truth without positives.
    """
    pairs = join_truth(predictions, ground_truth, unlisted=unlisted, cap=cap, duplicates=duplicates)
    total = int(pairs.positives.sum())
    score, precision = _precision_at_hits(pairs)
    good = np.flatnonzero(precision >= 0.9)
    ranks = _rank_within_query(pairs)
    return Metrics(
        uap=float(precision.sum() / total),
        recall_at_p90=float((good[-1] + 1) / total) if len(good) else 0.0,
        threshold_p90=float(score[good[-1]]) if len(good) else None,
        recall_at_1=float((ranks < 1).sum() / total),
        recall_at_10=float((ranks < 10).sum() / total),
        candidate_recall=float(pairs.hit.sum() / total),
        queries=len(pairs.queries),
        positives=total,
        rows=len(pairs.score),
    )


def precision_recall_curve(
    predictions: pd.DataFrame, ground_truth: pd.DataFrame, **options: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and score threshold after each row, three arrays (n,) by falling score.

    `options` are those of `evaluate`.
    """
    pairs = join_truth(predictions, ground_truth, **options)
    order = _pessimistic_order(pairs)
    found = np.cumsum(pairs.hit[order])
    precision = found / np.arange(1, len(order) + 1)
    return precision, found / pairs.positives.sum(), pairs.score[order]


def candidate_recall(
    predictions: pd.DataFrame, ground_truth: pd.DataFrame, **options: Any
) -> float:
    """Share of the true pairs that are in the list at all: what no later scoring can exceed."""
    pairs = join_truth(predictions, ground_truth, **options)
    return float(pairs.hit.sum() / pairs.positives.sum())


def by_edit(
    predictions: pd.DataFrame,
    ground_truth: pd.DataFrame,
    edits: dict[str, str],
    **options: Any,
) -> pd.DataFrame:
    """Metrics of each edit, over the queries that carry it, most frequent edit first.

    `edits` maps query ids to "crop+text"; a query counts for each of its edits. Columns: edit,
    queries (all, distractors included), positives (true pairs), recall_at_1,
    recall_at_p90_threshold (share of the true pairs above the threshold of the WHOLE list),
    uap (of the list reduced to these queries). Edits without a true pair are left out.
    """
    pairs = join_truth(predictions, ground_truth, **options)
    score, precision = _precision_at_hits(pairs)
    good = score[precision >= 0.9]
    threshold = good[-1] if len(good) else np.inf
    names = [set(edits.get(query, "").split("+")) - {""} for query in pairs.queries]
    rows = []
    for edit in sorted(set().union(*names)):
        part = pairs.of_queries(np.array([edit in own for own in names]))
        total = part.positives.sum()
        if total:
            row = {
                "edit": edit,
                "queries": sum(edit in own for own in names),
                "positives": int(total),
                "recall_at_1": (_rank_within_query(part) < 1).sum() / total,
                "recall_at_p90_threshold": (part.score[part.hit] >= threshold).sum() / total,
                "uap": _precision_at_hits(part)[1].sum() / total,
            }
            rows.append(row)
    columns = ["edit", "queries", "positives", "recall_at_1", "recall_at_p90_threshold", "uap"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["positives", "edit"], ascending=[False, True], ignore_index=True)


def bootstrap(
    predictions: pd.DataFrame,
    ground_truth: pd.DataFrame,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Interval (low, high) of uap, recall_at_p90 and recall_at_1 over redrawn query sets.

    Each draw takes as many queries as there are, with replacement; a query drawn w times counts
    as w queries with equal rows. Percentile interval (Efron), seeded.
    """
    pairs = join_truth(predictions, ground_truth, **options)
    order = _pessimistic_order(pairs)
    hits = np.flatnonzero(pairs.hit[order])  # places of the true rows
    order = order[: hits[-1] + 1] if len(hits) else order[:0]  # later rows change nothing
    query, hit_query = pairs.query[order], pairs.query[order][hits]
    rank = np.full(len(pairs.score), np.iinfo(np.int64).max)
    rank[pairs.hit] = _rank_within_query(pairs)
    first = rank[order][hits] == 0
    n_queries = len(pairs.queries)
    # Drawn by id, so that the row order of the predictions does not matter.
    by_id = np.argsort(np.argsort(pairs.queries.to_numpy(dtype=object)))
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(draws):
        drawn = np.bincount(rng.integers(n_queries, size=n_queries), minlength=n_queries)
        weight = drawn[by_id]
        total = weight @ pairs.positives
        if not total:
            continue  # no true pair was drawn: nothing to measure
        copies = weight[hit_query]
        found = np.cumsum(copies)  # TP after each true row with all its copies
        seen = np.maximum(np.cumsum(weight[query])[hits], 1)  # rows up to there
        # The copies of a true row follow each other: P rises from copy to copy.
        area = sum(
            ((found - back) / np.maximum(seen - back, 1))[copies > back].sum()
            for back in range(copies.max(initial=0))
        )
        good = np.flatnonzero((copies > 0) & (found / seen >= 0.9))
        recall_p90 = found[good[-1]] if len(good) else 0
        results.append((area / total, recall_p90 / total, copies[first].sum() / total))
    if not results:
        raise KitError(
            f"none of the {draws} draws held a true pair: raise draws or give more pairs"
        )
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds = np.quantile(np.array(results), tails, axis=0).T.tolist()  # 3 rows of (low, high)
    names = ["uap", "recall_at_p90", "recall_at_1"]
    return {name: (low, high) for name, (low, high) in zip(names, bounds, strict=True)}


def random_predictions(
    query_ids: Sequence[str], reference_ids: Sequence[str], *, rows: int = 500_000, seed: int = 0
) -> pd.DataFrame:
    """Pairs with random scores: all of them, or `rows` distinct ones where there are more.

    The baseline of every table: with one true reference per query µAP is about 1 / references.
    """
    rng = np.random.default_rng(seed)
    n_pairs = len(query_ids) * len(reference_ids)
    rows = min(rows, n_pairs)
    chosen = np.arange(n_pairs) if rows == n_pairs else rng.choice(n_pairs, rows, replace=False)
    query, reference = np.divmod(chosen, max(1, len(reference_ids)))
    frame = {
        "query_id": np.asarray(query_ids, dtype=object)[query],
        "reference_id": np.asarray(reference_ids, dtype=object)[reference],
        "score": rng.random(rows),
    }
    return sort_pairs(pd.DataFrame(frame))


def _precision_at_hits(pairs: PairList) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the true rows, falling, and P_i at each; equal wrong scores come before them."""
    score = -np.sort(-pairs.score[pairs.hit])
    wrong = np.sort(pairs.score[~pairs.hit])
    wrong_above = len(wrong) - np.searchsorted(wrong, score, side="left")
    found = np.arange(1, len(score) + 1)
    return score, found / (found + wrong_above)


def _pessimistic_order(pairs: PairList) -> np.ndarray:
    return np.lexsort((pairs.hit, -pairs.score))


def _rank_within_query(pairs: PairList) -> np.ndarray:
    """Rank of each true row (in row order) = rows of its query scoring at least as much, less 1."""
    found = np.zeros(len(pairs.queries), dtype=bool)
    found[pairs.query[pairs.hit]] = True
    rows = np.flatnonzero(found[pairs.query])
    rows = rows[np.lexsort((-pairs.score[rows], pairs.query[rows]))]
    query, score = pairs.query[rows], pairs.score[rows]
    first = np.searchsorted(query, query)  # start of the query's rows
    run = np.flatnonzero((np.diff(query, append=-1) != 0) | (np.diff(score, append=np.nan) != 0))
    last = run[np.searchsorted(run, np.arange(len(rows)))]  # end of the run of equal scores
    rank = np.empty(len(pairs.score), dtype=np.int64)
    rank[rows] = last - first
    return rank[pairs.hit]
