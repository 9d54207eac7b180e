"""The two numbers of Copydays, INRIA's trapezoids (docs/evaluation.md, section 1).

They are not comparable with the uAP of the Image Similarity Challenge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd

from iscutils.evaluation.pairs import PairList, join_truth
from iscutils.files.artifacts import KitError

LABEL = "INRIA trapezoid"
STRONG = "strong_"  # query ids of the block `strong` begin so, see datasets/copydays.py


def trapezoid_average_precision(ranks: Iterable[int], positives: int) -> float:
    """Average precision in the INRIA trapezoid form.

    `ranks` are the zero-based ranks of the true hits. The n-th hit (n = 0, 1, ...) at rank k adds
    (p0 + p1) / (2 positives) with p0 = n / k (1 if k = 0) and p1 = (n + 1) / (k + 1).
    """
    if positives < 1:
        raise KitError("trapezoid average precision needs at least one true pair")
    ranks = np.sort(np.asarray(list(ranks), dtype=np.float64))
    count = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, count / np.maximum(ranks, 1))
    return float((before + (count + 1) / (ranks + 1)).sum() / (2 * positives))


def pooled_trapezoid(hits: Iterable, distances: Iterable, positives: int) -> float:
    """Trapezoid AP over all (query, result) pairs together, by rising distance, wrong first."""
    hits = np.concatenate([np.asarray(row, dtype=bool) for row in hits])
    distances = np.concatenate([np.asarray(row, dtype=np.float64) for row in distances])
    order = np.lexsort((hits, distances))
    return trapezoid_average_precision(np.flatnonzero(hits[order]), positives)


def copydays_metrics(
    predictions: pd.DataFrame, ground_truth: pd.DataFrame, strong: Collection[str]
) -> dict[str, float]:
    """`strong_map` (mean over the `strong` query ids) and `overall_uap`, both INRIA trapezoid.

    A strong query that has no true reference is a `KitError`.
    """
    pairs = join_truth(predictions, ground_truth)
    wanted = np.unique(pairs.queries.get_indexer(list(strong)))
    if not len(wanted) or wanted[0] < 0 or not pairs.positives[wanted].all():
        raise KitError("Copydays: every strong query needs a true reference in the ground truth")
    overall = pooled_trapezoid([pairs.hit], [-pairs.score], int(pairs.positives.sum()))
    return {"strong_map": float(_each(pairs)[wanted].mean()), "overall_uap": overall}


def strong_queries(query_ids: Iterable[str]) -> list[str]:
    """The queries of the block `strong`, over which the strong mAP is taken."""
    return [name for name in query_ids if str(name).startswith(STRONG)]


def copydays_table(
    predictions: pd.DataFrame, ground_truth: pd.DataFrame, **settings: object
) -> pd.DataFrame:
    """Results of Copydays as rows: metric, queries, value, and a column for each of `settings`.

    First the two published numbers, `strong mAP` and `overall uAP`, then the mAP of each block
    (a query's block is its id without the last `_name`). All are labelled "INRIA trapezoid".
    """
    pairs = join_truth(predictions, ground_truth)
    each = _each(pairs)
    names = pairs.queries.to_numpy(dtype=object)
    known = pairs.positives > 0
    strong = strong_queries(names[known])
    rows = []
    if strong:
        found = copydays_metrics(predictions, ground_truth, strong)
        rows.append(("strong mAP", len(strong), found["strong_map"]))
    overall = pooled_trapezoid([pairs.hit], [-pairs.score], int(pairs.positives.sum()))
    rows.append(("overall uAP", int(known.sum()), overall))
    blocks = pd.Series(each[known]).groupby([_block(name) for name in names[known]])
    rows += [(f"mAP of {block}", len(values), values.mean()) for block, values in blocks]
    rows = [(f"{name} ({LABEL})", count, value) for name, count, value in rows]
    return pd.DataFrame(rows, columns=["metric", "queries", "value"]).assign(**settings)


def _block(query: str) -> str:
    """`jpegqual_3` of `jpegqual_3_200000`."""
    return str(query).rpartition("_")[0] or str(query)


def _each(pairs: PairList) -> np.ndarray:
    """Average precision of each query (Q,), wrong rows first among equal scores; NaN untrue."""
    order = np.lexsort((pairs.hit, -pairs.score, pairs.query))  # by query, then by score
    starts = np.searchsorted(pairs.query[order], np.arange(len(pairs.queries) + 1))
    found = np.full(len(pairs.queries), np.nan)
    for q in np.flatnonzero(pairs.positives):
        hits = pairs.hit[order[starts[q] : starts[q + 1]]]
        found[q] = trapezoid_average_precision(np.flatnonzero(hits), pairs.positives[q])
    return found
