"""The norm filter against its rule pair by pair, and its report on a made-up benchmark."""

import numpy as np
import pandas as pd
import pytest

from iscutils.descriptors.store import write_descriptors
from iscutils.evaluation.metrics import evaluate
from iscutils.files.artifacts import KitError
from iscutils.retrieval import (
    by_direction,
    direction_report,
    hard_negative_table,
    norm_ratios,
    read_norms,
    true_rows,
)
from iscutils.retrieval.direction import filter_direction, soften_direction

QUERY = {"Q0": 1.0, "Q1": 2.0, "Q2": 3.0}
REFERENCE = {"R0": 2.0, "R1": 1.0}
PAIRS = pd.DataFrame(
    [("Q0", "R0", 0.9), ("Q1", "R0", 0.8), ("Q2", "R0", 0.7), ("Q1", "R1", 0.6), ("Q0", "R1", 0.5)],
    columns=["query_id", "reference_id", "score"],
)


def test_ratios_are_query_over_reference():
    assert norm_ratios(PAIRS, QUERY, REFERENCE).tolist() == [0.5, 1.0, 1.5, 2.0, 1.0]


@pytest.mark.parametrize(("tau", "kept"), [(1.0, [0, 1, 4]), (0.99, [0]), (1.5, [0, 1, 2, 4])])
def test_the_filter_is_strict_and_changes_nothing_else(tau, kept):
    ratios = norm_ratios(PAIRS, QUERY, REFERENCE)
    found = filter_direction(PAIRS, ratios, tau)
    assert found.equals(PAIRS.iloc[kept].reset_index(drop=True))
    again = filter_direction(found, norm_ratios(found, QUERY, REFERENCE), tau)
    assert again.equals(found)


def test_the_soft_form_lowers_what_the_filter_deletes():
    ratios = norm_ratios(PAIRS, QUERY, REFERENCE)
    found = soften_direction(PAIRS, ratios, weight=0.2)
    fall = PAIRS.score - found.score
    assert fall.tolist() == pytest.approx([0, 0, 0.2 * np.log(1.5), 0.2 * np.log(2), 0])
    later = soften_direction(PAIRS, ratios, weight=0.2, tau=1.5)
    assert (PAIRS.score - later.score).tolist() == pytest.approx([0, 0, 0, 0.2 * np.log(4 / 3), 0])


def test_by_direction_chooses():
    assert by_direction(PAIRS, {}, {}) is PAIRS
    assert len(by_direction(PAIRS, QUERY, REFERENCE, tau=1.0)) == 3
    soft = by_direction(PAIRS, QUERY, REFERENCE, soft=0.2)
    assert len(soft) == 5
    assert soft.score[3] == pytest.approx(0.6 - 0.2 * np.log(2))


def test_an_image_without_a_norm_is_named():
    with pytest.raises(KitError, match="1 pairs lack a norm, such as query_id 'Q2'"):
        norm_ratios(PAIRS, {"Q0": 1, "Q1": 2}, REFERENCE)
    with pytest.raises(KitError, match="reference_id 'R1'"):
        norm_ratios(PAIRS, QUERY, {"R0": 1, "R1": 0})


def test_norms_are_those_of_the_whole_images(tmp_path):
    columns = {
        "part": np.array(["4", "0", "0"], dtype=object),
        "norms": np.float32([9, 2, 3]),
    }
    path = write_descriptors(tmp_path / "q.h5", np.eye(3), ["Q0", "Q0", "Q1"], columns=columns)
    assert read_norms(path) == {"Q0": 2, "Q1": 3}
    bare = write_descriptors(tmp_path / "b.h5", np.eye(2), ["a", "b"])
    with pytest.raises(KitError, match="holds no norms"):
        read_norms(bare)


