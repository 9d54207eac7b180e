"""Exact engines against a slow search; the compressed index: recall, size, shards, resuming."""

import builtins

import numpy as np
import pytest
from PIL import Image
from skimage import data

from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor, open_executor
from iscutils.files.images import open_folder
from iscutils.local import extract_features, local_config, read_features, vote
from iscutils.local import point_index as module
from iscutils.local.nearest import ENGINES, NearestPoint, fastest_engine
from iscutils.local.point_index import (
    CompressedPoints,
    FlatPoints,
    build_point_index,
    factory_for,
    index_state,
    nearest_of,
    open_points,
)
from iscutils.local.voting import choose, count_votes, search_hits

SMALL = "IVF16,PQ16x4"
IMGFP = local_config("imgfp", mirror_search=True)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """References: eight photos in four turns. Queries: crops of four, and a stranger."""
    folder = tmp_path_factory.mktemp("set")
    names = ("astronaut", "coffee", "chelsea", "rocket", "camera", "page", "clock", "brick")
    photos = {n: Image.fromarray(getattr(data, n)()).convert("RGB").resize((300, 260))
              for n in names}  # fmt: skip
    for part in ("references", "queries"):
        (folder / part).mkdir()
    for name, photo in photos.items():
        for box in ((0, 0, 200, 260), (100, 0, 300, 260)):
            photo.crop(box).save(folder / "references" / f"{name}{box[0]}.png")
    for name in names[:4]:
        photos[name].crop((10, 20, 180, 220)).resize((150, 190)).save(
            folder / "queries" / f"{name}.png"
        )
    Image.fromarray(data.coins()).convert("RGB").save(folder / "queries" / "stranger.png")
    return [
        read_features(
            extract_features(open_folder(folder / part), folder / f"{part}.h5", IMGFP, Executor())
        )
        for part in ("queries", "references")
    ]


