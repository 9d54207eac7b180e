"""Voting: nearest points against a slow search, the published rule, candidates, whole pictures."""

import itertools

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage import data

from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.local import pair_score
from iscutils.local.agreement import _centred
from iscutils.local.config import local_config
from iscutils.local.pair_score import (
    HALVES,
    PLAIN,
    all_distances,
    best_matches,
    changed_descriptors,
    match_descriptors,
    match_halves,
    ratio_test,
)
from iscutils.local.sift import detect, mirror_descriptors, root_sift
from iscutils.local.store import extract_features, read_features
from iscutils.local.voting import (
    Hits,
    accepts,
    choose,
    count_votes,
    search_hits,
    vote,
)
from iscutils.local.whole import (
    content_box,
    main_block,
    signature,
    turned,
    whole_candidates,
    whole_map,
    whole_maps,
)

IMGFP = local_config("imgfp")


def make_hits(references, distances, queries=None, points=None):
    count = len(references)
    zeros = np.zeros(count)
    return Hits(
        np.array(queries if queries is not None else zeros, int), np.array(references),
        np.array(points if points is not None else np.arange(count)),
        np.array(distances, np.float32), zeros, zeros,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("votes", "runner_up", "distance", "expected"),
    [
        (4, 3, 7999, True),
        (4, 4, 100, False),
        (3, 1, 100, False),
        (4, 3, 8000, False),
        (6, None, 7999, True),
        (5, None, 100, False),
        (6, None, 8000, False),
        (100, 99, 7000, True),
    ],
)
def test_published_rule(votes, runner_up, distance, expected):
    assert accepts(votes, runner_up, distance) is expected


def test_votes_and_mean_distance():
    counted = count_votes(make_hits([1, 1, 2, 1, 3], [10, 20, 5, 60, 5]), consistent=False)
    first = counted[counted.reference == 1].iloc[0]
    assert (first.votes, first.mean_distance) == (3, 30)
    assert not len(choose(counted, IMGFP))
    more = count_votes(make_hits([1, 1, 2, 1, 3, 1], [10, 20, 5, 60, 5, 1]), consistent=False)
    assert choose(more, IMGFP)[["reference", "votes"]].to_numpy().tolist() == [[1, 4]]


def test_one_reference_point_may_be_hit_twice():
    hits = make_hits([7, 7], [1, 1], points=[3, 3])
    assert count_votes(hits, consistent=False).votes.tolist() == [2]
    assert count_votes(hits, consistent=True).votes.tolist() == [1]


def test_no_hits_give_no_candidates():
    empty = make_hits([], [])
    for config in (IMGFP, local_config()):
        assert not len(choose(count_votes(empty, config.consistent_votes), config))


def test_most_votes_are_kept_and_ordered():
    hits = make_hits([1, 1, 2, 2, 3, 4, 4, 4], [9, 9, 5, 5, 1, 1, 1, 1])
    config = local_config(max_candidates=2, min_votes=2)
    assert choose(count_votes(hits, False), config).reference.tolist() == [4, 2]
    config = local_config(max_candidates=9, min_votes=1)
    assert choose(count_votes(hits, False), config).reference.tolist() == [4, 2, 1, 3]


def test_consistent_votes_against_a_loop():
    rng = np.random.default_rng(3)
    turn, octave = rng.uniform(0, 360, 60), rng.normal(0, 1, 60)
    turn[:20], octave[:20] = rng.normal(40, 3, 20) % 360, rng.normal(1, 0.05, 20)
    point = np.where(np.arange(60) < 4, 0, np.arange(60))
    zeros = np.zeros(60, int)
    hits = Hits(zeros, zeros, point, np.ones(60, np.float32), turn, octave)
    best = 0
    for shift in (0, 0.5):
        for other in (0, 0.5):
            cells = {}
            for t, o, p in zip(turn, octave, point, strict=True):
                cell = (int(np.floor(t / 30 + shift)) % 12, int(np.floor(o + other)))
                cells.setdefault(cell, set()).add(p)
            best = max(best, *(len(points) for points in cells.values()))
    assert count_votes(hits, consistent=True).votes.tolist() == [best]
    assert 17 <= best < 30


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """References: five photos. Queries: a crop, a mirrored copy, an unknown photo, a flat one."""
    folder = tmp_path_factory.mktemp("set")
    for part in ("references", "queries"):
        (folder / part).mkdir()
    photos = {n: Image.fromarray(getattr(data, n)()).convert("RGB").resize((300, 260))
              for n in ("astronaut", "coffee", "chelsea", "rocket", "camera")}  # fmt: skip
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        photos[name].save(folder / "references" / f"{name}.png")
    queries = {
        "crop": photos["astronaut"].crop((40, 30, 240, 220)),
        "mirrored": photos["coffee"].transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "unknown": photos["camera"],
        "flat": Image.new("RGB", (100, 80), "blue"),
    }
    for name, image in queries.items():
        image.save(folder / "queries" / f"{name}.png")
    with open_executor("serial") as executor:
        return [
            read_features(
                extract_features(
                    open_folder(folder / part), folder / f"{part}.h5", local_config(), executor
                )
            )
            for part in ("queries", "references")
        ]


