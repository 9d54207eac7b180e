"""Codecs, score normalisation and search against NumPy written out, and golden values."""

import sys

import faiss
import numpy as np
import pandas as pd
import pytest

from iscutils.descriptors.store import read_submission, write_descriptors
from iscutils.evaluation.metrics import evaluate
from iscutils.evaluation.submissions import read_predictions
from iscutils.files.artifacts import KitError
from iscutils.retrieval import (
    Codec,
    nearest,
    normalise,
    parse_rule,
    parse_score_norm,
    retrieve,
    search,
    ways_ladder,
    write_l2_submission,
)
from iscutils.retrieval.score_norm import smooth_background, subtract_nearest

kernel = sys.modules["iscutils.retrieval.top_pairs"]  # the package shows the function instead
BLOCKS = [((3, 7), 0), ((64, 16), 2), ((1024, 4096), 1024)]  # rows of a block, pairs of slack


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def correlated(n, d, seed):
    """Rows with very different variance along random directions, far from the origin."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.geomspace(3, 0.05, d)
    return (rng.standard_normal((n, d)) @ mixing.T + 0.5).astype(np.float32)


# Codecs


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("kept", [5, 12])
def test_pca_equals_an_eigendecomposition(whiten, kept):
    background, rows = correlated(300, 12, 0), correlated(40, 12, 1)
    codec = Codec(f"PCA{'W' if whiten else ''}{kept},L2norm,Flat").fit(background)
    covariance = np.cov(background.T.astype(np.float64), bias=True)
    values, vectors = np.linalg.eigh(covariance)
    expected = (rows - background.mean(axis=0, dtype=np.float64)) @ vectors[:, ::-1][:, :kept]
    if whiten:
        expected /= np.sqrt(values[::-1][:kept])
    found, expected = codec.apply(rows), unit(expected)
    assert found.shape == (40, kept)
    assert found.dtype == np.float32
    assert np.abs(np.abs(found) - np.abs(expected)).max() < 1e-6  # the sign of each column is free
    assert np.abs(found @ found.T - expected @ expected.T).max() < 1e-5


@pytest.mark.parametrize(("name", "power"), [("PCA", 0), ("PCAW", -0.5)])
def test_pca_agrees_with_faiss(name, power):
    background, rows = correlated(500, 16, 0), correlated(40, 16, 1)
    matrix = faiss.PCAMatrix(16, 8, power, False)
    matrix.train(background)
    expected = unit(matrix.apply(rows))
    found = Codec(f"{name}8,L2norm,Flat").fit(background).apply(rows)
    assert np.abs(np.abs(found) - np.abs(expected)).max() < 1e-3


def test_pca_at_full_size_is_mean_removal():
    background, rows = correlated(300, 12, 0), correlated(40, 12, 1)
    found = Codec("PCA12,L2norm,Flat").fit(background).apply(rows)
    expected = unit(rows - background.mean(axis=0, dtype=np.float64))
    assert np.abs(found @ found.T - expected @ expected.T).max() < 1e-6


def test_codecs_without_learning():
    rows = correlated(10, 6, 0)
    rows[3] = 0
    assert np.array_equal(Codec("Flat").apply(rows), rows)
    normed = Codec("L2norm,Flat").apply(rows)
    assert np.linalg.norm(normed, axis=1) == pytest.approx([1, 1, 1, 0, 1, 1, 1, 1, 1, 1])
    assert normed[0] == pytest.approx(rows[0] / np.linalg.norm(rows[0]), abs=1e-6)


def test_l2norm_before_pca_is_applied_first():
    background, rows = correlated(300, 6, 0), correlated(5, 6, 1)
    found = Codec("L2norm,PCA6,Flat").fit(background).apply(rows)
    expected = Codec("PCA6,Flat").fit(unit(background)).apply(unit(rows))
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("rows", "wanted", "kept"), [(300, 512, 12), (9, 12, 8), (2, 5, 1), (300, 7, 7)]
)
def test_the_dimension_is_clipped_to_what_the_background_allows(rows, wanted, kept):
    codec = Codec(f"PCAW{wanted},L2norm,Flat").fit(correlated(rows, 12, 0))
    assert codec.spec == f"PCAW{kept},L2norm,Flat"
    assert codec.apply(correlated(4, 12, 1)).shape == (4, kept)


def test_eigenvalues_are_floored_so_that_noise_is_not_blown_up():
    background = correlated(200, 6, 0).astype(np.float64)
    background[:, 5] = background[:, 4]  # one direction carries nothing
    codec = Codec("PCAW6,L2norm,Flat").fit(background)
    assert codec.eigenvalues.min() == pytest.approx(1e-6 * codec.eigenvalues.max())


def test_fitting_rows_are_drawn_with_a_seed():
    background = correlated(2500, 2, 0)  # 1000 rows per dimension are used
    first, same, other = (Codec("PCA2,Flat").fit(background, seed=s).mean for s in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert first == pytest.approx(background.mean(axis=0), abs=0.2)


@pytest.mark.parametrize("spec", ["Flat", "L2norm,Flat", "PCAW5,L2norm,Flat"])
def test_a_saved_codec_gives_the_same_vectors(tmp_path, spec):
    codec = Codec(spec).fit(correlated(100, 12, 0))
    again = Codec.load(codec.save(tmp_path / "codec.npz"))
    rows = correlated(20, 12, 1)
    assert again.spec == codec.spec
    assert again.fitted_on == codec.fitted_on
    assert np.array_equal(again.apply(rows), codec.apply(rows))
    assert len(list(tmp_path.iterdir())) == 1


def test_codec_errors(tmp_path):
    for spec in ("PCA", "PCAW512,L2norm", "OPQ8,Flat", "PCA0,Flat", "PCA8,PCAW4,Flat", ""):
        with pytest.raises(KitError, match="is unknown"):
            Codec(spec)
    codec = Codec("PCAW5,L2norm,Flat")
    with pytest.raises(KitError, match="not fitted"):
        codec.apply(correlated(3, 12, 0))
    with pytest.raises(KitError, match="learns from background"):
        codec.fit(None)
    with pytest.raises(KitError, match="at least 2"):
        codec.fit(correlated(1, 12, 0))
    with pytest.raises(KitError, match="equal"):
        codec.fit(np.ones((10, 12)))
    with pytest.raises(KitError, match="NaN"):
        codec.fit(np.full((10, 12), np.nan))
    codec.fit(correlated(50, 12, 0))
    with pytest.raises(KitError, match="dimension 12, the descriptors have 8"):
        codec.apply(correlated(3, 8, 0))
    (tmp_path / "codec.npz").write_bytes(b"nothing")
    with pytest.raises(KitError, match="fit it again"):
        Codec.load(tmp_path / "codec.npz")
    np.savez(tmp_path / "evil.npz", spec=np.array([print], dtype=object), fitted_on="background")
    with pytest.raises(KitError, match="fit it again"):
        Codec.load(tmp_path / "evil.npz")


def test_strict_refuses_a_whitening_fitted_on_references():
    references = correlated(50, 12, 0)
    with pytest.raises(KitError, match="fitted on 'references'"):
        Codec("PCAW5,L2norm,Flat").fit(references, fitted_on="references")
    codec = Codec("PCAW5,L2norm,Flat").fit(references, fitted_on="references", strict=False)
    assert codec.fitted_on == "references"
    assert Codec("L2norm,Flat").fit(references, fitted_on="references").fitted_on == ""


# Score normalisation


def with_similarities(*values):
    """Unit background rows whose inner products with (1, 0) are the given ones."""
    return np.array([[v, np.sqrt(1 - v * v)] for v in values])


QUERY = np.array([[1.0, 0.0]])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("1.0[0,2]", 0.05), ("1.0[3]", 0.65), ("2.0[2]", -0.55), ("2.0[0,2]", -0.75), ("none", 0.85)],
)
def test_golden_subtracting_forms(spec, expected):
    reference = with_similarities(0.85)
    queries, references = normalise(QUERY, reference, with_similarities(0.7, 0.9, 0.2, 0.8), spec)
    assert (queries @ references.T).item() == pytest.approx(expected, abs=1e-6)


def test_golden_bias_of_the_sscd_specification():
    background = with_similarities(0.8, 0.6, 0, -1)
    queries, references = normalise(QUERY, np.array([[0.8, 0.6]]), background, "1.0[0,2]")
    assert queries[0, -1] == pytest.approx(-0.466667, abs=1e-6)
    assert (queries @ references.T).item() == pytest.approx(0.333333, abs=1e-6)


def test_golden_stretching():
    reference, background = with_similarities(0.85), with_similarities(0.9, 0.8, 0.7, 0.2)
    queries, references = normalise(QUERY, reference, background, "stretch:2.5[0,1]", form="l2")
    assert queries == pytest.approx(np.array([[2.125, 0]]), abs=1e-6)
    assert np.array_equal(references, reference.astype(np.float32))
    assert ((queries - references) ** 2).sum() == pytest.approx(1.903125, abs=1e-6)
    queries, references = normalise(QUERY, reference, background, "stretch:2.5[0,1]")
    assert (queries @ references.T).item() == pytest.approx(-1.903125, abs=1e-6)


def test_stretching_is_clamped_from_below():
    queries, _ = normalise(QUERY, QUERY + 1, -QUERY, "stretch:2.5[0]", form="l2")
    assert queries == pytest.approx(0.025 * QUERY)


def test_golden_nes():
    moved = subtract_nearest(QUERY.astype(np.float32), np.array([[0.6, 0.8]]), 1, 0.35)
    assert moved == pytest.approx(np.array([[0.942549, -0.334069]]), abs=1e-6)
    smooth = smooth_background(np.array([[1, 0], [0.6, 0.8]], dtype=np.float32), 2)
    expected = np.array([[0.988501, 0.151215], [0.714073, 0.700071]])
    assert smooth == pytest.approx(expected, abs=1e-6)


def slow_nes(x, background, beta, k, passes):
    smooth = []
    for t in background:
        near = sorted(range(len(background)), key=lambda j: -(t @ background[j]))[:k]
        total = sum((t @ background[j]) ** 3 * background[j] for j in near)
        smooth.append(total / np.linalg.norm(total))
    for _ in range(passes):
        moved = []
        for row in x:
            near = sorted(range(len(smooth)), key=lambda j: -(row @ smooth[j]))[:k]
            row = row - beta * np.mean([smooth[j] for j in near], axis=0)
            moved.append(row / np.linalg.norm(row))
        x = np.array(moved)
    return x


@pytest.mark.parametrize("passes", [1, 2])
def test_nes_equals_the_written_out_form(passes):
    background, queries, references = (
        unit(correlated(n, 6, seed)) for seed, n in enumerate((30, 8, 9))
    )
    found = normalise(queries, references, background, f"nes:0.35,4,{passes}")
    for vectors, result in zip((queries, references), found, strict=True):
        expected = slow_nes(vectors.astype(np.float64), background, 0.35, 4, passes)
        assert result == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("spec", ["1.0[0,2]", "1.25[3]", "2.0[9]", "2.0[0,9]", "stretch:2.5[0,4]"])
def test_columns_equal_the_formula_and_keep_the_order_within_a_query(spec):
    background, queries, references = (
        unit(correlated(n, 8, seed)).astype(np.float32) for seed, n in enumerate((40, 12, 30))
    )
    norm = parse_score_norm(spec)
    plain = queries.astype(np.float64) @ references.T
    # Sorted and averaged by hand.
    levels = [
        np.mean(sorted((float(q.astype(np.float64) @ b) for b in background), reverse=True)[
            norm.first : norm.last + 1
        ])
        for q in queries
    ]  # fmt: skip
    if norm.kind == "stretch":
        expected = np.array(
            [[-np.sum((2.5 * max(m, 0.01) * q - r) ** 2) for r in references]
             for q, m in zip(queries.astype(np.float64), levels, strict=True)]
        )  # fmt: skip
    else:
        expected = plain - norm.factor * np.array(levels)[:, None]
    found_queries, found_references = normalise(queries, references, background, spec)
    found = found_queries @ found_references.T
    assert np.abs(found - expected).max() < 3e-6
    assert np.array_equal(np.argsort(-expected, axis=1), np.argsort(-plain, axis=1))
    assert np.array_equal(np.argmax(found, axis=1), np.argmax(plain, axis=1))


def test_the_official_form_is_the_tenth_similarity():
    background, queries, references = (
        unit(correlated(n, 8, seed)) for seed, n in enumerate((40, 12, 30))
    )
    found_queries, _ = normalise(queries, references, background, "2.0[9]")
    tenth = np.sort(queries @ background.T, axis=1)[:, -10:].min(axis=1)  # reduction "min", n = 10
    assert found_queries[:, -1] == pytest.approx(-2 * tenth, abs=1e-6)


def test_normalisation_orders_queries_and_leaves_recall_at_1():
    # Vector 12: the biases .3, .2 and .7 put the distractor's pair last.
    queries = np.eye(3)
    references = np.array([[0.8, 0, 0], [0, 0.6, 0], [0, 0, 0.85], [0.5, 0, 0]])
    background = np.diag([0.3, 0.2, 0.7])
    truth = pd.DataFrame({"query_id": ["Q1", "Q2"], "reference_id": ["R1", "R2"]})
    results = []
    for spec in ("none", "1.0[0]"):
        vectors = normalise(queries, references, background, spec)
        listed = search(*vectors, ["Q1", "Q2", "Q3"], ["R1", "R2", "R7", "R9"], "knn:2")
        wanted = listed[(listed["score"] != 0) & (listed["score"] > -0.1)]
        results.append(evaluate(wanted, truth))
    assert results[0].uap == pytest.approx(0.583333, abs=1e-6)
    assert results[1].uap == 1
    assert results[1].threshold_p90 == pytest.approx(0.4, abs=1e-6)
    assert results[0].recall_at_1 == results[1].recall_at_1 == 1


def test_score_norm_errors():
    for spec in ("1.0", "1.0[2,1]", "[0,2]", "stretch:[0]", "nes:0.35,0,1", "nes:.35", "1[0,2]x"):
        with pytest.raises(KitError, match="is unknown"):
            parse_score_norm(spec)
    queries, references, background = np.eye(4)[:2], np.eye(4), np.eye(4) + 1
    with pytest.raises(KitError, match="needs 5 background images, got 4"):
        normalise(queries, references, background, "stretch:2.5[0,4]")
    with pytest.raises(KitError, match="needs 10 background images, got 0"):
        normalise(queries, references, None, "nes:0.35,10,1")
    with pytest.raises(KitError, match="may not learn from the references"):
        normalise(queries, references, references, "1.0[0,2]")
    with pytest.raises(KitError, match="background 3"):
        normalise(queries, references, np.ones((5, 3)), "1.0[0,2]")
    with pytest.raises(KitError, match="no L2 form"):
        normalise(queries, references, background, "1.0[0,2]", form="l2")
    assert parse_score_norm("1.0[3]") == parse_score_norm("1.0[3,3]")


# Files


def write_set(path, ids, vectors, parts=None):
    columns = {} if parts is None else {"part": np.array(parts, dtype=object)}
    return write_descriptors(path, vectors, ids, columns=columns)


@pytest.fixture
def challenge(tmp_path):
    """Descriptor files with the challenge's ids: 12 queries, 30 references, 40 background."""
    sets = {"Q5000": 12, "R00000": 30, "T00": 40}
    paths = []
    for seed, (prefix, n) in enumerate(sets.items()):
        ids = [f"{prefix[: -1 if i > 9 else None]}{i}" for i in range(n)]
        paths.append(write_set(tmp_path / f"{seed}.h5", ids, unit(correlated(n, 8, seed))))
    return paths


