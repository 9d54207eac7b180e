"""Tables of scored pairs and of true pairs: their checks, and how they are joined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iscutils.files.artifacts import KitError, log

PAIR_COLUMNS = ["query_id", "reference_id", "score"]


def sort_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by falling score, then query id, then reference id: the order of every pair file."""
    return frame.sort_values(
        PAIR_COLUMNS[2:] + PAIR_COLUMNS[:2], ascending=[False, True, True], ignore_index=True
    )


def check_predictions(
    frame: pd.DataFrame,
    source: str = "predictions",
    *,
    duplicates: str = "error",
    lines: np.ndarray | None = None,
) -> pd.DataFrame:
    """Predictions with text ids and float64 scores, further columns kept; options of `evaluate`.

    Raises `KitError` naming `source`, the line (`lines`, else the row from 1) and the pair.
    """
    return encode_predictions(frame, source=source, duplicates=duplicates, lines=lines).frame


def check_ground_truth(
    frame: pd.DataFrame, *, source: str = "ground truth", lines: np.ndarray | None = None
) -> pd.DataFrame:
    """Truth as distinct (query_id, reference_id) texts, empty reference = distractor.

    A query may have several references, a row each; an empty one beside them is left out.
    Raises `KitError` when a column is missing, a query id is empty or no row has a reference.
    """
    _need_columns(frame, PAIR_COLUMNS[:2], source)
    truth = frame[PAIR_COLUMNS[:2]].reset_index(drop=True).astype(object)
    truth = truth.where(truth.notna(), "").astype(str)
    empty = np.flatnonzero(truth["query_id"] == "")
    if len(empty):
        place = _place(empty[0], lines)
        raise KitError(f"{source}, {place}: the query id is empty; every row names a query")
    if not (truth["reference_id"] != "").any():
        raise KitError(
            f"{source}: none of the {len(truth)} rows names a reference; "
            "metrics need at least one true pair"
        )
    truth = truth.drop_duplicates(ignore_index=True)
    several = truth["query_id"].duplicated(keep=False)  # at most one of the rows is empty
    return truth[~several | (truth["reference_id"] != "")].reset_index(drop=True)


def check_truth(
    ground_truth: pd.DataFrame, query_ids: Iterable[str], reference_ids: Iterable[str]
) -> None:
    """Raise `KitError` when the truth names a query or reference that the benchmark lacks."""
    truth = check_ground_truth(ground_truth)
    for column, known in (("query_id", query_ids), ("reference_id", reference_ids)):
        named = pd.Index(truth[column].unique())
        missing = named.difference(pd.Index(list(known), dtype=object)).drop("", errors="ignore")
        if len(missing):
            raise KitError(
                f"the ground truth names {len(missing)} {column} values without an image, such as "
                f"{', '.join(map(repr, missing[:3]))}: add the images or remove these rows"
            )


def true_pairs(ground_truth: pd.DataFrame) -> pd.DataFrame:
    """Distinct rows of a ground truth that name a reference; distractor queries are left out."""
    pairs = ground_truth[PAIR_COLUMNS[:2]]
    return pairs[pairs["reference_id"].fillna("") != ""].drop_duplicates()


def originals_by_query(ground_truth: pd.DataFrame) -> dict[str, list[str]]:
    """References of every query that has any, sorted: outside DISC21 a query may have several."""
    groups = true_pairs(ground_truth).groupby("query_id")["reference_id"]
    return {query: sorted(references) for query, references in groups}


@dataclass(frozen=True)
class PairList:
    """Predictions joined with the truth: n rows in the order given, query codes instead of ids.

    `query` (n,) indexes `queries` and `positives`, the number of true pairs of each query;
    `score` (n,) is float64, `hit` (n,) marks the true rows.
    """

    query: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    queries: pd.Index
    positives: np.ndarray

    def of_queries(self, wanted: np.ndarray) -> PairList:
        """The rows of the queries that a mask over `queries` keeps; the others lose their truth."""
        rows = wanted[self.query]
        return PairList(
            self.query[rows],
            self.score[rows],
            self.hit[rows],
            self.queries,
            self.positives * wanted,
        )


