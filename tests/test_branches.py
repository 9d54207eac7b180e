"""imgFp's branches: crops of queries, what each branch proposes, verification with crops."""

import json
import logging
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage import data

from iscutils.datasets import open_benchmark
from iscutils.datasets.builtin import builtin_images
from iscutils.descriptors.extract import describe, extract
from iscutils.descriptors.parts import reference_parts
from iscutils.evaluation.submissions import read_predictions
from iscutils.figures import local as figures
from iscutils.files.artifacts import KitError, Run
from iscutils.files.executor import open_executor
from iscutils.files.images import GeneratedImages, open_folder
from iscutils.local import (
    Crops,
    branch_table,
    extract_features,
    find_candidates,
    local_config,
    propose,
    read_features,
    score_pairs,
    score_pictures,
    verify,
    vote,
)
from iscutils.local.calibration import calibrate
from iscutils.local.crop_gain import pasted_queries, rank_with_crops, truth_of
from iscutils.local.crops import crop_images, crop_queries, find_detections, open_crops
from iscutils.local.fit import make_training_set
from iscutils.local.global_branch import (
    crop_candidates_of_run,
    descriptor_of_run,
    nearest_references,
    shortlist_of_run,
)
from iscutils.local.merge import BRANCHES, read_curves
from iscutils.local.sift import mirror_descriptors
from iscutils.models import Descriptor, DescriptorConfig, load