@pytest.mark.parametrize("score_norm", ["stretch:2.5[0,4]", "nes:0.35,4,1", "none"])
def test_an_evaluator_that_only_knows_l2_ranks_as_we_do(tmp_path, challenge, score_norm):
    ours = read_predictions(
        retrieve(*challenge, tmp_path, score_norm=score_norm, rule=f"global:{12 * 30}")
    )
    path = write_l2_submission(*challenge, tmp_path, score_norm=score_norm, counts=(12, 30))
    queries, references = read_submission(path)
    distance = {
        (query, reference): float(((q.astype(np.float64) - r.astype(np.float64)) ** 2).sum())
        for query, q in zip(queries.ids, queries.vectors, strict=True)
        for reference, r in zip(references.ids, references.vectors, strict=True)
    }
    pairs = list(zip(ours.query_id, ours.reference_id, strict=True))
    if score_norm.startswith("stretch"):
        assert [-distance[pair] for pair in pairs] == pytest.approx(list(ours.score), abs=3e-6)
    assert len(pairs) == len(distance)
    ranked = [distance[pair] for pair in pairs]
    assert max(np.subtract(ranked[:-1], ranked[1:])) < 3e-6  # rising but for rounding
    assert np.linalg.norm(references.vectors, axis=1) == pytest.approx(np.ones(30), abs=1e-6)
    assert write_l2_submission(*challenge, tmp_path, score_norm=score_norm, counts=(12, 30)) == path