@pytest.fixture(scope="module")
def decoys():
    """60 copies with small norms, 40 decoys (no original) with large norms; scores alike."""
    rng = np.random.default_rng(0)
    ids = [f"Q{i:03d}" for i in range(100)]
    norms = dict(zip(ids, np.r_[rng.uniform(0.5, 1.05, 60), rng.uniform(0.95, 2, 40)], strict=True))
    pairs = pd.DataFrame(
        {
            "query_id": ids,
            "reference_id": [f"R{i:03d}" for i in range(100)],
            "score": rng.random(100),
        }
    )
    truth = pairs[["query_id", "reference_id"]].copy()
    truth.loc[60:, "reference_id"] = ""
    return pairs, truth, norms, dict.fromkeys(pairs.reference_id, 1.0)


def test_the_report_counts_what_each_tau_deletes(decoys):
    pairs, truth, queries, references = decoys
    report = direction_report(pairs, truth, queries, references)
    assert report.tau.tolist() == [0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2]
    values = np.array(list(queries.values()))
    for row in report.itertuples():
        kept = pairs[values <= row.tau]
        assert row.uap == pytest.approx(evaluate(kept, truth).uap)
        assert row.true_deleted == pytest.approx((values[:60] > row.tau).mean())
        assert row.hard_deleted == pytest.approx((values[60:] > row.tau).mean())
    assert report.uap.max() > evaluate(pairs, truth).uap
    few = direction_report(pairs, truth, queries, references, grid=[1.0], hard=["Q060", "Q061"])
    assert few.hard_deleted[0] == (values[60:62] > 1).mean()


def test_deleting_only_wrong_pairs_never_lowers_uap(decoys):
    pairs, truth, _, _ = decoys
    before, hits = evaluate(pairs, truth).uap, true_rows(pairs, truth)
    rng = np.random.default_rng(1)
    for _ in range(20):
        kept = hits | (rng.random(len(pairs)) < 0.5)
        assert evaluate(pairs[kept], truth).uap >= before


@pytest.mark.parametrize(
    ("tau", "split", "warned"),
    [
        (0.9, "validation", True),
        (1.2, "validation", False),
        (0.9, "test", False),
        (0, "validation", False),
    ],
)
def test_too_many_true_pairs_lost_is_a_warning(decoys, caplog, monkeypatch, tau, split, warned):
    monkeypatch.setattr("iscutils.files.artifacts.log.propagate", True)
    pairs, truth, queries, references = decoys
    direction_report(pairs, truth, queries, references, tau=tau, split=split)
    assert ("of the true pairs" in caplog.text) == warned


def test_an_unknown_split_is_an_error(decoys):
    pairs, truth, queries, references = decoys
    with pytest.raises(KitError, match="split 'dev' is unknown"):
        direction_report(pairs, truth, queries, references, split="dev")


def test_what_hard_negatives_cost_is_counted_by_hand():
    score = np.linspace(1, 0, 20)  # true: 0 to 8 and 12; hard: 9, 10; ordinary ones without: others
    ids = [f"Q{i:02d}" for i in range(20)]
    pairs = pd.DataFrame({"query_id": ids, "reference_id": "R", "score": score})
    true = [*range(9), 12]
    truth = pd.DataFrame(
        {"query_id": ids, "reference_id": ["R" if i in true else "" for i in range(20)]}
    )
    sunk = pairs.assign(score=np.where(pairs.query_id.isin(["Q09", "Q10"]), -1, pairs.score))
    table = hard_negative_table({"as it is": pairs, "sunk": sunk}, truth, ["Q09", "Q10"])
    assert table.recall_at_p90.tolist() == [0.9, 1.0]
    assert table.uap.tolist() == pytest.approx([(9 + 10 / 13) / 10, (9 + 10 / 11) / 10])
    # Without the hard ones a tenth true pair at rank 11 has precision 10 / 11
    assert table.ordinary_recall_at_p90.tolist() == [1.0, 1.0]
    assert table.hard_above.tolist() == [0, 0]
    assert table.hard_above_ordinary.tolist() == [2, 0]
    none = truth.assign(reference_id=["R" if i == 19 else "" for i in range(20)])
    assert hard_negative_table({"no": pairs}, none, ["Q09"]).hard_above.isna().all()
