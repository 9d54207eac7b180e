"""Search over parts: the kernel and both directions against plain sorts over all pairs."""

import sys
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
import torch

from iscutils.descriptors.store import write_descriptors
from iscutils.files.artifacts import KitError, open_run
from iscutils.retrieval import (
    Codec,
    has_parts,
    part_files,
    read_part_table,
    search_models,
    search_parts,
    search_whole,
    suits_parts,
)
from iscutils.retrieval.part_files import (
    PART_PAIR_COLUMNS,
    PartFiles,
    read_part_pairs,
    set_and_backbone,
)
from iscutils.retrieval.score_norm import mean_similarity
from iscutils.retrieval.top_pairs import top_pairs

kernel = sys.modules["iscutils.retrieval.top_pairs"]
QUERY_PARTS = ["0", "1", "4", "1000"]
REFERENCE_PARTS = ["0", "5", "14"]


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def rows(n, d, seed):
    return unit(np.random.default_rng(seed).standard_normal((n, d)))


def all_pairs(queries, database, bias):
    """(query row, database row, score) of every pair by falling score."""
    score = queries.astype(np.float64) @ database.T.astype(np.float64) - bias[:, None]
    order = sorted(np.ndindex(score.shape), key=lambda pair: (-score[pair], pair))
    return [(*pair, score[pair]) for pair in order]


# The kernel


@pytest.mark.parametrize("count", [1, 50, 700, 5000])
@pytest.mark.parametrize("block", [(5, 3), (16, 64), (1000, 1000)])
def test_top_pairs_equal_a_sort_of_all(monkeypatch, count, block):
    monkeypatch.setattr(kernel, "SLACK", 3)
    queries, database = rows(40, 6, 0), rows(57, 6, 1)
    bias = np.random.default_rng(2).random(40)
    q, r, score = top_pairs(
        queries, database, count, bias=bias, block=block, memory_gb=20 * 24 / 2**30
    )
    expected = all_pairs(queries, database, bias)[:count]
    assert list(zip(q, r, strict=True)) == [pair[:2] for pair in expected]
    assert score == pytest.approx([pair[2] for pair in expected], abs=1e-7)


def test_few_pairs_are_held_at_a_time(monkeypatch):
    held = []
    add = kernel._Kept.add
    monkeypatch.setattr(
        kernel._Kept, "add", lambda self, *pairs: (add(self, *pairs), held.append(self.size))[0]
    )
    monkeypatch.setattr(kernel, "SLACK", 10)
    queries, database = rows(400, 4, 0), rows(900, 4, 1)
    q, _, _ = top_pairs(queries, database, 200, block=(20, 30))
    assert len(q) == 200
    assert max(held) <= 2 * (200 + 10) + 20 * 30
    assert len(held) == 400 // 20 * 900 // 30


def test_scores_do_not_depend_on_the_blocks():
    queries, database = rows(60, 33, 0), rows(90, 33, 1)
    found = [top_pairs(queries, database, 500, block=block) for block in ((7, 11), (64, 128))]
    for first, second in zip(*found, strict=True):
        assert np.array_equal(first, second)


def test_several_threads_and_torch_find_the_same(monkeypatch):
    queries, database = rows(60, 16, 0), rows(90, 16, 1)
    alone = top_pairs(queries, database, 300, block=(17, 32))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = top_pairs(queries, database, 300, block=(17, 32))
    scan = partial(kernel._scan_torch, "cpu")
    monkeypatch.setattr(kernel, "_scan", lambda pool, threads, memory, part, own, floor: scan(
        part, torch.from_numpy(own), floor))  # fmt: skip
    by_torch = top_pairs(queries, database, 300, block=(17, 32))
    for other in (shared, by_torch):
        for first, second in zip(alone, other, strict=True):
            assert np.array_equal(first, second)


def test_the_normaliser_reads_the_background_in_stretches():
    queries, background = rows(30, 8, 0), rows(200, 8, 1)
    expected = np.sort(queries @ background.T, axis=1)[:, ::-1][:, 2:10].mean(axis=1)
    found = mean_similarity(queries, background, 2, 9, memory_gb=37 * 32 / 2**30)
    assert found == pytest.approx(expected, abs=1e-6)


# Files


def part_rows(images, parts, d, seed):
    ids = [image for image in images for _ in parts]
    return ids, parts * len(images), rows(len(ids), d, seed)