def test_a_score_without_an_l2_form_cannot_be_submitted(tmp_path, challenge):
    with pytest.raises(KitError, match="no L2 form"):
        write_l2_submission(*challenge, tmp_path, score_norm="1.0[0,2]")
    with pytest.raises(KitError, match="expected 50000"):
        write_l2_submission(*challenge, tmp_path, counts=(50_000, 1_000_000))


def test_whole_leaves_parts_out(tmp_path):
    vectors = unit(correlated(6, 4, 0))
    parts = ["0", "4", "0", "4", "0", "4"]
    queries = write_set(tmp_path / "q.h5", ["A", "A", "B", "B", "C", "C"], vectors, parts)
    references = write_set(tmp_path / "r.h5", ["X", "Y"], unit(correlated(2, 4, 1)))
    for whole, own in ((True, vectors[::2]), (False, vectors)):
        found = read_predictions(retrieve(queries, references, None, tmp_path, whole=whole))
        ids = ["A", "B", "C"] if whole else ["A", "A", "B", "B", "C", "C"]
        expected = full_sort(own, unit(correlated(2, 4, 1)), ids, ["X", "Y"])
        assert [row[:2] for row in as_rows(found)] == [row[:2] for row in expected]


@pytest.mark.parametrize("rule", ["knn:3", "global:20"])
@pytest.mark.parametrize("ways", [["whole"], ["tiles", "inverted"], ["whole", "centre", "tiles"]])
def test_a_pair_has_its_best_normalised_score_of_all_ways(tmp_path, rule, ways):
    parts = ["0", "30", "31", "32", "33", "34", "40"]
    numbers = {"whole": ["0"], "tiles": parts[1:5], "centre": ["34"], "inverted": ["40"]}
    rows, own = unit(correlated(6 * 7, 5, 0)), unit(correlated(9, 5, 1))
    base = unit(correlated(30, 5, 2))
    ids = [f"Q{i}" for i in range(6) for _ in parts]
    files = [
        write_set(tmp_path / "q.h5", ids, rows, parts * 6),
        write_set(tmp_path / "r.h5", [f"R{i}" for i in range(9)], own),
        write_set(tmp_path / "b.h5", [f"T{i:02d}" for i in range(30)], base),
    ]
    best = {}
    for way in ways:
        for query, part, row in zip(ids, parts * 6, rows, strict=True):
            if part not in numbers[way]:
                continue
            bias = sorted((float(row @ other) for other in base), reverse=True)[:3]
            for i, reference in enumerate(own):
                pair, score = (query, f"R{i}"), float(row @ reference) - sum(bias) / 3
                best[pair] = max(score, best.get(pair, -np.inf))
    expected = sorted(((*pair, score) for pair, score in best.items()), key=lambda row: -row[2])
    if rule == "knn:3":
        seen = [row[0] for row in expected]
        expected = [row for i, row in enumerate(expected) if seen[:i].count(row[0]) < 3]
    else:
        expected = expected[:20]
    options = dict(score_norm="1.0[0,2]", rule=rule, ways=ways)
    found = as_rows(read_predictions(retrieve(*files, tmp_path, **options)))
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=1e-6)


