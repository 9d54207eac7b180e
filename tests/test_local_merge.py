"""Merging the scores of imgFp's branches: sums, maxima, calibrated probabilities."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from iscutils.files.artifacts import KitError
from iscutils.local import local_config
from iscutils.local.merge import (
    BRANCHES,
    POOLED,
    apply_curve,
    fit_curves,
    merge_branches,
    noisy_or,
    read_curves,
)
from iscutils.local.pair_score import MAX_DISTANCE, tie_broken

IMGFP = local_config("imgfp")
CURVE = {"scores": [0.0, 10.0, 30.0], "probabilities": [0.1, 0.5, 0.9]}
CURVES = {name: CURVE for name in (*BRANCHES, POOLED)}


def scored(*rows) -> pd.DataFrame:
    """Rows of (branch, query, reference, score) with made-up details."""
    table = pd.DataFrame(rows, columns=["branch", "query_id", "reference_id", "score"])
    table["mean_distance"] = 1000.0 + np.arange(len(table))
    table["mirrored"] = 0
    table["inliers"] = table["score"].astype(int)
    return table.assign(picture=[f"{i} 0 9 9" for i in range(len(table))])


def by_pair(table):
    return table.set_index(["query_id", "reference_id"])


def test_published_sums():
    """Check 11: A 20 and B 35 for one pair, C 18 for another."""
    table = merge_branches(
        scored(("a", "Q", "R1", 20.0), ("b", "Q", "R1", 35.0), ("c", "Q", "R2", 18.0)), IMGFP
    )
    assert list(table)[:9] == [
        "query_id", "reference_id", "score", "score_a", "score_b", "score_c", "mean_distance",
        "mirrored", "inliers",
    ]  # fmt: skip
    rows = by_pair(table)
    assert rows.score.to_dict() == {("Q", "R1"): 55, ("Q", "R2"): 18}
    assert rows.loc[("Q", "R1"), ["score_a", "score_b"]].tolist() == [20, 35]
    assert rows.loc[("Q", "R1"), "mean_distance"] == 1001  # of the better branch
    assert rows[["score_a", "score_b", "score_c"]].isna().sum().tolist() == [1, 1, 1]


@pytest.mark.parametrize("rule", ["sum", "max", "calibrated"])
def test_rules_against_loops(rule):
    rng = np.random.default_rng(0)
    rows = [
        (branch, f"Q{q}", f"R{r}", float(rng.integers(0, 40)))
        for branch in BRANCHES for q in range(6) for r in range(4) for _ in range(2)
        if rng.random() < 0.4
    ]  # fmt: skip
    table = by_pair(merge_branches(scored(*rows), replace(IMGFP, merge=rule), CURVES))
    slow = {}
    for branch, query, reference, score in rows:  # the best row of each branch counts
        own = slow.setdefault((query, reference), {})
        own[branch] = max(own.get(branch, -1.0), score)
    assert set(table.index) == set(slow)
    for pair, own in slow.items():
        probability = 1 - np.prod([1 - np.interp(s, *list(CURVE.values())) for s in own.values()])
        wanted = {"sum": sum(own.values()), "max": max(own.values()), "calibrated": probability}
        assert table.score[pair] == pytest.approx(wanted[rule], abs=1e-5)
        assert table.probability[pair] == pytest.approx(probability)
        for branch in BRANCHES:
            value = table.loc[pair, f"score_{branch}"]
            assert (branch not in own) if pd.isna(value) else value == own[branch]


def test_broken_ties_never_swap_different_sums():
    """Three mean distances near the largest weigh less than one match."""
    config = replace(IMGFP, tie_break=True)
    far, near = 0.9 * MAX_DISTANCE, 0.1 * MAX_DISTANCE
    rows = [(name, "Q", "high", 10, far) for name in BRANCHES]
    rows += [("a", "Q", "low", 29, near), ("a", "Q", "far", 30, 0.95 * MAX_DISTANCE)]
    table = scored(*[(b, q, r, tie_broken(n, d)) for b, q, r, n, d in rows])
    table["mean_distance"] = [row[-1] for row in rows]
    merged = by_pair(merge_branches(table, config)).score
    assert merged["Q", "high"] == pytest.approx(30 - 0.9)
    assert merged["Q", "high"] > merged["Q", "far"] > merged["Q", "low"]


def test_equal_probabilities_keep_the_order_of_scores():
    table = scored(("a", "Q", "R1", 500.0), ("a", "Q", "R2", 40.0), ("a", "Q", "R3", 31.0))
    merged = merge_branches(table, replace(IMGFP, merge="calibrated"), CURVES)
    assert merged.sort_values("score", ascending=False).reference_id.tolist() == ["R1", "R2", "R3"]
    assert merged.probability.nunique() == 1
    assert (merged.score - merged.probability).abs().max() < 1e-5


def test_calibrated_needs_a_calibration(tmp_path):
    with pytest.raises(KitError, match="calibrate"):
        merge_branches(scored(("a", "Q", "R", 1.0)), replace(IMGFP, merge="calibrated"))
    with pytest.raises(KitError, match="is no calibration"):
        read_curves(tmp_path / "gone.json")
    path = tmp_path / "curves.json"
    path.write_text(json.dumps({"branches": CURVES}))
    assert read_curves(path) == CURVES


def slow_isotonic(score, true):
    """Pool adjacent violators, value by value of the score."""
    blocks = [[true[score == s].mean(), (score == s).sum(), [s]] for s in np.unique(score)]
    done = False
    while not done:
        done = True
        for i in range(len(blocks) - 1):
            if blocks[i][0] > blocks[i + 1][0]:
                (a, n, first), (b, m, second) = blocks[i : i + 2]
                blocks[i : i + 2] = [[(a * n + b * m) / (n + m), n + m, first + second]]
                done = False
                break
    return {s: value for value, _, scores in blocks for s in scores}


def test_curves_are_isotonic_regressions():
    rng = np.random.default_rng(1)
    score = rng.integers(0, 25, 300).astype(float)
    true = rng.random(300) < score / 25
    branch = np.where(np.arange(300) < 200, "a", "b")
    branch[:5] = "c"  # too few: the pooled curve
    curves = fit_curves(branch, score, true)
    own = branch == "a"
    floor = 1 / (own.sum() + 2)
    for s, value in slow_isotonic(score[own], true[own]).items():
        expected = np.clip(value, floor, 1 - floor)
        assert apply_curve(curves["a"], np.array([s]))[0] == pytest.approx(expected, abs=1e-6)
    assert curves["c"] == curves[POOLED] != curves["a"]
    assert np.isnan(apply_curve(curves["a"], np.array([np.nan]))).all()
    ends = apply_curve(curves["a"], np.array([-5.0, 1e6]))
    assert 0 < ends[0] < 0.2 < 0.8 < ends[1] < 1
    with pytest.raises(KitError, match="true and wrong pairs"):
        fit_curves(branch, score, np.ones(300, bool))


def test_noisy_or():
    values = np.array([[0.5, 0.5, np.nan], [0.2, np.nan, np.nan], [0.9, 0.1, 0.5]])
    np.testing.assert_allclose(noisy_or(values), [0.75, 0.2, 1 - 0.1 * 0.9 * 0.5])