@pytest.mark.parametrize("block", [2_000_000, 301])
def test_hits_against_a_slow_search(features, monkeypatch, block):
    monkeypatch.setattr("iscutils.local.point_index.BLOCK", block)
    queries, references = features
    config = local_config(vote_points=60)
    for mirrored, hits in search_hits(queries, references, config):
        rows, images = [], []
        for i in range(len(references)):
            one = references.load(i)
            chosen = np.sort(np.argsort(-one.responses, kind="stable")[:60])
            rows.append(one.descriptors[chosen].astype(int))
            images += [i] * len(chosen)
        known = np.concatenate(rows)
        done = 0
        for i in range(len(queries)):
            one = queries.load(i)
            chosen = np.sort(np.argsort(-one.responses, kind="stable")[:60])
            points = one.descriptors[chosen]
            points = (mirror_descriptors(points) if mirrored else points).astype(int)
            for point in points:
                distances = ((known - point) ** 2).sum(axis=1)
                assert hits.query[done] == i
                assert hits.distance[done] == distances.min()
                assert hits.reference[done] == images[distances.argmin()]
                done += 1
        assert done == len(hits.query)


def test_candidates_of_the_published_rule_and_with_mirrored_search(features):
    found = vote(*features, IMGFP)
    assert found.query_id.is_unique
    assert ("crop", "astronaut") in set(zip(found.query_id, found.reference_id, strict=True))
    assert "mirrored" not in set(found.query_id)
    found = vote(*features, local_config("imgfp", mirror_search=True)).set_index("query_id")
    assert found.loc["mirrored", ["reference_id", "mirrored"]].tolist() == ["coffee", True]
    assert found.loc["crop", ["reference_id", "mirrored"]].tolist() == ["astronaut", False]
    kit = vote(*features, local_config(min_votes=1))
    assert not kit.duplicated(["query_id", "reference_id"]).any()
    assert kit.groupby("query_id").first().loc[["crop", "mirrored"], "reference_id"].tolist() == [
        "astronaut", "coffee",
    ]  # fmt: skip
    assert "flat" not in set(kit.query_id)


def test_no_reference_points_give_no_votes(features, tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (90, 90)).save(tmp_path / "flat" / "a.png")
    with open_executor("serial") as executor:
        path = extract_features(
            open_folder(tmp_path / "flat"), tmp_path / "f.h5", local_config(), executor
        )
    empty = read_features(path)
    for pair in ((features[0], empty), (empty, features[1])):
        found = vote(*pair, local_config())
        assert len(found) == 0
        assert "votes" in found