def test_ways_that_were_not_described_are_refused(tmp_path):
    files = [write_set(tmp_path / f"{i}.h5", ["A", "B"], unit(correlated(2, 4, i))) for i in (0, 1)]
    with pytest.raises(KitError, match="in the way 'inverted': extract them again with ways="):
        retrieve(*files, None, tmp_path, ways=["whole", "inverted"])
    with pytest.raises(KitError, match=r"way 'sideways' .* whole, tiles, centre, inverted"):
        retrieve(*files, None, tmp_path, ways=["sideways"])
    found = read_predictions(retrieve(*files, None, tmp_path, ways=["whole"]))
    assert as_rows(found) == as_rows(read_predictions(retrieve(*files, None, tmp_path)))


def test_the_ladder_of_ways_adds_one_at_a_time(tmp_path):
    """Of B the inverted row alone finds its original; of A the whole does."""
    axes = np.eye(4, dtype=np.float32)
    queries = write_set(tmp_path / "q.h5", list("AABB"), axes[[0, 3, 3, 1]], ["0", "40"] * 2)
    references = write_set(tmp_path / "r.h5", ["X", "Y", "Z"], axes[[0, 1, 2]])
    truth = pd.DataFrame({"query_id": ["A", "B"], "reference_id": ["X", "Y"]})
    table = ways_ladder(
        [queries, references, None], tmp_path, truth, ["whole", "inverted"], candidates=1
    )
    assert table.step.tolist() == ["whole", "+ inverted"]
    assert table.recall_at_1.tolist() == [0.5, 1.0]
    assert table.uap.iloc[1] == pytest.approx(1.0)


