"""Scoring many pairs, candidates, the final list, figures, fitting, and the shared bench."""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from PIL import Image
from skimage import data

from iscutils.evaluation.metrics import evaluate
from iscutils.evaluation.submissions import read_predictions
from iscutils.figures import local as figures
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.local import (
    counting,
    extract_features,
    find_candidates,
    local_config,
    match_pair,
    pair_drawer,
    parse_settings,
    read_features,
    score_pairs,
    verify,
    vote,
)
from iscutils.local.evidence import NAMES
from iscutils.local.fit import fit_network, training_pairs
from iscutils.local.verifier import log_odds, probability, shipped_weights

BENCH = Path(__file__).parents[2] / "shared" / "bench"
CONFIG = local_config(whole_candidates=2, max_candidates=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small benchmark in ISC layout: four references, four queries, one without an original."""
    root = tmp_path_factory.mktemp("bench")
    for part in ("references", "queries"):
        (root / part).mkdir()
    photos = {n: Image.fromarray(getattr(data, n)()).convert("RGB").resize((320, 280))
              for n in ("astronaut", "coffee", "chelsea", "rocket", "camera")}  # fmt: skip
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        photos[name].save(root / "references" / f"{name}.png")
    pasted = photos["camera"].copy()
    pasted.paste(photos["chelsea"].resize((160, 140)), (90, 70))
    queries = {
        "Q0": (photos["astronaut"].crop((60, 20, 290, 230)), "astronaut"),
        "Q1": (photos["coffee"].transpose(Image.Transpose.ROTATE_270), "coffee"),
        "Q2": (pasted, "chelsea"),
        "Q3": (photos["camera"].transpose(Image.Transpose.FLIP_LEFT_RIGHT), ""),
    }
    for name, (image, _) in queries.items():
        image.save(root / "queries" / f"{name}.png")
    truth = pd.DataFrame(
        {"query_id": list(queries), "reference_id": [original for _, original in queries.values()]}
    )
    truth.to_csv(root / "ground_truth.csv", index=False)
    return root


@pytest.fixture(scope="module")
def features(folder):
    with open_executor("serial") as executor:
        return [
            read_features(
                extract_features(
                    open_folder(folder / part), folder / f"{part}.h5", CONFIG, executor
                )
            )
            for part in ("queries", "references")
        ]


def all_pairs(features):
    queries, references = features
    return pd.MultiIndex.from_product(
        [queries.ids, references.ids], names=["query_id", "reference_id"]
    ).to_frame(index=False)


@pytest.mark.parametrize("geometry", ["evidence", "none", "affine"])
def test_scores_of_all_pairs(features, geometry):
    config = replace(CONFIG, geometry=geometry)
    with open_executor("serial") as executor:
        table = score_pairs(all_pairs(features), *features, config, executor)
    assert len(table) == 16
    assert table.score.is_monotonic_decreasing
    best = table.drop_duplicates("query_id").set_index("query_id").reference_id
    assert best[["Q0", "Q1", "Q2"]].tolist() == ["astronaut", "coffee", "chelsea"]
    assert set(table.query_id[:3]) == {"Q0", "Q1", "Q2"}
    if geometry == "none":
        assert table.h00.isna().all()
    else:
        one = table[table.query_id == "Q2"].iloc[0]
        matrix = one[[f"h{i}{j}" for i in range(3) for j in range(3)]].to_numpy(float)
        expected = [[0.5, 0, 90], [0, 0.5, 70], [0, 0, 1]]
        np.testing.assert_allclose(matrix.reshape(3, 3), expected, atol=1.5)
    if geometry == "evidence":
        assert abs(table[table.query_id == "Q2"].iloc[0].coverage - 0.25) < 0.03


def test_scores_do_not_depend_on_other_pairs_or_workers(features):
    pairs = all_pairs(features)
    with open_executor("serial") as executor:
        every = score_pairs(pairs, *features, CONFIG, executor).set_index(
            ["query_id", "reference_id"]
        )
        one = score_pairs(pairs[5:6], *features, CONFIG, executor)
    with open_executor("processes", 2) as executor:
        again = score_pairs(pairs[::-1], *features, CONFIG, executor)
    pd.testing.assert_frame_equal(
        every.sort_index(), again.set_index(["query_id", "reference_id"]).sort_index()
    )
    key = (one.query_id[0], one.reference_id[0])
    assert one.score[0] == every.score[key]


def test_scoring_resumes(features, tmp_path, monkeypatch):
    monkeypatch.setattr("iscutils.local.verification.CHUNK", 4)
    pairs, calls = all_pairs(features), []

    def counted(query, reference, config):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return match_pair(query, reference, config)

    monkeypatch.setattr("iscutils.local.verification.match_pair", counted)
    with open_executor("serial") as executor:
        with pytest.raises(KeyboardInterrupt):
            score_pairs(pairs, *features, CONFIG, executor, folder=tmp_path)
        resumed = score_pairs(pairs, *features, CONFIG, executor, folder=tmp_path)
        assert len(calls) == 10 + 8  # two of four chunks were kept
        fresh = score_pairs(pairs, *features, CONFIG, executor)
        score_pairs(pairs, *features, counting(CONFIG), executor, folder=tmp_path)
        assert len(calls) == 10 + 8 + 16 + 16  # another configuration is no finished work
    pd.testing.assert_frame_equal(resumed, fresh)


def test_pictures_without_features_are_left_out(features):
    pairs = pd.DataFrame({"query_id": ["Q0", "gone"], "reference_id": ["coffee", "coffee"]})
    with open_executor("serial") as executor:
        table = score_pairs(pairs, *features, counting(CONFIG), executor)
        nothing = score_pairs(pairs[1:], *features, CONFIG, executor)
    assert table.query_id.tolist() == ["Q0"]
    assert len(nothing) == 0
    assert "h22" in nothing


def test_candidates_are_the_union_of_all_sources(features):
    others = pd.DataFrame(
        {"query_id": "Q3", "reference_id": ["coffee", "rocket", "chelsea"], "score": [3, 1, 2.0]}
    )
    config = replace(CONFIG, other_candidates=2)
    table = find_candidates(*features, config, others)
    assert not table.duplicated(["query_id", "reference_id"]).any()
    voted = set(
        zip(*vote(*features, config)[["query_id", "reference_id"]].to_numpy().T, strict=True)
    )
    pairs = set(zip(table.query_id, table.reference_id, strict=True))
    assert voted <= pairs
    assert {("Q3", "coffee"), ("Q3", "chelsea")} <= pairs
    assert table.global_score.notna().sum() == 2
    assert (table[table.correlation.notna()].groupby("query_id").size() == 2).all()


def test_verify_writes_the_final_list_once(features, folder, tmp_path, monkeypatch):
    truth = pd.read_csv(folder / "ground_truth.csv", keep_default_na=False)
    out = tmp_path / "run" / "matches.csv"
    with open_executor("serial") as executor:
        assert verify(*features, None, CONFIG, out, executor) == out
        first = out.read_bytes()
        matches = read_predictions(out)
        assert evaluate(matches, truth).uap == 1
        assert list(matches)[:4] == ["query_id", "reference_id", "score", "inliers"]
        assert matches.score.between(0, 1).all()
        assert not matches.duplicated(["query_id", "reference_id"]).any()
        assert not list(out.parent.glob(".*"))
        monkeypatch.setattr("iscutils.local.verification.score_pairs", None)
        verify(*features, None, CONFIG, out, executor)  # finished: nothing is scored
        monkeypatch.undo()
        changed = replace(CONFIG, rows_per_query=1)
        verify(*features, None, changed, out, executor)
    assert read_predictions(out).query_id.is_unique
    assert out.read_bytes() != first


def test_published_mode_keeps_integer_scores_and_zeros(features, tmp_path):
    config = local_config("imgfp")
    others = pd.DataFrame({"query_id": ["Q3"], "reference_id": ["rocket"], "score": [0.1]})
    with open_executor("serial") as executor:
        matches = read_predictions(verify(*features, others, config, tmp_path / "m.csv", executor))
    assert (matches.score == matches.score.round()).all()
    assert len(matches) == len(vote(*features, config)) + 1


def test_drawn_pair(features):
    draw = pair_drawer(*features, CONFIG)
    pair = draw("Q2", "chelsea")
    assert pair["query_points"].shape == pair["reference_points"].shape
    assert len(pair["inliers"]) == len(pair["query_points"])
    agreeing = pair["reference_points"][pair["inliers"]] * 0.5 + [90, 70]
    assert np.abs(agreeing - pair["query_points"][pair["inliers"]]).max() < 6
    with pytest.raises(KitError, match="'nobody' has no local features"):
        draw("nobody", "chelsea")


def test_figures(features, folder):
    queries, references = features
    image, original = (Image.open(folder / n) for n in ("queries/Q2.png", "references/chelsea.png"))
    ax = figures.keypoints(image.convert("RGB"), queries.load(2))
    assert f"{len(queries.load(2))} points" in ax.get_title()
    votes = vote(queries, references, CONFIG)
    candidates = votes.reference_id[votes.query_id == "Q2"].tolist()
    assert len(candidates) > 2
    truth = [("Q2", "chelsea"), ("Q2", candidates[-1]), ("Q1", candidates[1]), ("Q2", "")]
    truth = pd.DataFrame(truth, columns=["query_id", "reference_id"])
    ax = figures.vote_bars(votes, "Q2", truth)
    assert len(ax.patches) == (votes.query_id == "Q2").sum()
    bars = zip(ax.get_yticklabels(), ax.patches, strict=True)
    green = {text.get_text() for text, bar in bars if bar.get_facecolor() == to_rgba(figures.TRUE)}
    assert green == {"chelsea", candidates[-1]}
    pair = match_pair(queries.load(2), references.load(references.index()["chelsea"]), CONFIG)
    axes = figures.overlays(image, original, pair)
    shown = axes[2].images[0].get_array()
    assert np.nanmedian(np.ma.filled(shown, np.nan)) > 0.8
    assert figures.overlays(image, original, replace(pair, homography=None)) is None
    plt.close("all")


def test_settings_as_text():
    parsed = parse_settings(
        ["vote_points=50", "geometry = affine", "mirror_search=false", "ratio=2"]
    )
    assert parsed == {
        "vote_points": 50, "geometry": "affine", "mirror_search": False, "ratio": 2.0,
    }  # fmt: skip
    for text, message in (
        ("vote_points", "name=value"),
        ("vote_point=5", "did you mean 'vote_points'"),
        ("vote_points=many", "type int"),
        ("stretch=1", "type bool"),
    ):
        with pytest.raises(KitError, match=message):
            parse_settings([text])


def test_the_verifier_against_a_loop():
    weights = shipped_weights()
    values = np.random.default_rng(0).normal(size=len(NAMES))
    x = [
        min(max((value - mean) / spread, -4), 4)
        for value, mean, spread in zip(values, weights["mean"], weights["spread"], strict=True)
    ]
    odds = float(weights["bias"][0])
    for i, value in enumerate(x):
        odds += weights["linear"][i] * value
    for out, shift, row in zip(weights["out"], weights["shift"], weights["hidden"], strict=True):
        total = shift + sum(w * value for w, value in zip(row, x, strict=True))
        odds += out * np.tanh(total)
    assert log_odds(values) == pytest.approx(odds, abs=1e-5)
    assert log_odds(np.stack([values, values])).shape == (2,)
    assert probability(values) == pytest.approx(1 / (1 + np.exp(-odds)))


def test_fit_finds_what_made_the_labels():
    """Labels of a rule that is not linear."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 3, len(NAMES)))
    values[::3, 2] = np.nan
    one, two, other = (NAMES.index(name) for name in ("mean_0", "log_guided", "coverage"))
    rule = 4 * values[..., one] - 5 * np.abs(values[..., two]) - 2
    labels = np.nanmax(rule, axis=1) > 0
    weights = fit_network(values, labels)
    odds = log_odds(values, weights)
    found = np.where(np.isnan(odds), -np.inf, odds).max(axis=1)
    assert ((found > 0) == labels).mean() > 0.93
    assert np.abs(weights["linear"][other]) < 0.3
    again = fit_network(values, labels)
    assert all((again[name] == weights[name]).all() for name in weights)
    middle, outside = np.zeros((2, len(NAMES)))
    outside[two] = 2
    middle[one] = outside[one] = 1.5
    assert log_odds(middle, weights) > 2 > -1 > log_odds(outside, weights)


def test_training_pairs_of_a_set(folder, tmp_path):
    (tmp_path / "set").symlink_to(folder)
    with open_executor("serial") as executor:
        values, labels = training_pairs(tmp_path / "set", CONFIG, executor)
    assert labels.sum() == 3
    assert values.shape == (len(labels), 4, len(NAMES))
    agreement = np.nan_to_num(values[..., NAMES.index("mean_0")], nan=-1).max(axis=1)
    assert agreement[labels].min() > 0.5 > np.median(agreement[~labels])


@pytest.mark.skipif(not BENCH.is_dir(), reason="needs the benchmark folder ../shared/bench")
def test_part_of_the_shared_bench(tmp_path):
    """30 queries with their originals and 30 without, among 70 references."""
    truth = pd.read_csv(BENCH / "ground_truth.csv", dtype=str, keep_default_na=False)
    positive = truth[truth.reference_id != ""][:30]
    chosen = pd.concat([positive, truth[truth.reference_id == ""][:30]])
    queries, references = (open_folder(BENCH / part) for part in ("queries", "references"))
    queries = queries.subset([queries.ids.index(q) for q in chosen.query_id])
    wanted = set(positive.reference_id) | set(references.ids[::25])
    references = references.subset([i for i, r in enumerate(references.ids) if r in wanted])
    uap, found = {}, {}
    with open_executor("processes", 0) as executor:
        for mode in ("imgfp", "verified"):
            config = local_config(mode)
            features = [
                read_features(
                    extract_features(images, tmp_path / mode / f"{i}.h5", config, executor)
                )
                for i, images in enumerate((queries, references))
            ]
            path = verify(*features, None, config, tmp_path / mode / "matches.csv", executor)
            matches = read_predictions(path)
            uap[mode] = evaluate(matches, chosen).uap
            if mode == "imgfp":
                assert matches.query_id.is_unique
                published = features
        small = {"index": "IVF128,PQ16x4", "probes": 32}
        for name, changes in {"mirrored": {}, "ivf": small}.items():
            config = local_config("imgfp", mirror_search=True, **changes)
            votes = vote(*published, config, executor=executor)
            uap[name] = evaluate(score_pairs(votes, *published, config, executor), chosen).uap
            found[name] = set(zip(votes.query_id, votes.reference_id, strict=True))
    assert len(found["mirrored"] & found["ivf"]) >= 0.98 * len(found["mirrored"])
    assert min(uap["mirrored"], uap["ivf"]) > uap["imgfp"] + 0.03
    assert uap["verified"] > 0.9
    assert uap["verified"] > uap["imgfp"] + 0.05