def write(path, ids, parts, vectors):
    n = len(ids)
    columns = {
        "part": np.array(parts, dtype=object),
        "boxes": np.tile(np.float32([0, 0, 1, 1]), (n, 1)),
        "sides": np.full((n, 2), 300, dtype=np.int32),
        "norms": np.linspace(1, 2, n, dtype=np.float32),
    }
    return write_descriptors(path, vectors, ids, columns=columns)


@pytest.fixture
def files(tmp_path):
    queries = part_rows([f"Q{i}" for i in range(8)], QUERY_PARTS, 12, 0)
    references = part_rows([f"R{i}" for i in range(11)], REFERENCE_PARTS, 12, 1)
    background = part_rows([f"T{i}" for i in range(40)], ["0"], 12, 2)
    return PartFiles(
        "blur", "r50", 256,
        write(tmp_path / "q.h5", *queries),
        write(tmp_path / "r.h5", *references),
        write(tmp_path / "b.h5", *background),
    )  # fmt: skip


def slow_table(files, direction, count, codec="Flat"):
    """{(query, part, reference, part): score} of the best pairs, written out."""

    fitted = Codec(codec)
    sets = []
    for path in (files.queries, files.references, files.background):
        with h5py.File(path) as file:
            names = [name.decode() for name in file["image_names"]]
            parts = [part.decode() for part in file["part"]]
            vectors = file["vectors"][:]
        sets.append((names, parts, vectors))
    if fitted.learns:
        fitted.fit(sets[2][2])
    (q_ids, q_parts, q), (r_ids, r_parts, r), (_, _, b) = (
        (ids, parts, fitted.apply(vectors).astype(np.float64)) for ids, parts, vectors in sets
    )
    scores = {}
    for i in range(len(q)):
        level = np.mean(sorted(q[i] @ b.T)[-10:])
        for j in range(len(r)):
            left = direction.startswith("AQ") or q_parts[i] == "0"
            right = direction.endswith("AR") or r_parts[j] == "0"
            if left and right:
                scores[q_ids[i], q_parts[i], r_ids[j], r_parts[j]] = q[i] @ r[j] - 2 * level
    best = sorted(scores, key=lambda key: -scores[key])[:count]
    return {key: scores[key] for key in best}


def as_dict(frame):
    keys = frame[["query_id", "query_part", "reference_id", "reference_part"]]
    return dict(zip(keys.itertuples(index=False, name=None), frame.score, strict=True))


@pytest.mark.parametrize("codec", ["Flat", "PCAW6,L2norm,Flat"])
@pytest.mark.parametrize("direction", ["AQ+OR", "OQ+AR", "OQ+OR"])
@pytest.mark.parametrize("memory_gb", [1e-7, 1.0])
def test_all_directions_equal_nested_loops(tmp_path, files, direction, codec, memory_gb):
    path = search_parts(
        files, tmp_path, direction=direction, count=70, codec=codec, memory_gb=memory_gb
    )
    frame = read_part_pairs(path)
    assert list(frame) == PART_PAIR_COLUMNS
    expected = slow_table(files, direction, 70, codec)
    found = as_dict(frame)
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=1e-5)
    assert (frame.direction == direction).all()
    assert frame[["set", "backbone", "size"]].drop_duplicates().values.tolist() == [
        ["blur", "r50", 256]
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["q.h5", "r.h5", "b.h5", path.name]
    )  # no temporary file is left


def test_whole_images_score_the_same_in_both_directions(tmp_path, files):
    tables = [
        as_dict(read_part_pairs(path)) for path in search_models([files], tmp_path, count=10**6)
    ]
    whole = [{k: v for k, v in table.items() if k[1] == k[3] == "0"} for table in tables]
    assert len(whole[0]) == 8 * 11
    assert whole[0] == whole[1]
    assert len(tables[0]) == 8 * 4 * 11
    assert len(tables[1]) == 8 * 11 * 3


def test_the_default_is_twenty_rows_a_whole_query_and_finished_tables_stay(tmp_path, files):
    path = search_parts(files, tmp_path)
    assert len(read_part_pairs(path)) == 8 * 20
    path.write_text("kept")
    assert search_parts(files, tmp_path) == path
    assert path.read_text() == "kept"
    assert search_parts(files, tmp_path, score_norm="1.0[0,2]") != path