# Search


def names(letter, n):
    return [f"{letter}{i:04d}" for i in range(n)]


def full_sort(queries, references, query_ids, reference_ids):
    """Every pair as (query, reference, score), best score per pair, in the order of the files."""
    best = {}
    for q, query in zip(query_ids, queries.astype(np.float64), strict=True):
        for r, reference in zip(reference_ids, references.astype(np.float64), strict=True):
            best[q, r] = max(best.get((q, r), -np.inf), float(query @ reference))
    return sorted(((*pair, s) for pair, s in best.items()), key=lambda row: (-row[2], *row[:2]))


def as_rows(frame):
    return list(frame.itertuples(index=False, name=None))


def integers(n, d, seed):
    """Small whole numbers: exact inner products with many ties."""
    return np.random.default_rng(seed).integers(-2, 3, (n, d)).astype(np.float32)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("count", [1, 37, 400, 100_000])
def test_global_equals_a_full_sort(monkeypatch, count, block):
    monkeypatch.setattr(kernel, "BLOCK", block[0])
    monkeypatch.setattr(kernel, "SLACK", block[1])
    queries, references = unit(correlated(30, 8, 0)), unit(correlated(41, 8, 1))
    ids = names("Q", 30), names("R", 41)
    found = search(queries, references, *ids, f"global:{count}")
    expected = full_sort(queries, references, *ids)[:count]
    assert len(found) == min(count, 30 * 41)
    assert found["score"].to_numpy() == pytest.approx([row[2] for row in expected], abs=1e-6)
    assert [row[:2] for row in as_rows(found)] == [row[:2] for row in expected]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("seed", range(5))