IMGFP, KIT = local_config("imgfp"), local_config(max_candidates=1, whole_candidates=1)
BOX = (200, 150, 280, 220)  # where a small chelsea lies in query Q1
OTHER = (30, 40, 250, 200)
PAIR = ["query_id", "reference_id"]
TRUTH = pd.DataFrame(
    [("Q0", "astronaut"), ("Q1", "chelsea"), ("Q2", "")], columns=["query_id", "reference_id"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four references and three queries; Q1 is a photograph with a small one on it."""
    root = tmp_path_factory.mktemp("bench")
    for part in ("references", "queries"):
        (root / part).mkdir()
    photos = {n: Image.fromarray(getattr(data, n)()).convert("RGB").resize((320, 280))
              for n in ("astronaut", "coffee", "chelsea", "rocket", "camera")}  # fmt: skip
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        photos[name].save(root / "references" / f"{name}.png")
    pasted = photos["camera"].copy()
    pasted.paste(photos["chelsea"].resize((80, 70)), BOX[:2])
    photos["astronaut"].crop((60, 20, 290, 230)).save(root / "queries" / "Q0.png")
    pasted.save(root / "queries" / "Q1.png")
    photos["camera"].crop((20, 20, 300, 260)).save(root / "queries" / "Q2.png")
    TRUTH.to_csv(root / "ground_truth.csv", index=False)
    rows = [
        ("Q0", "overlay", 0.52, 10.7, 10.2, 200.9, 190.5),  # of the tolerant threshold alone
        ("Q1", "overlay", 0.9, *BOX),
        ("Q1", "overlay", 0.6, *OTHER),
        ("Q2", "sticker", 0.99, 20, 20, 150, 150),  # never cropped
        ("gone", "overlay", 0.9, 0, 0, 50, 50),  # a picture without features
    ]
    names = ["image_id", "class", "confidence", "x0", "y0", "x1", "y1"]
    pd.DataFrame(rows, columns=names).to_csv(root / "detections.csv", index=False)
    return root


@pytest.fixture(scope="module")
def executor():
    with open_executor("serial") as pool:
        yield pool


def features_of(folder, config, executor, name):
    return [
        read_features(
            extract_features(
                open_folder(folder / part), folder / f"{name}-{part}.h5", config, executor
            )
        )
        for part in ("queries", "references")
    ]


@pytest.fixture(scope="module")
def published(folder, executor):
    """Features of queries and references, and crops, all as published."""
    return opened(folder, IMGFP, executor, "imgfp")


@pytest.fixture(scope="module")
def kit(folder, executor):
    return opened(folder, KIT, executor, "kit")


def opened(folder, config, executor, name):
    queries, references = features_of(folder, config, executor, name)
    chosen = crop_queries(queries, folder / "detections.csv", config, folder / name)
    images = open_folder(folder / "queries")
    crops = open_crops(images, chosen, config, folder / name / "crops.h5", executor)
    return queries, references, crops


def test_crops_of_both_points(folder, published, tmp_path):
    queries, _, crops = published
    rows = pd.read_csv(crop_queries(queries, folder / "detections.csv", IMGFP, tmp_path))
    assert rows[["query_id", "point"]].to_numpy().tolist() == [
        ["Q1", "precise"], ["Q0", "recall"], ["Q1", "recall"],
    ]  # fmt: skip
    assert rows.loc[rows.query_id == "Q0", ["x0", "y0", "x1", "y1"]].to_numpy().tolist() == [
        [10, 10, 200, 190]
    ]
    table = crops.table.set_index("query_id")
    assert table.precise.to_dict() == {"Q1": True, "Q0": False}
    assert table.recall.all()
    assert crops.boxes()[table.picture["Q1"]] == "200 150 280 220"
    sizes = dict(zip(crops.features.ids, crops.features.sizes.tolist(), strict=True))
    assert sizes == {"Q0": [190, 180], "Q1": [80, 70]}

    several = pd.read_csv(
        crop_queries(queries, folder / "detections.csv", replace(IMGFP, max_crops=3), tmp_path)
    )
    assert (several.query_id == "Q1").sum() == 4  # two boxes at each point
    detector = tmp_path / "detector"
    detector.mkdir()
    points = {"points": {"precise": 0.95, "recall": 0.7}}
    (detector / "metrics.json").write_text(json.dumps(points))
    stricter = crop_queries(queries, folder / "detections.csv", IMGFP, tmp_path, detector=detector)
    assert pd.read_csv(stricter)[["query_id", "point"]].to_numpy().tolist() == [["Q1", "recall"]]


def test_crops_that_need_no_detector(folder, published, tmp_path):
    queries, *_ = published
    config = replace(IMGFP, crops="parts")
    path = crop_queries(queries, None, config, tmp_path)
    table, pictures = crop_images(open_folder(folder / "queries"), path)
    assert len(table) == 3 * 5  # the centre and four tiles
    assert not table.precise.any()
    centre = table[table.query_id == "Q1"].iloc[0]
    assert centre[["x0", "y0", "x1", "y1"]].tolist() == [80, 70, 240, 210]
    own = pictures.load(table.index[table.picture == centre.picture][0])
    whole = Image.open(folder / "queries" / "Q1.png").convert("RGB")
    np.testing.assert_array_equal(own, whole.crop((80, 70, 240, 210)))
    both = crop_queries(queries, folder / "detections.csv", replace(IMGFP, crops="both"), tmp_path)
    assert pd.read_csv(both).point.value_counts().to_dict() == {
        "part": 15, "recall": 2, "precise": 1,
    }  # fmt: skip


def candidates(*rows):
    return pd.DataFrame(rows, columns=["query_id", "reference_id", "score"])


def test_what_the_branches_propose(published):
    queries, references, crops = published
    near = candidates(("Q0", "rocket", 0.3), ("Q0", "astronaut", 0.9), ("Q1", "coffee", 0.5))
    own = dict(zip(crops.table.query_id, crops.table.picture, strict=True))
    of_crops = candidates((own["Q1"], "chelsea", 0.8), (own["Q0"], "coffee", 0.8))
    known = {"crops": crops, "crop_candidates": of_crops}
    table = propose(queries, references, IMGFP, near, **known)
    rows = set(map(tuple, table[["branch", "query_id", "picture", "reference_id"]].to_numpy()))
    # Q0 has no crop of the precise point, so A looks for the whole of it.
    assert {r for r in rows if r[0] == "a"} == {
        ("a", "Q0", "", "astronaut"), ("a", "Q1", own["Q1"], "chelsea"),
    }  # fmt: skip
    voted = vote(queries, references, IMGFP)
    assert {r for r in rows if r[0] == "b"} == {("b", q, "", r) for q, r in voted[PAIR].to_numpy()}
    assert {r for r in rows if r[0] == "c"} == {("c", "Q0", own["Q0"], "astronaut")} | {
        ("c", "Q1", own["Q1"], r) for r in vote(crops.features, references, IMGFP)
        .query("query_id == 'Q1'").reference_id
    }  # fmt: skip

    both = propose(queries, references, replace(IMGFP, global_on="both"), near, **known)
    extra = both.merge(table, how="left", indicator=True).query("_merge == 'left_only'")
    assert extra[["branch", "query_id", "picture", "reference_id"]].to_numpy().tolist() == [
        ["a", "Q1", "", "coffee"]
    ]


def test_missing_detections_are_said(published, caplog, monkeypatch):
    queries, references, crops = published
    monkeypatch.setattr(logging.getLogger("iscutils"), "propagate", True)
    with caplog.at_level(logging.INFO, "iscutils"):
        table = propose(queries, references, IMGFP, candidates(("Q1", "coffee", 1.0)))
    assert "A uses whole queries, branch C is skipped" in caplog.text
    assert set(table.branch) == {"a", "b"}
    assert (table.picture == "").all()
    with caplog.at_level(logging.INFO, "iscutils"):
        near = candidates(("Q1", "coffee", 1.0))
        table = propose(queries, references, IMGFP, near, crops=crops)
    assert "no global candidates" in caplog.text
    assert table[table.branch == "a"].picture.tolist() == [""]


def slow_score(query, reference):
    """Section 5 with loops: ratio test, de-duplication, the better of plain and mirrored."""
    best = 0
    for descriptors in (reference.descriptors, mirror_descriptors(reference.descriptors)):
        found = []
        for i, row in enumerate(descriptors.astype(np.int64)):
            distances = ((query.descriptors.astype(np.int64) - row) ** 2).sum(axis=1)
            first, second = np.sort(distances)[:2]
            if 1.8 * first < second:
                found.append((first, i, int(distances.argmin())))
        taken = set()
        count = 0
        for _, i, j in sorted(found):
            places = [("r", *np.rint(reference.keypoints[i, :2]))]
            places.append(("q", *np.rint(query.keypoints[j, :2])))
            if not taken & set(places):
                taken |= set(places)
                count += 1
        best = max(best, count)
    return best


def slow_votes(query, references):
    """Section 4 with loops: the accepted reference, or None."""
    owners = np.concatenate([np.full(len(one), i) for i, one in enumerate(references)])
    points = np.concatenate([one.descriptors for one in references]).astype(np.int64)
    hits = {}
    for row in query.descriptors.astype(np.int64):
        distances = ((points - row) ** 2).sum(axis=1)
        hits.setdefault(owners[distances.argmin()], []).append(distances.min())
    ranked = sorted(hits, key=lambda i: -len(hits[i]))
    if not ranked or np.mean(hits[ranked[0]]) >= 8000:
        return None
    first = len(hits[ranked[0]])
    accepted = first > 5 if len(ranked) == 1 else first > 3 and first > len(hits[ranked[1]])
    return ranked[0] if accepted else None


def test_published_mode_is_sections_1_to_5(published, executor, tmp_path):
    """Check 11: every improvement off, against loops."""
    queries, references, crops = published
    near = candidates(("Q0", "astronaut", 0.9), ("Q1", "coffee", 0.5), ("Q2", "rocket", 0.4))
    own = dict(zip(crops.table.query_id, crops.table.picture, strict=True))
    of_crops = candidates((own["Q1"], "chelsea", 0.8))
    wholes = {name: queries.load(i) for i, name in enumerate(queries.ids)}
    parts = {name: crops.features.load(i) for i, name in enumerate(crops.features.ids)}
    known = [references.load(i) for i in range(len(references))]
    proposed = [("a", "Q0", wholes["Q0"], "astronaut"), ("a", "Q1", parts[own["Q1"]], "chelsea")]
    proposed.append(("a", "Q2", wholes["Q2"], "rocket"))
    for branch, pictures in (("b", wholes), ("c", {q: parts[p] for q, p in own.items()})):
        for name, picture in pictures.items():
            found = slow_votes(picture, known)
            if found is not None:
                proposed.append((branch, name, picture, references.ids[found]))
    expected = {}
    for branch, name, picture, reference in proposed:
        score = slow_score(picture, known[references.index()[reference]])
        expected.setdefault((name, reference), {})[branch] = score
    path = verify(
        queries, references, near, IMGFP, tmp_path / "matches.csv", executor, crops=crops,
        crop_candidates=of_crops,
    )  # fmt: skip
    matches = pd.read_csv(path).set_index(PAIR)
    assert list(matches)[:7] == [
        "score", "score_a", "score_b", "score_c", "mean_distance", "mirrored", "inliers",
    ]  # fmt: skip
    got = {
        pair: {b: row[f"score_{b}"] for b in BRANCHES if not np.isnan(row[f"score_{b}"])}
        for pair, row in matches.iterrows()
    }
    assert got == expected
    assert matches.score.to_dict() == {pair: sum(own.values()) for pair, own in expected.items()}
    assert expected["Q0", "astronaut"].keys() == {"a", "b", "c"}
    assert expected["Q2", "rocket"]["a"] < 10  # nearest, and rejected by its score


def test_positions_of_a_crop_are_those_of_its_query(kit, executor):
    queries, references, crops = kit
    picture = crops.table.query("query_id == 'Q1' and x0 == 200").picture.iloc[0]
    pairs = pd.DataFrame({"query_id": "Q1", "reference_id": "chelsea", "picture": ["", picture]})
    table = score_pictures(pairs, queries, references, crops, KIT, executor)
    table = table.set_index("picture")
    row = table.loc["200 150 280 220"]
    matrix = row[[f"h{i}{j}" for i in range(3) for j in range(3)]].to_numpy(float).reshape(3, 3)
    corners = matrix @ np.array([[0, 320, 0], [0, 0, 280], [1, 1, 1]])
    np.testing.assert_allclose(
        (corners[:2] / corners[2]).T, [[200, 150], [280, 150], [200, 220]], atol=2.5
    )
    assert row.coverage == pytest.approx(80 * 70 / (320 * 280), rel=0.1)
    assert row.score > 0.9


@pytest.fixture
def crops_matter(monkeypatch):
    """Without maps of points nothing but its crop shows where the small photograph lies."""
    monkeypatch.setattr("iscutils.local.evidence.POINT_MAPS", 0)


def test_best_picture_counts(kit, executor, tmp_path, crops_matter):
    queries, references, crops = kit
    near = candidates(("Q2", "coffee", 0.5))
    alone = read_predictions(
        verify(queries, references, near, KIT, tmp_path / "alone.csv", executor)
    )
    path = verify(queries, references, near, KIT, tmp_path / "both.csv", executor, crops=crops)
    both = pd.read_csv(path, keep_default_na=False)
    assert "picture" not in alone
    assert not both.duplicated(PAIR).any()
    joined = alone.merge(both, on=PAIR, suffixes=("_alone", ""))
    assert len(joined) == len(alone)
    assert (joined.score >= joined.score_alone).all()
    one = both.set_index(PAIR).loc[("Q1", "chelsea")]
    assert one.picture == "200 150 280 220"
    assert one.score == both.score.max() or one.score > 0.9
    assert (both[both.query_id == "Q2"].picture == "").all()


def test_without_crops_the_kits_list_is_that_of_its_candidates(kit, executor, tmp_path):
    queries, references, _ = kit
    near = candidates(("Q2", "coffee", 0.5))
    matches = read_predictions(verify(queries, references, near, KIT, tmp_path / "m.csv", executor))
    pairs = find_candidates(queries, references, KIT, near)
    expected = score_pairs(pairs, queries, references, KIT, executor)
    expected = expected[expected.score > 0]
    assert list(matches) == list(expected)
    assert matches[PAIR].to_numpy().tolist() == expected[PAIR].to_numpy().tolist()
    np.testing.assert_allclose(matches.score, expected.score, rtol=1e-6)


def test_changed_crops_are_verified_anew(kit, executor, tmp_path, crops_matter):
    queries, references, crops = kit
    out = tmp_path / "m.csv"
    first = verify(queries, references, None, KIT, out, executor, crops=crops).read_bytes()
    fewer = Crops(crops.table[crops.table.x0 != 200], crops.features)
    assert verify(queries, references, None, KIT, out, executor, crops=fewer).read_bytes() != first


def test_a_killed_verification_of_branches_resumes(published, executor, tmp_path, monkeypatch):
    queries, references, crops = published
    near, out = candidates(("Q2", "rocket", 0.4)), tmp_path / "m.csv"

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("iscutils.local.verification.score_pairs", killed)
    with pytest.raises(KeyboardInterrupt):
        verify(queries, references, near, IMGFP, out, executor, crops=crops)
    monkeypatch.undo()
    monkeypatch.setattr("iscutils.local.verification.propose", None)  # its pairs were kept
    resumed = verify(queries, references, near, IMGFP, out, executor, crops=crops).read_bytes()
    monkeypatch.undo()
    fresh = verify(queries, references, near, IMGFP, tmp_path / "f.csv", executor, crops=crops)
    assert resumed == fresh.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_detections_come_from_the_run_or_are_named(folder, tmp_path, executor):
    run = Run(tmp_path)
    images = open_folder(folder / "queries")
    assert find_detections(run, images, executor) == (None, None)
    (tmp_path / "detector").mkdir()
    run.publish("detector", tmp_path / "detector")
    run.publish("detections", folder / "detections.csv")
    found, detector = find_detections(run, images, executor)
    assert (found.name, detector.name) == ("detections.csv", "detector")
    mine = str(folder / "detections.csv")
    assert find_detections(run, images, executor, detections=mine)[1] is None
    assert find_detections(run, images, executor, detector="train")[0] == found
    assert find_detections(run, images, executor, detector="none") == (None, None)
    with pytest.raises(KitError, match="detector"):
        find_detections(run, images, executor, detector=str(folder / "queries"))


def _pieces(images, i):
    """The parts of a reference as pictures."""
    image = images.load(i)
    parts = reference_parts(*image.size)
    return GeneratedImages(
        [str(part.number) for part in parts], lambda part: image.crop(part.box), parts, "parts"
    )


def test_global_candidates_of_crops(folder, published, executor, tmp_path):
    """Against descriptors and inner products by hand."""
    _, _, crops = published
    config = DescriptorConfig(backbone="mobilenetv3_small_050", dim=16)
    model = Descriptor(config).save(tmp_path / "models" / "tiny")
    queries, references = (open_folder(folder / part) for part in ("queries", "references"))
    chosen = crop_queries(published[0], folder / "detections.csv", IMGFP, tmp_path)
    pictures = crop_images(queries, chosen)[1]
    known = extract(references, model, [48], tmp_path, executor, name="references", device="cpu")
    run = Run(tmp_path / "run")
    assert descriptor_of_run(run) == (None, [])
    assert crop_candidates_of_run(run, pictures, executor) is None
    run.publish("student", model)
    run.publish("descriptors:student:references", known)
    run.record("05_extraction", sizes=[48])
    run.record("06_retrieval", model="student", codec="L2norm,Flat")
    found = crop_candidates_of_run(run, pictures, executor, device="cpu")
    again = nearest_references(pictures, known, model, [48], tmp_path, executor, device="cpu")
    pd.testing.assert_frame_equal(found, again)
    network = load(model)
    for row in found.itertuples():
        own = describe(pictures, pictures.ids.index(row.query_id), network, [48])
        scores = [own @ describe(references, i, network, [48]) for i in range(len(references))]
        assert row.reference_id == references.ids[int(np.argmax(scores))]
        assert row.score == pytest.approx(max(scores), abs=1e-4)
    assert sorted(found.query_id) == sorted(crops.table.picture)
    assert shortlist_of_run(run, 0) is None
    with pytest.raises(KitError, match="descriptors:student:queries"):
        shortlist_of_run(run, 2)
    own = extract(queries, model, [48], tmp_path, executor, name="queries", device="cpu")
    run.publish("descriptors:student:queries", own)
    listed = shortlist_of_run(run, 2)
    assert listed.groupby("query_id").size().tolist() == [2] * len(queries)
    nearest = nearest_references(queries, known, model, [48], tmp_path, executor, device="cpu")
    best = listed.sort_values("score", ascending=False).drop_duplicates("query_id")
    assert set(zip(best.query_id, best.reference_id, strict=True)) == set(
        zip(nearest.query_id, nearest.reference_id, strict=True)
    )
    parted = crop_candidates_of_run(run, pictures, executor, device="cpu", parts_of=references)
    for row in parted.itertuples():
        own = describe(pictures, pictures.ids.index(row.query_id), network, [48])
        pieces = [
            (own @ describe(part, j, network, [48]), references.ids[i])
            for i in range(len(references))
            for part in [_pieces(references, i)]
            for j in range(len(part))
        ]
        assert (row.score, row.reference_id) == (
            pytest.approx(max(pieces)[0], abs=1e-3),
            max(pieces)[1],
        )
    assert (parted.score.to_numpy() > found.set_index("query_id").score[parted.query_id]).any()


@pytest.mark.parametrize("mode", ["imgfp", "verified"])
def test_pasted_queries_are_ranked_without_and_with_crops(
    folder, executor, tmp_path, mode, crops_matter
):
    edits = {"Q0": "crop", "Q1": "jpeg+paste", "Q2": "paste"}
    benchmark = replace(open_benchmark(folder, builtin_images("train", 4, 0)), edits=edits)
    pasted = pasted_queries(benchmark)
    assert pasted == ["Q1", "Q2"]
    assert truth_of(benchmark, pasted)["query_id"].tolist() == pasted
    assert truth_of(benchmark, ["Q2"]) is None
    detector = tmp_path / "detector"
    detector.mkdir()
    points = {"points": {"precise": 0.55, "recall": 0.5}}
    (detector / "metrics.json").write_text(json.dumps(points))
    run = Run(tmp_path / "run")
    config = local_config(mode, merge="calibrated", stretch=False, other_candidates=1)
    run.record("07_local_verification", config=vars(config))
    given = run, benchmark, pasted, folder / "detections.csv", detector, executor, "cpu"
    ranked = rank_with_crops(*given)
    assert list(ranked) == ["local", "local, with crops"]
    features = read_features(run.folder("features") / "references.h5")
    own = features_of(folder, config, executor, f"gain-{mode}")[1]
    assert features.key == own.key  # of the settings of notebook 07
    score = {
        name: table.set_index(PAIR)["score"].get(("Q1", "chelsea"), 0.0)
        for name, table in ranked.items()
    }
    assert score["local, with crops"] > score["local"]
    assert {row for table in ranked.values() for row in table["query_id"]} <= set(pasted)
    if mode == "imgfp":
        return
    model = Descriptor(DescriptorConfig(backbone="mobilenetv3_small_050", dim=16))
    model = model.save(tmp_path / "models" / "tiny")
    known = extract(
        benchmark.references, model, [48], tmp_path, executor, name="references", device="cpu"
    )
    run.publish("student", model)
    run.publish("descriptors:student:references", known)
    run.record("05_extraction", sizes=[48])
    run.record("06_retrieval", model="student", codec="L2norm,Flat")
    ranked = rank_with_crops(*given)
    assert list(ranked)[:2] == ["descriptor", "descriptor, with crops"]
    whole, both = (table.set_index(PAIR)["score"] for table in list(ranked.values())[:2])
    assert len(whole) == len(both) == 8
    assert (both >= whole[both.index] - 1e-6).all()
    assert (both["Q2"] == whole["Q2"][both["Q2"].index]).all()  # it has no crop
    assert (both["Q1"] > whole["Q1"][both["Q1"].index]).any()
    with pytest.raises(KitError, match="no queries"):
        rank_with_crops(run, benchmark, [], *given[3:])


def test_calibration_learns_from_edited_photographs(tmp_path, executor):
    photos = builtin_images("train", 60, 0)
    # One proposal a query, however weak: so that some are wrong.
    config = replace(IMGFP, merge="calibrated", short_side=96, vote_rule="top", min_votes=1)
    path = calibrate(photos, config, tmp_path, executor, queries=30)
    curves = read_curves(path)
    for name in BRANCHES:
        values = np.array(curves[name]["probabilities"])
        assert (np.diff(values) >= 0).all()
    pooled = curves["pooled"]
    assert pooled["probabilities"][0] < 0.5 < pooled["probabilities"][-1]
    assert curves["a"] == curves["c"] == pooled  # no descriptor and no detector were given
    stamp = path.stat().st_mtime_ns
    assert calibrate(photos, config, tmp_path, executor, queries=30) == path
    assert calibrate(photos, replace(config, merge="sum"), tmp_path, executor, queries=30) == path
    assert path.stat().st_mtime_ns == stamp
    made = make_training_set(
        photos, tmp_path / path.stem, executor, queries=30, recipe="isc_queries", seed=0
    )
    features = features_of(made, config, executor, "again")
    matches = pd.read_csv(
        verify(*features, None, config, tmp_path / "m.csv", executor, calibration=path)
    )
    assert matches.probability.between(0, 1).all()
    assert matches.score.corr(matches.score_b, method="spearman") > 0.99


def test_tables_and_figures_of_branches(folder, published, executor):
    queries, references, crops = published
    near = candidates(("Q0", "astronaut", 0.9), ("Q1", "coffee", 0.5))
    proposed = propose(queries, references, IMGFP, near, crops=crops)
    table = branch_table(proposed, TRUTH)
    assert table.loc["A", ["pairs", "true", "wrong", "alone"]].tolist() == [2, 1, 1, 0]
    assert table.loc["A", "recall"] == 0.5
    assert table.loc["all", "true"] >= 1
    ax = figures.who_proposes(proposed, TRUTH)
    assert sum(bar.get_width() for bar in ax.patches) == 2
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[-1] == "nobody"
    assert "A and B and C" in labels
    made = pd.DataFrame(
        [("a", "Q0", "rocket"), ("a", "Q1", "coffee"), ("b", "Q1", "chelsea")],
        columns=["branch", *PAIR],
    )
    assert figures.telling_query(made, TRUTH) == "Q1"
    assert figures.telling_query(made[:1], None) == "Q0"
    missed = figures.missed_originals(made, TRUTH)
    assert missed.to_numpy().tolist() == [
        ["a", "Q1", "chelsea", "B"], ["b", "Q0", "astronaut", "nobody"],
    ]  # fmt: skip
    scored = score_pictures(
        proposed[proposed.query_id == "Q0"], queries, references, crops, IMGFP, executor
    )
    benchmark = open_benchmark(folder, builtin_images("train", 4, 0))
    axes = figures.missed_panels(benchmark, missed)
    assert [ax.get_title() for ax in axes[0]] == ["A, global: misses Q1", "B, local: misses Q0"]
    assert axes[1, 1].get_title() == "astronaut, found by nobody"
    axes = figures.branch_panels(benchmark, scored, TRUTH)
    assert axes.shape == (2, 3)
    assert axes[0, 2].images[0].get_array().shape == (180, 190, 3)  # branch C shows the crop
    assert all("astronaut" in ax.get_title() for ax in axes[1])
    wrong = figures.strongest_wrong_pair(
        candidates(("Q0", "astronaut", 9), ("Q0", "coffee", 3), ("Q2", "coffee", 5)), TRUTH
    )
    assert (wrong.query_id, wrong.reference_id) == ("Q2", "coffee")
    plt.close("all")
