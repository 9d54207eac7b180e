"""One score for every pair from the scores that imgFp's branches gave it.

"sum" is published (imgFp, arXiv 2112.02373): a pair that two branches propose counts twice. "max"
takes the best branch. "calibrated" turns each branch's score into the probability of a copy, by
isotonic regression on edited training photographs, and joins them as if the branches erred
independently (noisy-or): 1 - product of (1 - p).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from iscutils.files.artifacts import KitError
from iscutils.local.branches import BRANCHES, PAIR
from iscutils.local.config import LocalConfig
from iscutils.local.pair_score import MAX_DISTANCE

SCORES = [f"score_{name}" for name in BRANCHES]
POOLED = "pooled"  # name of the fit over the pairs of all branches
FEWEST = 30  # pairs of a branch, below which the pooled fit is used
TIE = 1e-6  # weight of the score within a step of equal probability; below any step that matters
FIRST = ["mean_distance", "mirrored", "inliers"]

Curve = dict[str, list[float]]


def merge_branches(
    scored: pd.DataFrame, config: LocalConfig, calibration: Mapping[str, Curve] | None = None
) -> pd.DataFrame:
    """Merge scored proposals into one row a pair.

    Args:
        scored: columns branch ("a", "b", "c"), query_id, reference_id, score, mean_distance,
            mirrored, inliers, perhaps more. Of several rows of a branch and pair (several
            pictures of the query) the best one counts.
        config: `merge`, and what tells whether scores are broken ties (`geometry`, `tie_break`).
        calibration: of `fit_curves`; needed for merge "calibrated". Where it is given, the column
            `probability` stands beside the score, whatever the rule.

    Returns:
        query_id, reference_id, score, score_a, score_b, score_c (missing: the branch did not
        propose the pair), then mean_distance, mirrored, inliers and further columns of the pair's
        best row.
    """
    if config.merge == "calibrated" and calibration is None:
        raise KitError(
            "merge='calibrated' needs a calibration: fit one with "
            "iscutils.local.calibration.calibrate(photos, ...), or choose sum or max"
        )
    rows = scored.sort_values(
        [*PAIR, "score", "branch"], ascending=[True, True, False, True], kind="stable"
    ).reset_index(drop=True)
    rows = rows.drop_duplicates([*PAIR, "branch"])
    best = rows.drop_duplicates(PAIR).set_index(PAIR)
    wide = rows.pivot(index=PAIR, columns="branch", values="score").reindex(columns=list(BRANCHES))
    wide = wide.reindex(best.index)  # (pairs, 3)
    merged = pd.DataFrame(index=best.index)
    if config.merge == "max":
        merged["score"] = wide.max(axis=1)
    elif config.merge == "sum":
        merged["score"] = _sums(rows, config).reindex(best.index)
    else:
        merged["score"] = noisy_or(_probabilities(wide, calibration) + TIE * _squeezed(wide))
    for column, name in zip(SCORES, BRANCHES, strict=True):
        merged[column] = _integers_if_possible(wide[name])
    merged[FIRST] = best[FIRST]
    if calibration is not None:
        merged["probability"] = noisy_or(_probabilities(wide, calibration))
    others = [name for name in best if name not in {"branch", "score", *FIRST}]
    return pd.concat([merged, best[others]], axis=1).reset_index()


def _sums(rows: pd.DataFrame, config: LocalConfig) -> pd.Series:
    """Sum of the branches' scores; of broken ties, the sum of the integers less the mean part.

    So sums of different integers keep their order: each part is at most 1, their sum would not be.
    """
    groups = rows.assign(part=0.0)
    if config.tie_break and config.geometry != "evidence":
        groups["part"] = groups["mean_distance"] / MAX_DISTANCE
        groups["score"] = (groups["score"] + groups["part"]).round()
    groups = groups.groupby(PAIR)
    return groups["score"].sum() - groups["part"].mean()


def _probabilities(wide: pd.DataFrame, calibration: Mapping[str, Curve]) -> np.ndarray:
    """Probability (pairs, 3) of a copy by each branch's score; NaN where it did not propose."""
    columns = [apply_curve(calibration[name], wide[name].to_numpy(float)) for name in BRANCHES]
    return np.stack(columns, axis=1)


def _squeezed(wide: pd.DataFrame) -> np.ndarray:
    """Scores (pairs, 3) as numbers -1..1 in their order."""
    values = wide.to_numpy(float)
    return values / (1 + np.abs(values))


def noisy_or(probabilities: np.ndarray) -> np.ndarray:
    """1 - product of (1 - p) over the columns of (pairs, branches); NaN is left out."""
    return 1 - np.nanprod(1 - probabilities, axis=1)


def fit_curves(branch: Sequence[str], score: np.ndarray, true: np.ndarray) -> dict[str, Curve]:
    """Isotonic regression of truth on score, one curve a branch and one of all pairs.

    Args:
        branch: name of each pair's branch (N,).
        score: its score (N,), higher = more alike.
        true: whether it is a copy (N,) bool.

    Returns:
        {branch or "pooled": {"scores": rising, "probabilities": rising, "pairs": [N, true]}}; a
        branch of fewer than 30 pairs, or of one kind only, has the pooled curve. Probabilities
        stay 1 / (N + 2) away from 0 and 1, so that no finite sample claims certainty.
    """
    branch, score, true = np.asarray(branch), np.asarray(score, float), np.asarray(true, bool)
    if true.all() or not true.any():
        raise KitError(
            f"calibration needs true and wrong pairs, not {true.sum()} and {(~true).sum()}: "
            "give more photographs or queries"
        )
    curves = {POOLED: _fit(score, true)}
    for name in BRANCHES:
        own = branch == name
        enough = own.sum() >= FEWEST and 0 < true[own].sum() < own.sum()
        curves[name] = _fit(score[own], true[own]) if enough else curves[POOLED]
    return curves


def _fit(score: np.ndarray, true: np.ndarray) -> Curve:
    from sklearn.isotonic import IsotonicRegression  # slow to import

    floor = 1 / (len(score) + 2)
    model = IsotonicRegression(y_min=floor, y_max=1 - floor, out_of_bounds="clip")
    model.fit(score, true.astype(float))
    return {
        "scores": model.X_thresholds_.tolist(),
        "probabilities": model.y_thresholds_.tolist(),
        "pairs": [len(score), int(true.sum())],
    }


def read_curves(path: str | Path) -> dict[str, Curve]:
    """The curves of a calibration file; `KitError` when it is missing or of another kind."""
    try:
        curves = json.loads(Path(path).read_text(encoding="utf-8"))["branches"]
        return {name: curves[name] for name in (*BRANCHES, POOLED)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(
            f"{path} is no calibration: make one with iscutils.local.calibration.calibrate"
        ) from error


def apply_curve(curve: Mapping[str, Any], score: np.ndarray) -> np.ndarray:
    """Probabilities of scores, linear between the knots and constant beyond them; NaN stays."""
    return np.interp(score, curve["scores"], curve["probabilities"])


def _integers_if_possible(values: pd.Series) -> pd.Series:
    known = values.dropna()
    return values.astype("Int64") if (known == known.round()).all() else values