def test_global_cuts_ties_by_id_whatever_the_row_order(monkeypatch, seed, block):
    monkeypatch.setattr(kernel, "BLOCK", block[0])
    monkeypatch.setattr(kernel, "SLACK", block[1])
    rng = np.random.default_rng(seed)
    queries, references = integers(20, 3, seed), integers(25, 3, seed + 100)
    ids = rng.permutation(names("Q", 20)).tolist(), rng.permutation(names("R", 25)).tolist()
    found = search(queries, references, *ids, "global:77")
    assert as_rows(found) == full_sort(queries, references, *ids)[:77]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rule", ["global:40", "global:9999", "knn:3", "knn:99"])
@pytest.mark.parametrize("seed", range(4))
def test_images_with_several_rows_count_with_their_best(monkeypatch, seed, rule, block):
    monkeypatch.setattr(kernel, "BLOCK", block[0])
    monkeypatch.setattr(kernel, "SLACK", block[1])
    rng = np.random.default_rng(seed)
    queries, references = unit(correlated(30, 4, seed)), unit(correlated(40, 4, seed + 50))
    ids = rng.choice(names("Q", 12), 30).tolist(), rng.choice(names("R", 15), 40).tolist()
    found = search(queries, references, *ids, rule)
    kind, count = parse_rule(rule)
    expected = full_sort(queries, references, *ids)
    if kind == "knn":
        own = {q: [row for row in expected if row[0] == q][:count] for q in set(ids[0])}
        expected = [row for row in expected if row in own[row[0]]]
    expected = expected[:count] if kind == "global" else expected
    assert [row[:2] for row in as_rows(found)] == [row[:2] for row in expected]
    assert found["score"].to_numpy() == pytest.approx([row[2] for row in expected], abs=1e-6)