def test_turned_pictures_are_where_their_maps_put_them():
    picture = np.random.default_rng(1).integers(0, 256, (16, 16)).astype(np.uint8)
    for turn, version in enumerate(turned(picture)):
        matrix = whole_map(turn, (0, 0, 16, 16), (0, 0, 16, 16))
        warped = cv2.warpPerspective(picture, _centred(matrix), (16, 16), flags=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(warped, version)
    assert len({version.tobytes() for version in turned(picture)}) == 8


def test_plain_borders_are_trimmed():
    photo = np.asarray(Image.fromarray(data.coffee()).convert("L").resize((90, 70)))
    framed = np.full((120, 160), 200, np.uint8)
    framed[20:90, 30:120] = photo
    x0, y0, x1, y1 = content_box(framed)
    assert abs(np.array([x0, y0, x1, y1]) - [30, 20, 120, 90]).max() <= 3
    assert content_box(photo)[2:] == (90, 70)
    flat = np.zeros((40, 40), np.uint8)
    assert content_box(flat)[2] > content_box(flat)[0]


def test_whole_maps_find_a_turned_squeezed_framed_copy():
    photo = Image.fromarray(data.coffee()).convert("L").resize((160, 110))
    copy = photo.transpose(Image.Transpose.ROTATE_90).resize((70, 60))
    canvas = Image.new("L", (120, 100), 30)
    canvas.paste(copy, (20, 25))
    _, best, negative = whole_maps(np.asarray(canvas), np.asarray(photo), 1)[0]
    assert not negative
    # Turned to the left, the top right corner of the photo is the top left one of the copy.
    placed = best @ np.array([160, 0, 1])
    np.testing.assert_allclose(placed[:2] / placed[2], (20, 25), atol=3)


@pytest.mark.parametrize("page_is_query", [False, True])
def test_whole_maps_find_the_squeezed_photograph_of_a_page(page_is_query):
    photo = Image.fromarray(data.coffee()).convert("L").resize((180, 66))
    page = Image.new("L", (100, 192), 250)
    page.paste(20, (0, 0, 100, 18))
    page.paste(photo.resize((90, 90)), (4, 40))
    for x in range(5, 90, 20):
        page.paste(120, (x, 150, x + 8, 160))
    assert main_block((0, 0, 100, 192), np.asarray(page)) == (4, 40, 94, 130)
    assert main_block((0, 0, 180, 66), np.asarray(photo)) == (0, 0, 180, 66)
    pair = [np.asarray(photo), np.asarray(page)]
    query, reference = pair[::-1] if page_is_query else pair
    correlation, best, _ = whole_maps(query, reference, 1)[0]
    assert correlation > 0.95
    to_page = best if page_is_query else np.linalg.inv(best)
    placed = to_page @ np.array([180, 66, 1])
    np.testing.assert_allclose(placed[:2] / placed[2], (94, 130), atol=3)


def test_whole_candidates_rank_by_correlation(features):
    found = whole_candidates(*features, 2)
    assert found.groupby("query_id").size().tolist() == [2, 2, 2, 2]
    first = found.drop_duplicates("query_id").set_index("query_id")
    assert first.loc["mirrored", "reference_id"] == "coffee"
    assert first.loc["mirrored", "correlation"] > 0.95
    thumbnail = features[0].thumbnail(0)
    assert abs(np.linalg.norm(signature(thumbnail)) - 1) < 1e-3


def test_whole_candidates_need_thumbnails(features, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(data.coffee()).save(photos / "coffee.png")
    with open_executor("serial") as executor:
        path = extract_features(open_folder(photos), tmp_path / "f.h5", IMGFP, executor)
    with pytest.raises(KitError, match="holds no thumbnails"):
        whole_candidates(features[0], read_features(path), 2)


def test_votes_within_a_shortlist(features, tmp_path, caplog):
    queries, references = features
    config, serial = local_config(min_votes=1), open_executor("serial")
    every = pd.DataFrame(
        itertools.product(queries.ids, references.ids), columns=["query_id", "reference_id"]
    )
    options = dict(folder=tmp_path / "votes", executor=serial)
    among = vote(queries, references, config, among=every, **options)
    pd.testing.assert_frame_equal(among, vote(queries, references, config))  # a list of all
    kept = list((tmp_path / "votes").iterdir())
    stamps = [file.stat().st_mtime_ns for file in kept]
    again = vote(queries, references, config, among=every.sample(frac=1), **options)
    pd.testing.assert_frame_equal(among, again)  # its order does not count, its chunks are kept
    assert [file.stat().st_mtime_ns for file in kept] == stamps
    one = every[(every.query_id == "crop") & every.reference_id.isin(["coffee", "rocket"])]
    few = vote(queries, references, config, among=one, **options)
    assert set(few.query_id) == {"crop"}
    assert set(few.reference_id) <= {"coffee", "rocket"}  # its original is not on the list
    gone = one.assign(reference_id="gone")
    assert not len(vote(queries, references, config, among=gone, **options))
    assert "2 pairs left out" in caplog.text


@pytest.fixture(params=["float32", "bytes"])
def products(request, monkeypatch):
    """Either way to multiply descriptors, whatever is the faster one here."""
    if request.param == "bytes" and not hasattr(pytest.importorskip("torch"), "_int_mm"):
        pytest.skip("this torch multiplies no integers")
    monkeypatch.setattr(pair_score, "integer_products", lambda: request.param == "bytes")
    return request.param


@pytest.mark.parametrize("negatives", [False, True])
def test_all_distances_are_those_of_changed_descriptors(negatives, products):
    rng = np.random.default_rng(2)
    for rows, columns in ((40, 30), (1, 3), (5, 0), (60, 60)):
        reference, query = (
            rng.integers(0, 256, (n, 128)).astype(np.uint8) for n in (rows, columns)
        )
        for _ in range(2):  # again with what is kept of the query
            tables = all_distances(reference, query, negatives)
            assert list(tables) == list(HALVES[: 4 if negatives else 2])
            for half, table in tables.items():
                changed = changed_descriptors(reference, *half).astype(int)
                slow = ((changed[:, None] - query[None].astype(int)) ** 2).sum(axis=-1)
                np.testing.assert_array_equal(table, slow)
                integer = products == "bytes" and not negatives and min(rows, columns) > 1
                assert (table.dtype == np.int32) == integer
    full = np.full((3, 128), 255, np.uint8)  # the largest numbers there are
    empty = np.zeros((2, 128), np.uint8)
    for one, two, expected in ((full, empty, 128 * 255**2), (full, full, 0)):
        assert (all_distances(one, two, negatives)[PLAIN] == expected).all()


@pytest.mark.parametrize("config", [IMGFP, local_config()])
def test_all_halves_at_once_are_those_one_by_one(features, config, products):
    queries, references = features
    for q, r in ((0, 0), (1, 1), (2, 2), (3, 0), (0, 3)):
        query, reference = queries.load(q), references.load(r)
        halves = match_halves(query, reference, config, negatives=True)
        few = match_halves(query, reference, config)
        for half, matches in [*halves.items(), *few.items()]:
            alone = match_descriptors(query, reference, config, *half)
            for name in ("query", "reference", "distance"):
                np.testing.assert_array_equal(getattr(matches, name), getattr(alone, name))
            assert matches.distance.dtype == np.float32
        best, mirrored = best_matches(query, reference, config)
        counts = [len(halves[half]) for half in HALVES[:2]]
        assert len(best) == max(counts)
        assert len(best) == counts[mirrored]


def test_ratio_at_its_limit():
    # 1.8 * 5 is 9: not less. In float32, 1.8 is a little less than that.
    table = np.array([[5, 9, 90], [5, 9.5, 90], [1000, 1800, 9000], [1000, 1801, 9000]], np.float32)
    before = table.copy()
    assert ratio_test(table)[0].tolist() == [1, 3]
    np.testing.assert_array_equal(table, before)


def test_ratio_of_wide_tables_against_a_loop():
    rng = np.random.default_rng(3)
    for kind in (np.float32, np.int32):
        table = rng.integers(50, 140, (200, 104)).astype(kind)
        table[np.arange(200), rng.integers(0, 104, 200)] = rng.integers(1, 40, 200)
        before = table.copy()
        rows, best = ratio_test(table)
        np.testing.assert_array_equal(table, before)
        expected = [i for i, row in enumerate(before) if 1.8 * np.sort(row)[0] < np.sort(row)[1]]
        assert rows.tolist() == expected
        assert best.tolist() == before.argmin(axis=1)[expected].tolist()
        assert 20 < len(rows) < 180


def test_points_of_the_kept_octaves_are_those_of_one_call():
    gray = np.asarray(Image.fromarray(data.coffee()).convert("L").resize((200, 150)))
    bare = cv2.SIFT_create(0, 7, 0.5 / 255 * 7, 10, 1.6)
    points, descriptors = bare.detectAndCompute(gray, None)
    kept = [i for i, point in enumerate(points) if point.octave & 255 != 255]
    assert 50 < len(kept) < len(points) / 2
    for upsample, rows in ((False, kept), (True, list(range(len(points))))):
        config = local_config("imgfp", upsample=upsample)
        keypoints, found, _ = detect(gray, config)
        places = np.array([(*points[i].pt, points[i].size, points[i].angle) for i in rows])
        order = np.lexsort((places[:, 3], places[:, 2], places[:, 0], places[:, 1]))
        np.testing.assert_array_equal(keypoints, places[order].astype(np.float32))
        np.testing.assert_array_equal(found, root_sift(descriptors[rows])[order])