def test_references_without_parts_are_searched_in_one_direction(tmp_path, files):
    whole = part_rows([f"R{i}" for i in range(11)], ["0"], 12, 1)
    write(tmp_path / "whole.h5", *whole)

    paths = search_models([replace(files, references=tmp_path / "whole.h5")], tmp_path)
    assert [read_part_pairs(path).direction[0] for path in paths] == ["AQ+OR"]


def test_the_ladder_starts_with_whole_images_of_the_first_model(tmp_path, files):
    others = [replace(files, size=320), replace(files, backbone="ibn"), replace(files, set="color")]
    found = search_whole([*others, replace(files, set="base")], tmp_path, score_norm="2.0[0,9]")
    assert list(found) == ["whole images, raw scores", "+ score normalisation"]
    raw, normalised = map(read_part_pairs, found.values())
    assert set(raw.query_part) == set(raw.reference_part) == {"0"}
    assert (raw.set[0], raw.backbone[0], raw["size"][0]) == ("base", "r50", 256)
    assert raw.score.max() <= 1
    table = as_dict(read_part_pairs(search_parts(files, tmp_path, count=10**6)))
    assert all(table[key] == score for key, score in as_dict(normalised).items())
    assert list(search_whole(others, tmp_path, score_norm="none")) == ["whole images, raw scores"]


def test_the_part_table_holds_what_the_rows_are(files):
    table = read_part_table(files.queries)
    assert table.part.tolist() == QUERY_PARTS * 8
    assert table.image_id.tolist()[:5] == ["Q0"] * 4 + ["Q1"]
    assert table[["x1", "width", "norm"]].iloc[0].tolist() == [1, 300, 1]
    plain = write_descriptors(files.queries.with_name("p.h5"), np.eye(3), ["a", "b", "c"])
    assert read_part_table(plain).part.tolist() == ["0"] * 3


def test_part_files_of_a_run_are_found_by_name(tmp_path, files, monkeypatch):
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path / "runs"))
    run = open_run("parts")
    assert not has_parts(run)
    with pytest.raises(KitError, match="no descriptors with parts"):
        part_files(run)
    for model in ("d2lv-blur_bw-r50:teacher@256", "teacher@320", "teacher@96"):
        for kind, path in zip(
            ("queries", "references", "background"),
            (files.queries, files.references, files.background),
            strict=True,
        ):
            run.publish(f"descriptors:{model}:{kind}", path)
    run.publish("descriptors:teacher:queries", files.queries)
    assert has_parts(run)
    found = part_files(run)
    assert [(f.set, f.backbone, f.size) for f in found] == [
        ("blur_bw", "d2lv-r50-teacher", 256), ("base", "teacher", 96), ("base", "teacher", 320),
    ]  # fmt: skip
    assert [f.size for f in part_files(run, ["teacher"])] == [96, 320]
    assert [f.size for f in part_files(run, ["teacher@320"])] == [320]
    with pytest.raises(KitError, match="choose among"):
        part_files(run, ["teacher@100"])


def test_names_of_models():
    assert set_and_backbone("student") == ("base", "student")
    assert set_and_backbone("dark-resnet50") == ("dark", "resnet50")
    assert set_and_backbone("base_bw") == ("base_bw", "model")


def test_part_search_errors(tmp_path, files):

    with pytest.raises(KitError, match="direction 'both' is unknown"):
        search_parts(files, tmp_path, direction="both")
    assert [suits_parts(norm) for norm in ("none", "2.0[0,9]", "stretch:2.5[0,4]")] == [
        True, True, False,
    ]  # fmt: skip
    with pytest.raises(KitError, match="cannot be used with parts"):
        search_parts(files, tmp_path, score_norm="stretch:2.5[0,4]")
    with pytest.raises(KitError, match="needs 51 background images"):
        search_parts(files, tmp_path, score_norm="2.0[0,50]")
    with pytest.raises(KitError, match="learns from background"):
        search_parts(replace(files, background=None), tmp_path)
    only = write(tmp_path / "only.h5", ["Q1"], ["4"], rows(1, 12, 5))
    with pytest.raises(KitError, match="no whole images"):
        search_parts(replace(files, queries=only), tmp_path, direction="OQ+AR")
    (tmp_path / "x.csv").write_text("query_id\nQ1\n")
    with pytest.raises(KitError, match="no column"):
        read_part_pairs(tmp_path / "x.csv")
