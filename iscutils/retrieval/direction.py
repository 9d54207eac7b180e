"""Direction: an edited copy shows no more of the scene than its original (ASL).

A model trained with the norm-ratio loss gives images with more content a larger norm. So a pair
whose query has the larger norm is no copy, however alike the two are. The published rule deletes
such pairs, the soft form lowers their score (docs/systems/asl.md, sections 2 and 5).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from iscutils.evaluation.metrics import evaluate
from iscutils.evaluation.pairs import PAIR_COLUMNS, join_truth
from iscutils.files.artifacts import KitError, log
from iscutils.retrieval.part_files import WHOLE, read_part_table

GRID = (0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2)
MOST_TRUE_PAIRS = 0.05  # share of true pairs that a filter may cost before it is warned of


def read_norms(path: str | Path) -> dict[str, float]:
    """Norm of each WHOLE image of a descriptor file, before whitening and normalisation."""
    table = read_part_table(path)
    if "norm" not in table:
        raise KitError(f"{path} holds no norms: extract the descriptors again")
    table = table[table.part == WHOLE]
    return dict(zip(table.image_id, table.norm.astype(float), strict=True))


def norm_ratios(
    predictions: pd.DataFrame,
    query_norms: Mapping[str, float],
    reference_norms: Mapping[str, float],
) -> np.ndarray:
    """|f_q| / |f_r| (n,) of each pair; an image without a norm is a `KitError`."""
    sides = []
    for column, norms in zip(PAIR_COLUMNS[:2], (query_norms, reference_norms), strict=True):
        values = predictions[column].map(norms).to_numpy(np.float64, na_value=np.nan)
        bad = np.flatnonzero(~(values > 0))
        if len(bad):
            raise KitError(
                f"{len(bad)} pairs lack a norm, such as {column} "
                f"'{predictions[column].iloc[bad[0]]}': extract this image with the same model"
            )
        sides.append(values)
    return sides[0] / sides[1]


def filter_direction(
    predictions: pd.DataFrame, ratios: np.ndarray, tau: float = 1.0
) -> pd.DataFrame:
    """Without the pairs whose norm ratio (n,) exceeds tau; a ratio of exactly tau stays.

    Scores and order do not change; published tau 1.0 (docs/systems/asl.md, section 5). tau may be
    chosen on a validation split, never on the pairs that are reported.
    """
    return predictions[~(np.asarray(ratios) > tau)].reset_index(drop=True)


def soften_direction(
    predictions: pd.DataFrame, ratios: np.ndarray, weight: float = 1.0, tau: float = 1.0
) -> pd.DataFrame:
    """score - weight * max(0, log(ratio / tau)): pairs sink instead of vanishing.

    Our addition, not part of the published method: a ratio a little above tau costs little, and no
    true pair is lost for good. `weight` is in units of the score.
    """
    excess = np.maximum(0, np.log(np.asarray(ratios, dtype=np.float64) / tau))
    return predictions.assign(score=predictions["score"] - weight * excess)


def by_direction(
    predictions: pd.DataFrame,
    query_norms: Mapping[str, float],
    reference_norms: Mapping[str, float],
    *,
    tau: float = 0.0,
    soft: float = 0.0,
) -> pd.DataFrame:
    """The published filter at `tau` (0: off), or with `soft` > 0 the soft form of that weight."""
    if not tau and not soft:
        return predictions
    ratios = norm_ratios(predictions, query_norms, reference_norms)
    if soft:
        return soften_direction(predictions, ratios, soft, tau or 1.0)
    return filter_direction(predictions, ratios, tau)


def direction_report(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    query_norms: Mapping[str, float],
    reference_norms: Mapping[str, float],
    *,
    grid: Sequence[float] = GRID,
    tau: float = 1.0,
    hard: Collection[str] | None = None,
    split: str = "validation",
    unlisted: str = "false",
) -> pd.DataFrame:
    """What the filter does at each tau of a grid (docs/systems/asl.md, section 9).

    Columns: tau, uap, recall_at_p90, true_deleted (share of the true pairs in the list),
    hard_deleted (share of the pairs of hard negative queries). `hard` are the ids of those
    queries; None takes the best pair of every query without an original.

    On a `split` "validation" it is a warning when the filter at `tau`, the one in use, deletes
    more than 5 % of the true pairs. On "test" nothing may be chosen by this table.
    """
    if split not in ("validation", "test"):
        raise KitError(f"split '{split}' is unknown: choose validation or test")
    ratios = norm_ratios(predictions, query_norms, reference_norms)
    hits = true_rows(predictions, truth)
    negative = _hard_rows(predictions, truth, hard)
    rows = []
    for value in grid:
        gone = ratios > value
        metrics = evaluate(predictions[~gone], truth, unlisted=unlisted)
        shares = _share(gone, hits), _share(gone, negative)
        rows.append((value, metrics.uap, metrics.recall_at_p90, *shares))
    lost = _share(ratios > tau, hits)
    if split == "validation" and tau and lost > MOST_TRUE_PAIRS:
        log.warning(
            "the norm filter at %g deletes %.0f %% of the true pairs: raise tau, use the soft "
            "form, or train with the norm-ratio loss",
            tau,
            100 * lost,
        )
    columns = ["tau", "uap", "recall_at_p90", "true_deleted", "hard_deleted"]
    return pd.DataFrame(rows, columns=columns)


def true_rows(predictions: pd.DataFrame, truth: pd.DataFrame) -> np.ndarray:
    """Mask (n,) of the rows that are true pairs, in the order of the rows."""
    return join_truth(predictions, truth).hit


def _hard_rows(
    predictions: pd.DataFrame, truth: pd.DataFrame, hard: Collection[str] | None
) -> np.ndarray:
    queries = predictions["query_id"]
    if hard is not None:
        return queries.isin(list(hard)).to_numpy()
    empty = truth["reference_id"].isna() | (truth["reference_id"] == "")
    with_original = set(truth["query_id"][~empty])
    best = predictions["score"] == predictions.groupby("query_id")["score"].transform("max")
    return (best & ~queries.isin(with_original)).to_numpy()


def _share(gone: np.ndarray, rows: np.ndarray) -> float:
    return float(gone[rows].mean()) if rows.any() else 0.0


def hard_negative_table(
    stages: Mapping[str, pd.DataFrame],
    truth: pd.DataFrame,
    hard: Collection[str],
    *,
    unlisted: str = "false",
) -> pd.DataFrame:
    """What hard negative queries cost each ranked list (docs/systems/asl.md, section 9).

    A row a list, columns: uap and recall_at_p90 of all queries; ordinary_uap and
    ordinary_recall_at_p90 without the hard negatives; `hard_above`, hard negative queries that have
    a pair at or above the list's own P90 threshold, and `hard_above_ordinary`, those at or above
    the P90 threshold of the ordinary queries: what one gets who chose it on a benchmark without
    hard negatives. NaN where no threshold gives 90 %. A list that is better finds more true pairs
    at 90 % precision and is allowed more false ones with them, so the second column compares.
    """
    truth_of = truth[~truth.query_id.isin(hard)]
    rows = {}
    for name, predictions in stages.items():
        own = predictions.query_id.isin(hard)
        every = evaluate(predictions, truth, unlisted=unlisted)
        ordinary = evaluate(predictions[~own], truth_of, unlisted=unlisted)
        best = predictions[own].groupby("query_id")["score"].max()
        rows[name] = {
            "uap": every.uap,
            "recall_at_p90": every.recall_at_p90,
            "ordinary_uap": ordinary.uap,
            "ordinary_recall_at_p90": ordinary.recall_at_p90,
            "hard_above": _above(best, every.threshold_p90),
            "hard_above_ordinary": _above(best, ordinary.threshold_p90),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("list")


def _above(best: pd.Series, threshold: float | None) -> float:
    return float("nan") if threshold is None else float((best >= threshold).sum())
