"""Candidates: the best (query, reference) pairs by inner product, under a stated rule."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from iscutils.files.artifacts import KitError, log
from iscutils.retrieval.top_pairs import top_pairs

_BLOCK_SCORES = 1 << 24  # scores held at a time (64 MB as float32)


def search(
    queries: np.ndarray,
    references: np.ndarray,
    query_ids: Sequence[str],
    reference_ids: Sequence[str],
    rule: str | None = None,
    *,
    index: str = "Flat",
    train: np.ndarray | None = None,
    probes: int = 64,
) -> pd.DataFrame:
    """Best pairs of queries (Nq, D) and references (Nr, D) by inner product.

    `rule`: "knn:10" takes the 10 best references of each query, "global:500000" the best pairs
    over all queries and references together; None is global with 10 pairs a query. The rule
    changes every metric, so state it with each number (docs/evaluation.md, section 3). Ids may
    repeat when an image has several rows (parts): a pair then has the best score of its rows.

    `index` other than "Flat" is a FAISS factory text for an approximate search, e.g.
    "IVF1024,Flat"; the scores of the pairs it finds are computed again exactly. Such an index
    learns from `train`, background rows (Nt, D), and looks into `probes` inverted lists. `global`
    then ranks the nearest references of each query, four times the average share of pairs.

    Returns query_id, reference_id, score (float32) by falling score, then query id, reference id.
    """
    queries, query_names, query_code = _group(queries, query_ids, "query")
    references, reference_names, reference_code = _group(references, reference_ids, "reference")
    if queries.shape[1] != references.shape[1]:
        raise KitError(
            f"queries have dimension {queries.shape[1]}, references {references.shape[1]}: "
            "apply the same model and codec to both"
        )
    kind, count = parse_rule(rule or f"global:{10 * len(query_names)}")
    if kind == "global" and index == "Flat":
        query, reference, score = _global(queries, references, query_code, reference_code, count)
    else:
        per_row = count if kind == "knn" else math.ceil(4 * count / len(queries))
        # One reference may fill this many places of a row's list.
        per_row *= np.bincount(reference_code).max()
        score, rows = nearest(queries, references, per_row, index=index, train=train, probes=probes)
        found = rows.ravel() >= 0  # approximate indexes may return fewer
        query = np.repeat(query_code, rows.shape[1])[found]
        reference, score = reference_code[rows.ravel()[found]], score.ravel()[found]
        query, reference, score = _best_rows(query, reference, score, kind, count)
    order = np.lexsort((reference, query, -score))
    return pd.DataFrame(
        {
            "query_id": query_names[query[order]],
            "reference_id": reference_names[reference[order]],
            "score": score[order],
        }
    )


def nearest(
    queries: np.ndarray,
    database: np.ndarray,
    k: int,
    *,
    index: str = "Flat",
    train: np.ndarray | None = None,
    probes: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of a database (N, D) with the largest inner product with each query (Nq, D).

    Returns float32 inner products (Nq, k), falling, and row numbers (Nq, k), -1 where an
    approximate index found no more. k is clipped to N. Options as in `search`.
    """
    faiss = _faiss()
    queries, database = (np.ascontiguousarray(x, dtype=np.float32) for x in (queries, database))
    k = min(int(k), len(database))
    if index == "Flat":
        searcher = faiss.IndexFlatIP(database.shape[1])
    else:
        searcher = _approximate(faiss, index, database.shape[1], train, probes)
    searcher.add(database)
    similarity, rows = searcher.search(queries, k)
    if index != "Flat":
        similarity = np.empty(rows.shape, dtype=np.float32)
        step = max(1, _BLOCK_SCORES // (k * database.shape[1]))
        for start in range(0, len(queries), step):
            block = slice(start, start + step)
            # Row -1 reads the last vector; its score is overwritten below.
            similarity[block] = np.einsum("qd,qkd->qk", queries[block], database[rows[block]])
        similarity[rows < 0] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")
        similarity = np.take_along_axis(similarity, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
    return similarity, rows


def parse_rule(rule: str) -> tuple[str, int]:
    """("knn" or "global", count) of a candidate rule such as "knn:10"."""
    match = re.fullmatch(r"(knn|global):([1-9][0-9]*)", rule.strip())
    if not match:
        raise KitError(f"candidate rule '{rule}' is unknown: write 'knn:10' or 'global:500000'")
    return match[1], int(match[2])


def _global(
    queries: np.ndarray,
    references: np.ndarray,
    query_code: np.ndarray,
    reference_code: np.ndarray,
    count: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` best pairs of all, exact, as (query code, reference code, score)."""
    several = len(queries) > query_code[-1] + 1 or len(references) > reference_code[-1] + 1
    codes = dict(query_code=query_code, database_code=reference_code) if several else {}
    q, r, score = top_pairs(queries, references, count, **codes)
    return query_code[q], reference_code[r], score


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices, rising, of the `count` largest scores; among equal ones the first."""
    if len(scores) <= count:
        return np.arange(len(scores))
    worst = np.partition(scores, len(scores) - count)[len(scores) - count]
    kept = scores > worst
    kept[np.flatnonzero(scores == worst)[: count - kept.sum()]] = True
    return np.flatnonzero(kept)


def _best_rows(
    query: np.ndarray, reference: np.ndarray, score: np.ndarray, kind: str, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row per pair with its best score; then `count` rows of each query, or of all."""
    order = np.lexsort((-score, reference, query))
    query, reference, score = query[order], reference[order], score[order]
    new = (np.diff(query, prepend=-1) != 0) | (np.diff(reference, prepend=-1) != 0)
    query, reference, score = query[new], reference[new], score[new]
    if kind == "global":
        kept = _best(score, count)
    else:
        kept = np.lexsort((reference, -score, query))
        rank = np.arange(len(kept)) - np.searchsorted(query, query)  # query is sorted already
        kept = kept[rank < count]
    return query[kept], reference[kept], score[kept]


def _group(
    vectors: np.ndarray, ids: Sequence[str], what: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors by rising id, the distinct ids, and for each row the place of its id among them."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise KitError(
            f"{what} vectors of shape {vectors.shape} and {len(ids)} {what} ids: expected one row "
            "of numbers for each id"
        )
    if not len(ids):
        raise KitError(f"there is no {what} to search: give at least one image")
    if not np.isfinite(vectors).all():
        raise KitError(f"{what} vectors hold NaN or infinity: extract them again")
    names, code = np.unique(np.asarray(ids, dtype=object), return_inverse=True)
    if (np.diff(code) < 0).any():  # sorted data need no copy
        order = np.argsort(code, kind="stable")
        vectors, code = vectors[order], code[order]
    return vectors, names, code


def _approximate(faiss: Any, text: str, dim: int, train: np.ndarray | None, probes: int) -> Any:
    try:
        searcher = faiss.index_factory(dim, text, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise KitError(f"index '{text}' is no FAISS factory text for dimension {dim}") from error
    if not searcher.is_trained:
        if train is None:
            raise KitError(
                f"index '{text}' has to learn from background descriptors: pass train=background "
                "or index='Flat'"
            )
        if train.shape[1] != dim:
            raise KitError(
                f"index '{text}' is for dimension {dim}, the background has {train.shape[1]}: "
                "apply the same codec and score normalisation to both"
            )
        try:
            searcher.train(np.ascontiguousarray(train, dtype=np.float32))
        except RuntimeError as error:
            raise KitError(
                f"{len(train)} background descriptors are too few to train index '{text}': "
                "give more, or a smaller index"
            ) from error
    if "IVF" in text:
        lists = faiss.extract_index_ivf(searcher).nlist
        faiss.ParameterSpace().set_index_parameter(searcher, "nprobe", min(probes, lists))
        log.info("index %s looks into %d of %d lists", text, min(probes, lists), lists)
    return searcher


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise KitError("search needs faiss: pip install faiss-cpu (or faiss-gpu)") from error
    return faiss
