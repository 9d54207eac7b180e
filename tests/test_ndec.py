"""NDEC in the layouts in use, its pairs, and the benchmark that is made like it."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iscutils.datasets import builtin_images, open_benchmark, open_images
from iscutils.datasets import ndec as reader
from iscutils.datasets.layouts import parse_spec
from iscutils.edits.likeness import homography_inliers, may_be_copies, thumbnails
from iscutils.edits.ndec_like import (
    add_hard_negatives,
    crop_box,
    decoy_box,
    ndec_like,
    read_kinds,
)
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import GeneratedImages

QUERIES = ["Q00000", "Q00001", "Q00002"]
REFERENCES = ["R000000", "R000001"]


def picture(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 90, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / f"{name}.jpg").write_bytes(picture(number))


def make_ndec(root, disc="DISC", layout="official"):
    write_images(root / "NDEC_test_query", QUERIES)
    names = ("images/references", "images/train")
    names = names if layout == "official" else ("reference_images", "training_images")
    write_images(root / disc / names[0], REFERENCES)
    write_images(root / disc / names[1], ["T000000"])
    (root / "public_ground_truth_h5.csv").write_text("Q00000,R000001\nQ00001,\nQ00002,\n")
    return root


@pytest.mark.parametrize("layout", ["official", "challenge"])
def test_the_layout_of_the_rdcd_loader(tmp_path, layout):
    make_ndec(tmp_path, layout=layout)
    benchmark = open_benchmark(f"ndec:{tmp_path}", f"ndec:{tmp_path}")
    assert (benchmark.queries.ids, benchmark.references.ids) == (QUERIES, REFERENCES)
    assert benchmark.background.ids == ["T000000"]
    rows = benchmark.ground_truth.to_numpy().tolist()
    assert rows == [["Q00000", "R000001"], ["Q00001", ""], ["Q00002", ""]]
    assert benchmark.name == "ndec"
    assert benchmark.notes["complete"] is False


def test_references_from_elsewhere(tmp_path):
    make_ndec(tmp_path / "ndec", "../disc21")
    with pytest.raises(KitError, match=r"no references; .*\?references=DIR"):
        open_benchmark(f"ndec:{tmp_path / 'ndec'}")
    for folder in ("disc21", "disc21/images/references"):
        data = f"ndec:{tmp_path / 'ndec'}?references={tmp_path / folder}"
        assert open_benchmark(data).references.ids == REFERENCES


@pytest.mark.parametrize("header", ["", "query_id,reference_id\n"])
def test_counts_of_the_real_files_are_checked(tmp_path, header):
    make_ndec(tmp_path)
    for positives in (5009, 5000):
        rows = [f"Q{i:05d}," + "R000001" * (i < positives) for i in range(49_252)]
        (tmp_path / "public_ground_truth_h5.csv").write_text(header + "\n".join(rows))
        full = reader.layouts.find_truth([tmp_path], None, lambda _: True)[0]
        assert full.query_id.nunique() == 49_252
        problems = reader._problems(49_252, 1_000_000, full, ())
        assert problems == ([] if positives == 5009 else [problems[0]])
        assert positives == 5009 or "5000 true pairs instead of 5009" in problems[0]
    rows = [f"Q{i:05d}," + "R000001" * (i == 0) for i in range(49_253)]
    (tmp_path / "public_ground_truth_h5.csv").write_text("\n".join(rows))
    found = reader.read(parse_spec(f"ndec:{tmp_path}"))
    assert any("49253 queries, more than 49252" in problem for problem in found.problems)
    assert len(found.missing) == 49_250


def test_pairs_from_folders_and_from_names(tmp_path):
    pairs = tmp_path / "negative_pair"
    write_images(pairs / "000001", ["x", "y"])
    write_images(pairs / "flat", ["7_a", "7_b", "8_0", "8_1", "9_a"])
    (pairs / "flat" / "8_1.jpg").write_bytes(b"broken")
    with open_executor("serial") as executor:
        path = reader.index_pairs(pairs, tmp_path / "pairs.csv", executor)
        found = reader.read_pairs(path)
        assert reader.index_pairs(pairs, path, executor) == path
    assert found.to_numpy().tolist() == [
        ["000001", "000001/x.jpg", "000001/y.jpg"],
        ["flat/7", "flat/7_a.jpg", "flat/7_b.jpg"],
    ]
    skipped = pd.read_csv(tmp_path / "pairs.csv.skipped.csv")
    assert sorted(skipped.file) == ["flat/8_1.jpg", "flat/9_a.jpg"]


def test_errors_of_pairs(tmp_path):
    write_images(tmp_path / "pairs", ["lonely"])
    with open_executor("serial") as executor:
        with pytest.raises(KitError, match="holds no readable pairs"):
            reader.index_pairs(tmp_path / "pairs", tmp_path / "a.csv", executor)
        with pytest.raises(KitError, match="holds no images"):
            reader.index_pairs(tmp_path / "nowhere", tmp_path / "a.csv", executor)
    (tmp_path / "twice.csv").write_text("pair_id,image_a,image_b\n1,a,b\n1,c,d\n")
    with pytest.raises(KitError, match="each pair_id once"):
        reader.read_pairs(tmp_path / "twice.csv")
    make_ndec(tmp_path / "whole")
    assert reader.find(parse_spec(f"ndec:{tmp_path / 'whole'}"))["pairs"] == []


# --- the benchmark made like it -------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ndec") / "set"
    images, others = builtin_images("reference", 20), builtin_images("distractor", 40)
    arguments = dict(positives=4, negatives=4, seed=3)
    with open_executor("serial") as executor:
        ndec_like(images, others, "isc_queries", folder, executor=executor, **arguments)
        stamp = (folder / "kinds.csv").stat().st_mtime_ns
        ndec_like(images, others, "isc_queries", folder, executor=executor, **arguments)
    assert (folder / "kinds.csv").stat().st_mtime_ns == stamp  # finished work is skipped
    return folder


def test_half_of_the_queries_are_hard_and_the_truth_is_exact(made):
    kinds = read_kinds(made)
    counts = kinds.value_counts().to_dict()
    # 8 ordinary queries and 49 % hard ones: 8 * 49 / 51 = 7.7; a third of them decoys.
    assert counts == {"positive": 4, "negative": 4, "look_alike": 5, "decoy": 3}
    benchmark = open_benchmark(made)
    assert benchmark.queries.ids == sorted(kinds.index)
    assert len(benchmark.references) == 20 + 3
    truth = benchmark.ground_truth.set_index("query_id")["reference_id"]
    assert (truth[kinds[kinds == "positive"].index] != "").all()
    assert (truth[kinds[kinds != "positive"].index] == "").all()


def test_hard_negatives_are_added_to_a_benchmark_that_is_there(made, tmp_path):
    base = made / "ordinary"
    with open_executor("serial") as executor:
        folder = add_hard_negatives(base, tmp_path / "set", seed=1, executor=executor, share=0.5)
        assert add_hard_negatives(base, folder, seed=1, executor=executor, share=0.5) == folder
        with pytest.raises(KitError, match="16 references without a query are too few for 72"):
            add_hard_negatives(base, tmp_path / "b", seed=1, executor=executor, share=0.9)
    kinds, before, after = read_kinds(folder), open_benchmark(base), open_benchmark(folder)
    assert kinds.value_counts().to_dict() == {
        "positive": 4, "negative": 4, "look_alike": 5, "decoy": 3,
    }  # fmt: skip
    old = set(before.queries.ids)
    assert after.ground_truth[after.ground_truth.query_id.isin(old)].equals(before.ground_truth)
    assert after.edits.items() >= before.edits.items()
    crops = {name for name in after.references.ids if name.startswith("crop_of_")}
    assert crops == {f"crop_of_{query}" for query in kinds.index[kinds == "decoy"]}
    gone = set(before.references.ids) - set(after.references.ids)
    assert len(gone) == 8  # a hard negative is no reference any more
    assert not gone & set(before.ground_truth.reference_id)
    taken = {
        before.references.path(before.references.ids.index(name)).read_bytes() for name in gone
    }
    queries = {after.queries.path(after.queries.ids.index(name)) for name in set(kinds.index) - old}
    assert {path.read_bytes() for path in queries} == taken


def test_hard_negatives_beside_queries_with_several_originals_and_unlisted_ones(made, tmp_path):
    base = shutil.copytree(made / "ordinary", tmp_path / "base")
    before = open_benchmark(base)
    positives = before.ground_truth[before.ground_truth.reference_id != ""].to_numpy().tolist()
    free = sorted(set(before.references.ids) - {reference for _, reference in positives})
    several = [*positives, [positives[0][0], free[0]], [positives[0][0], free[1]]]
    lines = ["query_id,reference_id", *map(",".join, several)]  # no row of a distractor
    (base / "ground_truth.csv").write_text("\n".join(lines) + "\n")
    with open_executor("serial") as executor:
        folder = add_hard_negatives(base, tmp_path / "set", seed=1, executor=executor, share=0.3)
    after, kinds = open_benchmark(folder), read_kinds(folder)
    assert kinds.index.is_unique
    assert sorted(kinds.index) == sorted(after.queries.ids)
    assert kinds.value_counts()[["positive", "negative"]].tolist() == [4, 4]
    true = after.ground_truth[after.ground_truth.reference_id != ""]
    assert sorted(true.to_numpy().tolist()) == sorted(several)
    assert after.edits.items() >= before.edits.items()


def test_a_decoy_is_the_whole_of_a_reference_that_is_a_crop(made):
    benchmark = open_benchmark(made)
    kinds = read_kinds(made)
    for query in kinds[kinds == "decoy"].index:
        whole = benchmark.queries.load(benchmark.queries.ids.index(query))
        crop = benchmark.references.load(benchmark.references.ids.index(f"crop_of_{query}"))
        assert 0.18 < crop.width * crop.height / (whole.width * whole.height) < 0.52
        big, small = np.asarray(whole, float), np.asarray(crop, float)
        rows, columns = (np.subtract(big.shape, small.shape) + 1)[:2]
        best = min(  # somewhere the crop lies exactly, but for JPEG
            np.abs(big[y : y + 8, x : x + 8] - small[:8, :8]).mean()
            for y in range(rows)
            for x in range(columns)
        )
        assert best < 6


def test_look_alikes_are_no_copies(made):
    benchmark = open_benchmark(made)
    kinds = read_kinds(made)
    own = [benchmark.queries.ids.index(query) for query in kinds[kinds == "look_alike"].index]
    alike = benchmark.queries.subset(own)
    similar = thumbnails(alike) @ thumbnails(benchmark.references).T
    for i, row in enumerate(similar):
        assert not may_be_copies(alike.load(i), benchmark.references.load(int(row.argmax())))


def draw(item):
    return builtin_images("reference", 6).load(item % 6)


def test_copies_among_the_held_out_images_are_passed_over(tmp_path):
    references = GeneratedImages([f"r{i}" for i in range(6)], draw, range(6), "a")
    copies = GeneratedImages([f"c{i}" for i in range(6)], draw, range(6), "b")
    others = builtin_images("distractor", 12)
    both = GeneratedImages([*copies.ids, *others.ids], draw_either, range(18), "c")
    with open_executor("serial") as executor:
        folder = ndec_like(
            references, both, "isc_queries", tmp_path / "set",
            positives=1, negatives=1, seed=0, executor=executor, share=0.6,
        )  # fmt: skip
    kinds = read_kinds(folder)
    queries = open_images(folder / "queries")
    for name in kinds[kinds.isin(["decoy", "look_alike"])].index:
        picture = queries.load(queries.ids.index(name))
        for i in range(6):
            assert not may_be_copies(picture, references.load(i))
    assert set(kinds) == {"positive", "negative", "decoy", "look_alike"}


def draw_either(item):
    return draw(item) if item < 6 else builtin_images("distractor", 12).load(item - 6)


def test_homographies_tell_copies_from_others():
    image, other = builtin_images("reference", 8).load(2), builtin_images("reference", 8).load(4)
    width, height = image.size
    part = image.crop((width // 5, height // 5, width, height)).resize((300, 260))
    assert homography_inliers(image, part) >= 20
    assert homography_inliers(image, other) < 20
    assert homography_inliers(image, Image.new("RGB", (64, 64))) == 0


def test_crops_of_decoys_have_the_stated_area():
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        x0, y0, x1, y1 = crop_box((400, 300), rng)
        assert 0 <= x0 < x1 <= 400
        assert 0 <= y0 < y1 <= 300
        areas.append((x1 - x0) * (y1 - y0) / 120_000)
    assert 0.19 < min(areas) < 0.22
    assert 0.48 < max(areas) < 0.51
    assert abs(np.mean(areas) - 0.35) < 0.02


def test_a_decoys_crop_shows_something():
    pixels = np.full((300, 400, 3), 200, np.uint8)
    rng = np.random.default_rng(4)
    pixels[:150, :200] = rng.integers(0, 255, (15, 20, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    picture = Image.fromarray(pixels)
    drawn = np.random.default_rng(8)  # the first boxes lie in the flat part
    plain = [crop_box(picture.size, drawn) for _ in range(10)]
    flat = [np.asarray(picture.crop(box)).std() < 30 for box in plain]
    box = decoy_box(picture, np.random.default_rng(8))
    assert flat[0]
    assert box == plain[flat.index(False)]
    nothing = Image.new("RGB", (400, 300), "gray")
    assert decoy_box(nothing, np.random.default_rng(8)) == plain[0]


def test_errors_of_the_made_benchmark(tmp_path):
    images = builtin_images("reference", 10)
    with open_executor("serial") as executor:
        arguments = dict(positives=2, negatives=2, seed=0, executor=executor)
        with pytest.raises(KitError, match="share=1"):
            ndec_like(images, images, "isc_queries", tmp_path / "a", share=1, **arguments)
        with pytest.raises(KitError, match="too few for 4 hard negatives"):
            few = builtin_images("distractor", 5)
            ndec_like(images, few, "isc_queries", tmp_path / "a", **arguments)
    with pytest.raises(KitError, match="only a set made by ndec_like"):
        read_kinds(tmp_path)