def slow_nearest(queries, points):
    table = ((queries[:, None].astype(int) - points[None].astype(int)) ** 2).sum(axis=-1)
    return table.min(axis=1), table.argmin(axis=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_against_a_slow_search(engine, monkeypatch):
    if engine == "int8":
        torch = pytest.importorskip("torch")
        if not hasattr(torch, "_int_mm"):
            pytest.skip("this torch multiplies no integers")
    monkeypatch.setattr("iscutils.local.nearest.TILE", (64, 150))
    rng = np.random.default_rng(0)
    points = rng.integers(0, 256, (500, 128)).astype(np.uint8)
    points[77] = points[12]  # a tie: the lower index wins
    points[400] = points[12]
    extremes = np.array([[0] * 128, [255] * 128])
    queries = np.concatenate([rng.integers(0, 256, (200, 128)), points[[12, 77, 400]], extremes])
    queries = queries.astype(np.uint8)
    index = NearestPoint(points, engine)
    distances, indices = index.search(queries)
    expected = slow_nearest(queries, points)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    assert [len(part) for part in index.search(queries[:0])] == [0, 0]


def test_an_engine_is_found_without_faiss(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__",
        lambda name, *a, **k: (_ for _ in ()).throw(ImportError) if name == "faiss"
        else real(name, *a, **k),
    )  # fmt: skip
    fastest_engine.cache_clear()
    try:
        assert fastest_engine() in ("int8", "numpy")
    finally:
        fastest_engine.cache_clear()


@pytest.mark.parametrize("block", [2_000_000, 97])
def test_flat_points_among_chosen_rows(features, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    queries, references = features
    rows = np.sort(np.random.default_rng(0).choice(references.offsets[-1], 300, replace=False))
    asked = queries.descriptors(0, 50)
    points = FlatPoints(references, rows)
    for _ in range(2):  # again from what was kept
        distances, places = points.search(asked)
        expected = slow_nearest(asked, references.descriptors_at(rows))
        np.testing.assert_array_equal(distances, expected[0])
        np.testing.assert_array_equal(places, expected[1])


def test_descriptors_at_rows_of_either_layout(features, tmp_path, monkeypatch):
    import h5py

    references = features[1]
    rows = np.array([0, 1, 7, 100, 101, 640, references.offsets[-1] - 1])
    known = references.descriptors(0, int(references.offsets[-1]))[rows]
    np.testing.assert_array_equal(references.descriptors_at(rows), known)
    chunked = tmp_path / "chunked.h5"
    with h5py.File(references.path) as old, h5py.File(chunked, "w") as new:
        assert old["descriptors"].chunks is None
        for name in old:
            if name == "descriptors":
                new.create_dataset(name, data=old[name], chunks=(50, 128), compression="gzip")
            else:
                old.copy(name, new)
    monkeypatch.setattr("iscutils.local.store.BLOCK_ROWS", 30)
    np.testing.assert_array_equal(read_features(chunked).descriptors_at(rows), known)


def test_proposals_are_ranked_by_exact_distances(features, monkeypatch):
    monkeypatch.setattr(module, "CODES_AT_ONCE", 7)
    queries, references = features
    rng = np.random.default_rng(1)
    rows = np.arange(0, 600, 2)
    asked = queries.descriptors(0, 20)
    places = rng.integers(0, 300, (20, 5))
    places[3], places[4, :4] = -1, -1
    places[5] = places[5, 0]
    best, chosen = nearest_of(references, rows, asked, places)
    points = references.descriptors(0, 600)[rows].astype(int)
    for i in range(20):
        options = sorted(
            (((points[p] - asked[i].astype(int)) ** 2).sum(), p) for p in places[i] if p >= 0
        )
        assert (best[i], chosen[i]) == (options[0] if options else (np.inf, -1))


def test_all_lists_and_all_candidates_are_exact_search(features, tmp_path):
    queries, references = features
    rows = np.arange(references.offsets[-1])
    path = build_point_index(references, rows, SMALL, out=tmp_path)
    asked = queries.descriptors(0, 300)
    exact = FlatPoints(references, rows).search(asked)
    found = CompressedPoints(references, rows, path, 16, len(rows)).search(asked)
    for one, two in zip(exact, found, strict=True):
        np.testing.assert_array_equal(one, two)
    few = CompressedPoints(references, rows, path, 8, 16).search(asked)
    assert 0.9 < np.mean(few[1] == exact[1]) < 1
    assert (few[0] >= exact[0]).all()


def test_shards_of_two_workers_give_the_index_of_one(features, tmp_path, monkeypatch):
    references = features[1]
    rows = np.arange(0, references.offsets[-1], 2)
    whole = build_point_index(references, rows, SMALL, out=tmp_path / "whole")
    monkeypatch.setattr(module, "SHARD", 333)
    sharded = build_point_index(references, rows, SMALL, out=tmp_path / "sharded")
    assert whole.name == sharded.name
    asked = references.descriptors_at(rows[::7])
    results = [
        CompressedPoints(references, rows, path, 4, 8).search(asked) for path in (whole, sharded)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    assert np.mean(results[1][0] == 0) > 0.95  # points find themselves, or an equal one
    assert [path.name for path in sharded.parent.iterdir()] == [sharded.name]


def test_a_killed_build_continues(features, tmp_path, monkeypatch):
    references = features[1]
    rows = np.arange(references.offsets[-1])
    monkeypatch.setattr(module, "SHARD", 400)
    real, calls = module._build_shard, []

    def dying(parts, features, rows, start):
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(parts, features, rows, start)

    monkeypatch.setattr(module, "_build_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        build_point_index(references, rows, SMALL, out=tmp_path)
    parts = next(tmp_path.iterdir())
    kept = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(kept) == 3  # what was trained, and two shards
    seen = []
    monkeypatch.setattr(module, "_merge", lambda *a, merge=module._merge: (
        seen.append({p.name: p.stat().st_mtime_ns for p in parts.iterdir()}), merge(*a)
    ))  # fmt: skip
    path = build_point_index(references, rows, SMALL, out=tmp_path)
    assert kept.items() <= seen[0].items()
    assert index_state(path)["points"] == len(rows)
    assert build_point_index(references, rows, SMALL, out=tmp_path) == path
    assert len(seen) == 1  # finished before


def test_bytes_of_a_point(features, tmp_path):
    references = features[1]
    rows = np.arange(references.offsets[-1])
    path = build_point_index(references, rows, "IVF16,PQ16", out=tmp_path)
    state = index_state(path)
    sizes = {file.name: file.stat().st_size for file in path.iterdir()}
    assert state["bytes"] == sizes["index.faiss"] + sizes["lists.bin"]
    # 16 bytes of code and 8 of its number; the code book and the lists' centres do not grow.
    assert 24 <= sizes["lists.bin"] / len(rows) < 25
    fixed = 4 * 128 * (256 + 16)
    assert state["bytes"] - 24 * len(rows) < 1.2 * fixed


def test_choice_by_number_of_points():
    assert factory_for(5_000) == "flat"
    assert factory_for(500_000) == "IVF2048,PQ16"
    assert factory_for(600_000_000) == "IVF65536_HNSW32,PQ16"
    sizes = [int(factory_for(n).split(",")[0].split("_")[0][3:]) for n in 10 ** np.arange(5, 9)]
    assert sizes == sorted(sizes)


def test_a_graph_over_the_lists_and_a_rotation_work(features, tmp_path):
    references = features[1]
    rows = np.arange(references.offsets[-1])
    asked = references.descriptors(0, 200)
    for text in ("IVF16_HNSW8,PQ8x4", "PCA32,IVF8,PQ8x4"):
        path = build_point_index(references, rows, text, out=tmp_path)
        distances, places = CompressedPoints(references, rows, path, 8, 20).search(asked)
        assert np.mean(distances == 0) > 0.95
        assert (distances[places == np.arange(200)] == 0).all()


def test_bad_indexes_are_named(features, tmp_path):
    references = features[1]
    rows = np.arange(references.offsets[-1])
    for text, message in (
        ("PQ16", "has no inverted file"),
        ("IVF16,Nonsense", "no text that faiss knows"),
        ("IVF16,PQ16x4fs", "cannot lie on disc"),
        ("IVF100000,PQ16", "name fewer lists"),
        ("ivf", "too few"),
    ):
        with pytest.raises(KitError, match=message):
            build_point_index(references, rows, text, out=tmp_path)
    assert isinstance(open_points(references, rows, local_config(index="ivf")), FlatPoints)
    with pytest.raises(KitError, match="has no inverted file"):
        open_points(references, rows, local_config(index="PQ16"))


def test_compressed_votes_are_those_of_exact_search(features, tmp_path):
    queries, references = features
    pairs = {}
    with open_executor("serial") as executor:
        for index in ("flat", SMALL):
            config = local_config("imgfp", mirror_search=True, index=index, probes=8, rerank=32)
            found = vote(queries, references, config, executor=executor, training=references)
            pairs[index] = set(zip(found.query_id, found.reference_id, strict=True))
    assert len(pairs["flat"]) >= 4
    assert len(pairs["flat"] & pairs[SMALL]) >= 0.97 * len(pairs["flat"])
    built = [path for path in references.path.parent.iterdir() if "-points-" in path.name]
    assert len(built) == 1


def test_points_without_a_candidate_do_not_vote(features, monkeypatch):
    queries, references = features
    monkeypatch.setattr(
        FlatPoints,
        "search",
        lambda self, asked: (np.ones(len(asked), np.float32), np.arange(len(asked)) % 2 - 1),
    )
    for _, hits in search_hits(queries, references, IMGFP):
        assert len(hits.query) == queries.offsets[-1] // 2
        assert (hits.point == 0).all()


def test_killed_votes_continue(features, tmp_path, monkeypatch):
    monkeypatch.setattr("iscutils.local.voting.QUERY_POINTS", 200)
    queries, references = features
    expected = vote(queries, references, IMGFP)
    real, calls = FlatPoints.search, []

    def dying(self, asked):
        calls.append(len(asked))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, asked)

    monkeypatch.setattr(FlatPoints, "search", dying)
    with pytest.raises(KeyboardInterrupt):
        vote(queries, references, IMGFP, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert vote(queries, references, IMGFP, folder=tmp_path).equals(expected)
    blocks = -(-int(queries.offsets[-1]) // 200)
    assert len(calls) == 1 + blocks  # the first two were not searched again
    again = vote(queries, references, IMGFP, folder=tmp_path)
    assert again.equals(expected)
    assert len(calls) == 1 + blocks
    # Another search has other blocks.
    plain = local_config("imgfp")
    assert len(list(search_hits(queries, references, plain, folder=tmp_path))) == 1
    assert len(calls) == 1 + 2 * blocks


def test_the_rule_sees_only_what_was_counted(features):
    (_, hits), _ = search_hits(*features, IMGFP)
    counted = count_votes(hits, consistent=False)
    assert counted.votes.sum() == len(hits.query) == features[0].offsets[-1]
    assert len(choose(counted, IMGFP)) <= len(features[0])