def join_truth(
    predictions: pd.DataFrame,
    ground_truth: pd.DataFrame,
    *,
    unlisted: str = "false",
    cap: int | None = None,
    duplicates: str = "error",
) -> PairList:
    """Check predictions and truth and mark the true rows; options and errors as in `evaluate`."""
    if unlisted not in ("false", "drop"):
        raise KitError(f"unlisted='{unlisted}' is unknown: choose 'false' or 'drop'")
    if cap is not None and cap < 1:
        raise KitError(f"row cap {cap}: expected a positive number or None")
    truth = check_ground_truth(ground_truth)
    encoded = encode_predictions(predictions, truth, duplicates=duplicates)
    if cap is not None and len(encoded.frame) > cap:
        encoded = encode_predictions(sort_pairs(encoded.frame).iloc[:cap], truth)
    if encoded.frame.empty:
        log.warning("the prediction list is empty: every true pair is missed")

    positive = (truth["reference_id"] != "").to_numpy()
    listed = np.zeros(len(encoded.queries), dtype=bool)
    listed[encoded.true_query] = True
    if unlisted == "false" and not listed.all() and positive.all():
        log.warning(
            "the ground truth lists only queries with a match; the rows of %d other queries "
            "count as false (unlisted='drop' leaves them out)",
            (~listed).sum(),
        )
    counted = listed if unlisted == "drop" else np.ones_like(listed)
    place = np.cumsum(counted) - 1  # of each query among the counted ones
    rows = counted[encoded.query]

    width = len(encoded.references)
    wanted = encoded.true_query[positive] * width + encoded.true_reference[positive]
    hit = pd.Index(wanted).get_indexer(encoded.query * width + encoded.reference) >= 0
    return PairList(
        query=place[encoded.query[rows]],
        score=encoded.frame["score"].to_numpy()[rows],
        hit=hit[rows],
        queries=encoded.queries[counted],
        positives=np.bincount(place[encoded.true_query[positive]], minlength=counted.sum()),
    )


@dataclass(frozen=True)
class EncodedPredictions:
    """Checked predictions of n rows and their truth of m rows, ids as codes.

    `query` and `reference` (n,) and `true_query` and `true_reference` (m,) index the distinct ids
    `queries` and `references`.
    """

    frame: pd.DataFrame
    query: np.ndarray
    reference: np.ndarray
    true_query: np.ndarray
    true_reference: np.ndarray
    queries: pd.Index
    references: pd.Index


def encode_predictions(
    frame: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    *,
    source: str = "predictions",
    duplicates: str = "error",
    lines: np.ndarray | None = None,
) -> EncodedPredictions:
    """As `check_predictions`, with the ids as codes: hashing texts is the slow part of a check."""
    if duplicates not in ("error", "max"):
        raise KitError(f"duplicates='{duplicates}' is unknown: choose 'error' or 'max'")
    _need_columns(frame, PAIR_COLUMNS, source)
    frame = frame.reset_index(drop=True)

    def fail(row: int, problem: str) -> None:
        pair = ", ".join(str(value) for value in frame.loc[row, PAIR_COLUMNS[:2]])
        raise KitError(f"{source}, {_place(row, lines)} (pair {pair}): {problem}")

    codes = []
    for column in PAIR_COLUMNS[:2]:
        if pd.api.types.infer_dtype(frame[column], skipna=True) not in ("string", "empty"):
            frame[column] = frame[column].astype(object).map(str, na_action="ignore")
        texts = frame[column]
        if truth is not None:  # hashed together, so that equal ids get equal codes
            texts = pd.concat([texts, truth[column]], ignore_index=True)
        code, ids = pd.factorize(texts)
        codes += [code[: len(frame)], code[len(frame) :], pd.Index(ids)]
        none = np.flatnonzero(ids == "")
        empty = np.flatnonzero((codes[-3] < 0) | np.isin(codes[-3], none))
        if len(empty):
            fail(empty[0], f"the {column} is empty; every row needs both ids")
    query, true_query, queries, reference, true_reference, references = codes

    score = pd.to_numeric(frame["score"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(score))
    if len(bad):
        fail(bad[0], f"the score is '{frame['score'][bad[0]]}', expected a finite number")
    frame["score"] = score

    pair = query * max(1, len(references)) + reference
    ordered = np.sort(pair)
    repeated = np.zeros(0, dtype=np.int64)
    if (ordered[1:] == ordered[:-1]).any():  # far cheaper than looking for the rows at once
        repeated = np.flatnonzero(pd.Series(pair).duplicated())
    if len(repeated) and duplicates == "error":
        fail(repeated[0], "the pair is given twice; remove one or pass duplicates='max'")
    if len(repeated):
        best = np.lexsort((np.arange(len(pair)), -score, pair))
        best = np.sort(best[np.diff(pair[best], prepend=-1) > 0])  # best row of each pair
        frame = frame.iloc[best].reset_index(drop=True)
        query, reference = query[best], reference[best]
    return EncodedPredictions(
        frame, query, reference, true_query, true_reference, queries, references
    )


def _place(row: int, lines: np.ndarray | None) -> str:
    return f"row {row + 1}" if lines is None else f"line {lines[row]}"


def _need_columns(frame: pd.DataFrame, columns: list[str], source: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise KitError(
            f"{source}: no column {' and '.join(missing)} among {', '.join(map(str, frame))}; "
            f"expected {','.join(columns)}"
        )
