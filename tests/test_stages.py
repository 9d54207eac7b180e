"""Stages as functions over files: retrieval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from iscutils.descriptors.store import write_descriptors
from iscutils.evaluation.submissions import read_predictions
from iscutils.files.artifacts import KitError
from iscutils.retrieval import retrieve


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    sets = {name: unit(rng.normal(size=(n, 8))) for name, n in (("q", 6), ("r", 20), ("b", 40))}
    paths = {
        name: write_descriptors(
            tmp_path / f"{name}.h5", rows, [f"{name}{i}" for i in range(len(rows))]
        )
        for name, rows in sets.items()
    }
    return sets, paths, tmp_path


def by_hand(sets, beta: float) -> dict[tuple[str, str], float]:
    scores = {}
    for i, q in enumerate(sets["q"]):
        bias = beta * np.mean(sorted((float(q @ b) for b in sets["b"]), reverse=True)[:3])
        for j, r in enumerate(sets["r"]):
            scores[f"q{i}", f"r{j}"] = float(q @ r) - bias
    return scores


@pytest.mark.parametrize(("norm", "beta"), [("none", 0.0), ("1.0[0,2]", 1.0)])
def test_retrieval_equals_the_formula(files, norm, beta):
    sets, paths, out = files
    path = retrieve(paths["q"], paths["r"], paths["b"], out, score_norm=norm, rule="global:30")
    found = read_predictions(path)
    expected = by_hand(sets, beta)
    best = sorted(expected.values(), reverse=True)[:30]
    assert np.allclose(found.score, best, atol=1e-5)
    for row in found.itertuples():
        assert row.score == pytest.approx(expected[row.query_id, row.reference_id], abs=1e-5)


def test_finished_retrieval_is_kept_and_settings_change_the_file(files):
    _, paths, out = files
    first = retrieve(paths["q"], paths["r"], None, out)
    stamp = first.stat().st_mtime_ns
    assert retrieve(paths["q"], paths["r"], None, out) == first
    assert first.stat().st_mtime_ns == stamp
    assert retrieve(paths["q"], paths["r"], None, out, rule="knn:2") != first


def test_an_approximate_index_learns_from_the_background(files):
    sets, paths, out = files
    path = retrieve(
        paths["q"], paths["r"], paths["b"], out,
        codec="PCAW8,L2norm,Flat", score_norm="1.0[0,2]", rule="knn:3", index="IVF2,Flat",
    )  # fmt: skip
    exact = retrieve(
        paths["q"], paths["r"], paths["b"], out,
        codec="PCAW8,L2norm,Flat", score_norm="1.0[0,2]", rule="knn:3",
    )  # fmt: skip
    # All lists are probed: the same pairs, scores up to rounding.
    pd.testing.assert_frame_equal(read_predictions(path), read_predictions(exact), atol=1e-5)
    assert len(sets["q"]) * 3 == len(read_predictions(path))


def test_whitening_needs_a_background(files):
    _, paths, out = files
    with pytest.raises(KitError, match="background"):
        retrieve(paths["q"], paths["r"], None, out, codec="PCAW8,L2norm,Flat")