def test_knn_gives_the_k_best_of_each_query():
    queries, references = unit(correlated(30, 8, 0)), unit(correlated(41, 8, 1))
    ids = names("Q", 30), names("R", 41)
    found = search(queries, references, *ids, "knn:10")
    assert found.groupby("query_id").size().tolist() == [10] * 30
    order = np.argsort(-(queries @ references.T), axis=1)[:, :10]
    for i, (_, own) in enumerate(found.groupby("query_id")):
        assert own["reference_id"].tolist() == [ids[1][j] for j in order[i]]
    assert as_rows(found) == sorted(as_rows(found), key=lambda row: (-row[2], *row[:2]))
    few = search(queries, references[:4], ids[0], ids[1][:4], "knn:10")
    assert few.groupby("query_id").size().tolist() == [4] * 30


def test_the_default_rule_is_global_with_ten_pairs_a_query():
    queries, references = unit(correlated(6, 8, 0)), unit(correlated(41, 8, 1))
    ids = names("Q", 6), names("R", 41)
    found = search(queries, references, *ids)
    assert as_rows(found) == as_rows(search(queries, references, *ids, "global:60"))
    assert len(found) == 60


def test_an_approximate_index_finds_most_pairs_and_scores_them_exactly():
    background = unit(correlated(2000, 16, 2))
    queries, references = unit(correlated(50, 16, 0)), unit(correlated(2000, 16, 1))
    ids = names("Q", 50), names("R", 2000)
    exact = {row[:2]: row[2] for row in as_rows(search(queries, references, *ids, "knn:2000"))}
    for rule in ("knn:5", "global:250"):
        best = {row[:2] for row in as_rows(search(queries, references, *ids, rule))}
        found = search(
            queries, references, *ids, rule, index="IVF16,SQ8", train=background, probes=8
        )
        pairs = {row[:2]: row[2] for row in as_rows(found)}
        assert len(pairs) == len(found) == 250
        assert len(best & pairs.keys()) > 0.8 * len(best)
        assert [exact[pair] for pair in pairs] == pytest.approx(list(pairs.values()), abs=1e-6)
        assert found["score"].is_monotonic_decreasing


def test_an_index_with_empty_lists_returns_what_it_found():
    rows = np.eye(8, dtype=np.float32)
    similarity, found = nearest(rows, rows, 8, index="IVF8,Flat", train=rows, probes=1)
    assert (found[:, 0] == np.arange(8)).all()
    assert (found[:, 1:] == -1).all()
    assert np.isneginf(similarity[:, 1:]).all()
    frame = search(rows, rows, names("Q", 8), names("R", 8), "knn:3", index="IVF8,Flat", train=rows,
                   probes=1)  # fmt: skip
    assert len(frame) == 8


def test_search_errors():
    queries, references, ids = np.eye(3), np.eye(3), (names("Q", 3), names("R", 3))
    for rule in ("knn:0", "top:5", "knn", "global:-1", "global:1e3"):
        with pytest.raises(KitError, match="is unknown"):
            search(queries, references, *ids, rule)
    with pytest.raises(KitError, match="queries have dimension 2, references 3"):
        search(queries[:, :2], references, *ids)
    with pytest.raises(KitError, match=r"\(3, 3\) and 2 reference ids"):
        search(queries, references, ids[0], ids[1][:2])
    with pytest.raises(KitError, match="no query"):
        search(queries[:0], references, [], ids[1])
    with pytest.raises(KitError, match="reference vectors hold NaN"):
        search(queries, references * np.nan, *ids)
    with pytest.raises(KitError, match="learn from background"):
        search(queries, references, *ids, "knn:2", index="IVF2,Flat")
    with pytest.raises(KitError, match="for dimension 3, the background has 2"):
        search(queries, references, *ids, "knn:2", index="IVF2,Flat", train=np.eye(2))
    with pytest.raises(KitError, match="no FAISS factory text"):
        search(queries, references, *ids, "knn:2", index="Nonsense")
    with pytest.raises(KitError, match="too few to train"):
        search(queries, references, *ids, "knn:2", index="IVF64,Flat", train=np.eye(3))
