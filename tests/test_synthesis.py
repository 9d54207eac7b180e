"""Query sets: the same bytes from any number of workers, resumed or not; honest ground truth."""

import json
import os

import cv2
import numpy as np
import pandas as pd
import pytest
from folder_content import content, rows
from PIL import Image

from iscutils import edits
from iscutils.edits import check, sets
from iscutils.edits.queryset import encode_query
from iscutils.edits.recipe_files import parse_recipe
from iscutils.edits.repeating import repeat_edits
from iscutils.edits.sources import find_twins, known_queries, load_some, split_photographs
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder

RECIPE = edits.load_recipe("isc_queries")


def write_photos(folder, prefix, number, size=(96, 72)):
    folder.mkdir()
    for i in range(number):
        coarse = np.random.default_rng([ord(prefix), i]).integers(0, 256, (6, 6, 3), np.uint8)
        picture = Image.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR))
        picture.save(folder / f"{prefix}{i:03d}.jpg", quality=95)
    return open_folder(folder)


@pytest.fixture
def photos(tmp_path):
    """Twelve references and ten distractors in folders of their own."""
    references = write_photos(tmp_path / "r", "R", 12)
    return references, write_photos(tmp_path / "d", "D", 10)


def synthesise(photos, out, *, workers=1, positives=6, negatives=5, seed=3, recipe=RECIPE, **rest):
    with open_executor("processes", workers) as executor:
        return edits.synthesise_queries(
            *photos, recipe, out, positives=positives, negatives=negatives, seed=seed,
            executor=executor, **rest,
        )  # fmt: skip


def test_layout_and_ground_truth(photos, tmp_path):
    folder = synthesise(photos, tmp_path / "set")
    truth = rows(folder / "ground_truth.csv")
    assert [row["query_id"] for row in truth] == [f"Q{i:05d}" for i in range(11)]
    positive = [row["reference_id"] for row in truth if row["reference_id"]]
    assert len(positive) == len(set(positive)) == 6
    assert set(positive) <= set(photos[0].ids)
    assert sum(row["reference_id"] == "" for row in truth) == 5
    queries = open_folder(folder / "queries")
    assert queries.ids == [row["query_id"] for row in truth]
    assert open_folder(folder / "references").ids == photos[0].ids
    assert all(queries.path(i).suffix == ".jpg" for i in range(11))
    manifest = edits.read_manifest(folder)
    listed = {row["query_id"]: row["edits"] for row in rows(folder / "edits.csv")}
    for row in manifest.itertuples():
        assert listed[row.query_id] == "+".join(name for name, _ in row.operations)
        assert 1 <= len(row.operations) <= 3
        assert 0.05 <= row.visible <= 1
        assert row.homography.shape == (3, 3)
        assert not set(row.donors) & {row.source_id}
        assert row.source_id == (row.reference_id or row.source_id)
        assert (row.source_id in photos[1].ids) == (row.reference_id == "")
    assert rows(folder / "unreadable.csv") == []


def test_references_are_the_very_files(photos, tmp_path):
    folder = synthesise(photos, tmp_path / "set")
    for i, name in enumerate(photos[0].ids):
        assert (folder / "references" / f"{name}.jpg").samefile(photos[0].path(i))


def test_references_are_copied_where_links_fail(photos, tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "link", refuse)
    folder = synthesise(photos, tmp_path / "set")
    for i, name in enumerate(photos[0].ids):
        copy = folder / "references" / f"{name}.jpg"
        assert not copy.samefile(photos[0].path(i))
        assert copy.read_bytes() == photos[0].path(i).read_bytes()


def test_one_and_two_workers_give_the_same_bytes(photos, tmp_path):
    one = content(synthesise(photos, tmp_path / "one", workers=1))
    two = content(synthesise(photos, tmp_path / "two", workers=2))
    other = content(synthesise(photos, tmp_path / "other", seed=4))
    assert one == two
    assert one["queries/Q00000.jpg"] != other["queries/Q00000.jpg"]


class Killed(Exception):
    pass


def test_killed_synthesis_resumes(photos, tmp_path, monkeypatch):
    whole = content(synthesise(photos, tmp_path / "whole"))
    out = tmp_path / "killed"
    from iscutils.edits import synthesis

    original, made = synthesis._make, []

    def dying(job, plan):
        if len(made) == 5:
            raise Killed
        made.append(plan.query_id)
        return original(job, plan)

    monkeypatch.setattr(synthesis, "_make", dying)
    with pytest.raises(Killed):
        synthesise(photos, out)
    monkeypatch.setattr(synthesis, "_make", original)
    assert not (out / "ground_truth.csv").exists()
    # A kill between the picture and its record leaves a query that must be made again.
    (out / "records" / "Q00002.json").unlink()
    (out / "queries" / "Q00002.jpg").write_bytes(b"half")
    (out / "queries" / ".Q00009.jpg.tmp").mkdir()
    stamps = {file.name: file.stat().st_mtime_ns for file in (out / "queries").glob("Q*")}
    synthesise(photos, out)
    assert content(out) == whole
    kept = [n for n, t in stamps.items() if (out / "queries" / n).stat().st_mtime_ns == t]
    assert sorted(kept) == ["Q00000.jpg", "Q00001.jpg", "Q00003.jpg", "Q00004.jpg"]
    assert not (out / "records").exists()
    assert not list((out / "queries").glob(".*"))


def test_finished_set_is_left_alone_and_other_parameters_make_it_anew(photos, tmp_path):
    out = synthesise(photos, tmp_path / "set")
    stamp = (out / "manifest.parquet").stat().st_mtime_ns
    assert synthesise(photos, out) == out
    assert (out / "manifest.parquet").stat().st_mtime_ns == stamp
    synthesise(photos, out, positives=2, negatives=0)
    assert content(out) == content(synthesise(photos, tmp_path / "fresh", positives=2, negatives=0))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(KitError, match="empty folder"):
        synthesise(photos, foreign)
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_manifest_makes_the_query_again(photos, tmp_path):
    folder = synthesise(photos, tmp_path / "set")
    for row in edits.read_manifest(folder).itertuples():
        edited = repeat_edits(folder, row.query_id, *photos)
        file = folder / "queries" / f"{row.query_id}.jpg"
        assert encode_query(edited.image) == file.read_bytes()
        assert edits.repeat_picture(folder, row.query_id, *photos) == file.read_bytes()
        np.testing.assert_array_equal(edited.homography, row.homography)
        np.testing.assert_allclose(edited.polygon, row.polygon, atol=0.01)
        assert edited.visible == pytest.approx(row.visible, abs=1e-6)
    assert edits.count_repeated(folder, *photos, limit=4) == (4, 4)
    other = folder / "queries" / "Q00001.jpg"
    other.write_bytes(other.read_bytes()[:-2])
    assert edits.count_repeated(folder, *photos, limit=4) == (3, 4)
    with pytest.raises(KitError, match="Q99999"):
        repeat_edits(folder, "Q99999", *photos)


def test_large_sources_are_shrunk_and_the_homography_knows(tmp_path):
    references = write_photos(tmp_path / "r", "R", 2, size=(3000, 1500))
    distractors = write_photos(tmp_path / "d", "D", 2)
    recipe = parse_recipe("flip", {"operations": {"hflip": {}}})
    folder = synthesise((references, distractors), tmp_path / "s", positives=2, negatives=0,
                        recipe=recipe)  # fmt: skip
    row = edits.read_manifest(folder).iloc[0]
    assert row.operations == [["fit", {"side": 1024}], ["hflip", {}]]
    assert rows(folder / "edits.csv")[0]["edits"] == "hflip"
    moved = edits.transform(row.homography, np.array([[0.0, 0.0], [3000.0, 1500.0]]))
    np.testing.assert_allclose(moved, [[1024, 0], [0, 512]], atol=1e-6)


def test_unreadable_sources_are_listed_and_replaced(photos, tmp_path):
    for folder, name in (("r", "R003"), ("r", "R007"), ("d", "D001")):
        (tmp_path / folder / f"{name}.jpg").write_bytes(b"not an image")
    photos = open_folder(tmp_path / "r"), open_folder(tmp_path / "d")
    folder = synthesise(photos, tmp_path / "set", positives=10, negatives=9)
    assert len(rows(folder / "ground_truth.csv")) == 19
    used = set(edits.read_manifest(folder)["source_id"])
    assert not used & {"R003", "R007", "D001"}
    listed = {row["image_id"]: row for row in rows(folder / "unreadable.csv")}
    assert set(listed) <= {"R003", "R007", "D001"}
    assert listed
    assert all(row["reason"] and row["file"].endswith(".jpg") for row in listed.values())
    # With no photograph to spare, the query is missing, and nothing crashes.
    folder = synthesise(photos, tmp_path / "all", positives=12, negatives=10)
    assert len(rows(folder / "ground_truth.csv")) == 19
    assert {r["image_id"] for r in rows(folder / "unreadable.csv")} == {"R003", "R007", "D001"}
    two = synthesise(photos, tmp_path / "two", positives=12, negatives=10, workers=2)
    assert content(folder) == content(two)


def test_originals_limit_the_sources(photos, tmp_path):
    chosen = photos[0].ids[:3]
    folder = synthesise(photos, tmp_path / "set", positives=3, negatives=0, originals=chosen)
    assert sorted(row["reference_id"] for row in rows(folder / "ground_truth.csv")) == chosen
    assert len(open_folder(folder / "references")) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positives": 13}, "only 12 reference photographs"),
        ({"negatives": 11}, "only 10 distractor photographs"),
        ({"positives": 0, "negatives": 0}, "at least one query"),
        ({"seed": -1}, "0 or more"),
        ({"originals": ["R001"], "positives": 2}, "only 1 reference"),
    ],
)
def test_wrong_numbers_are_named(photos, tmp_path, arguments, message):
    with pytest.raises(KitError, match=message):
        synthesise(photos, tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


def test_too_few_donors_and_shared_photographs_are_refused(photos, tmp_path):
    references, distractors = photos
    with pytest.raises(KitError, match="at least 2 distractor"):
        synthesise((references, distractors.subset([0])), tmp_path / "a", negatives=1)
    with pytest.raises(KitError, match="both references and distractors"):
        synthesise((references, references), tmp_path / "b")
    # A recipe without compositions needs no donors at all.
    recipe = parse_recipe("plain", {"operations": {"gray": {}, "hflip": {}}})
    none = distractors.subset([])
    synthesise((references, none), tmp_path / "c", negatives=0, recipe=recipe)


def test_recipe_that_hides_everything_is_named(photos, tmp_path):
    recipe = parse_recipe("tiny", {"operations": {"crop": {"area": 0.02, "ratio": 1.0}}})
    with pytest.raises(KitError, match="recipe 'tiny' left under 5%"):
        synthesise(photos, tmp_path / "set", recipe=recipe)


def test_refused_draws_end_in_the_fallback(photos, tmp_path):
    content = {
        "operations": {"crop": {"area": 0.02, "ratio": 1.0}},
        "fallback": {"operations": {"hflip": {}}},
    }
    recipe = parse_recipe("tiny", content)
    folder = synthesise(photos, tmp_path / "set", recipe=recipe)
    assert all(ops == [["hflip", {}]] for ops in edits.read_manifest(folder)["operations"])
    # Pictures without contrast are refused too, unless the photograph itself is to blame.
    gray = {"operations": {"jitter": {"contrast": 0.05}, "vflip": {}}, "min_contrast": 8.0}
    folder = synthesise(photos, tmp_path / "flat", recipe=parse_recipe("gray", gray))
    assert all(ops == [["vflip", {}]] for ops in edits.read_manifest(folder)["operations"])
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "r" / "R000.jpg")
    black = open_folder(tmp_path / "r").subset([0])
    folder = synthesise((black, photos[1]), tmp_path / "black", positives=1, negatives=0,
                        recipe=parse_recipe("gray", gray))  # fmt: skip
    assert len(edits.read_manifest(folder)) == 1


def test_another_kind_of_set_is_not_overwritten(photos, tmp_path):
    folder = synthesise(photos, tmp_path / "set")
    before = content(folder)
    with open_executor("serial") as executor, pytest.raises(KitError, match="holds a synthesised"):
        sets.synthesise(photos[0], RECIPE, 1, folder, executor=executor)
    assert content(folder) == before


def test_odd_pictures_are_safe(tmp_path):
    references = tmp_path / "r"
    references.mkdir()
    for name, size in (("dot", (1, 1)), ("strip", (20_000, 30)), ("black", (64, 64))):
        Image.new("RGB", size).save(references / f"{name}.png")
    photos = open_folder(references), write_photos(tmp_path / "d", "D", 4)
    for seed in range(3):
        folder = synthesise(photos, tmp_path / f"s{seed}", positives=3, negatives=0, seed=seed)
        assert len(open_folder(folder / "queries")) == 3


def test_measured_geometry_sees_a_wrong_record(monkeypatch):
    rng = np.random.default_rng(0)
    operations = [edits.draw_operation(n, rng) for n in ("rotate", "paste", "perspective", "crop")]
    right = check.measure_geometry(operations)
    assert len(right) > 500
    assert np.median(right) < 2
    table = check.geometry_table(["crop", "rotate"], 0, operations)
    assert list(table.index) == ["crop", "rotate", "chain"]
    assert table.loc["chain", "median error, px"] == np.median(right)

    real = check.apply

    def shifted(*arguments):
        edited = real(*arguments)
        edited.homography[0, 2] += 8
        return edited

    monkeypatch.setattr(check, "apply", shifted)
    assert np.median(check.measure_geometry(operations)) > 6


def test_manifest_says_what_the_records_say(photos, tmp_path):
    folder = synthesise(photos, tmp_path / "set", positives=4, negatives=4)
    table = pd.read_parquet(folder / "manifest.parquet")
    assert list(table["query_id"]) == [f"Q{i:05d}" for i in range(8)]
    manifest = edits.read_manifest(folder)
    for (_, raw), row in zip(table.iterrows(), manifest.itertuples(), strict=True):
        assert row.seed == list(raw["seed"]) == [3, int(row.query_id[1:])]
        assert json.loads(raw["operations"]) == row.operations
        for name, values in row.operations:
            assert set(values) == set(edits.REGISTRY[name].parameters)
        assert set(row.donors) <= set(photos[1].ids)
        needs = any(edits.REGISTRY[name].donors for name, _ in row.operations)
        assert bool(row.donors) == needs
        with Image.open(folder / "queries" / f"{row.query_id}.jpg") as picture:
            assert picture.size == (row.width, row.height)
        for kind, x0, y0, x1, y1 in row.boxes:
            assert kind in ("original", "photo", "sticker")
            assert 0 <= x0 < x1 <= row.width
            assert 0 <= y0 < y1 <= row.height
    with pytest.raises(KitError, match="no column 'colour'; it has query_id"):
        edits.read_manifest(folder, columns=["colour"])
    with pytest.raises(KitError, match="give the folder of a set"):
        edits.read_manifest(tmp_path)


def split(images, **arguments):
    with open_executor("serial") as executor:
        return split_photographs(images, **{"negatives": 4, "seed": 1, **arguments},
                                 executor=executor)  # fmt: skip


def test_split_keeps_references_and_distractors_apart(photos):
    images = photos[0]
    for references in (0, 5):
        chosen = split(images, references=references)
        own, other = chosen.references.ids, chosen.distractors.ids
        assert len(own) == (references or 8)
        assert len(other) == 4
        assert not set(own) & set(other)
        assert own == sorted(own)
        assert own == split(images, references=references).references.ids
        assert (chosen.benchmark, chosen.skipped) == (None, [])
    assert own != split(images, references=5, seed=2).references.ids
    with pytest.raises(KitError, match="12 usable photographs are too few for 9 references and 4"):
        split(images, references=9)
    with pytest.raises(KitError, match="too few"):
        split(images, references=0, negatives=12)


def test_split_leaves_out_and_lists_broken_files_and_copies(photos, tmp_path):
    folder = tmp_path / "r"
    (folder / "X.jpg").write_bytes((folder / "R002.jpg").read_bytes())
    for name in ("R001", "R005", "Y"):
        (folder / f"{name}.jpg").write_bytes(name.encode())  # different bytes: no twins
    images = open_folder(folder)
    for references in (0, 6):
        chosen = split(images, references=references)
        used = {*chosen.references.ids, *chosen.distractors.ids}
        assert len(used) == 10
        assert not used & {"X", "Y", "R001", "R005"}
        assert ("X", str(folder / "X.jpg"), "same bytes as R002") in chosen.skipped
    assert {row[0] for row in split(images, references=0).skipped} == {"X", "Y", "R001", "R005"}
    few = split(images, references=1, negatives=1)  # stops reading when it has enough
    assert len(few.references) == 1
    assert {"X"} <= {row[0] for row in few.skipped}


def test_twins_are_found_by_their_bytes(photos, tmp_path):
    assert find_twins(photos[0]) == []
    (tmp_path / "r" / "X.jpg").write_bytes((tmp_path / "r" / "R002.jpg").read_bytes())
    ((name, file, reason),) = find_twins(open_folder(tmp_path / "r"))
    assert (name, reason) == ("X", "same bytes as R002")
    assert file.endswith("X.jpg")


def test_examples_pass_over_unreadable_files(photos, tmp_path):
    (tmp_path / "r" / "R001.jpg").write_bytes(b"broken")
    examples = load_some(open_folder(tmp_path / "r"), 3)
    assert list(examples) == ["R000", "R002", "R003"]
    assert all(image.size == (96, 72) for image in examples.values())


def test_figures_show_every_picture_and_outline(photos, tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    from iscutils.datasets import Benchmark
    from iscutils.edits import examples
    from iscutils.figures import edits as gallery

    photo, donors = photos[0].load(0), [photos[1].load(0)]
    names = ["crop", "gray", "paste"]
    graded = examples.apply_graded(photo, donors, names)
    ax = gallery.strength_grid(graded)
    assert (len(ax.images), len(ax.patches)) == (9, 9)
    assert [text.get_text() for text in ax.texts] == names  # one title for three strengths
    pictures = {name: graded[name] for name in names} | {"plain": photo}
    ax = gallery.picture_grid(pictures, columns=3)
    assert len(ax.images) == 4
    assert len(ax.patches) == 3  # an outline for each record, none for the plain picture
    assert [text.get_text().split()[0] for text in ax.texts] == [*names, "plain"]

    folder = synthesise(photos, tmp_path / "set")
    manifest = edits.read_manifest(folder)
    truth = manifest[["query_id", "reference_id"]]
    queries = open_folder(folder / "queries")
    benchmark = Benchmark("set", queries, photos[0], photos[1], truth, {})
    ax = gallery.query_grid(benchmark, truth.query_id[:5], manifest)
    positives = (truth.reference_id[:5] != "").sum()
    assert len(ax.images) == 5 + positives
    assert len(ax.patches) == positives
    a, b = queries.ids[:2]
    rows = [(a, name) for name in photos[0].ids[:5]] + [(a, photos[0].ids[0]), (b, "")]
    several = pd.DataFrame(rows, columns=["query_id", "reference_id"])
    benchmark = Benchmark("set", queries, photos[0], photos[1], several, {})
    assert known_queries(benchmark) == ([a], [b])
    ax = gallery.query_grid(benchmark, [a, b], manifest)
    assert len(ax.images) == 2 + gallery.MOST_ORIGINALS
    said = [text.get_text() for text in ax.texts]
    assert "no reference" in said
    assert [name in said for name in photos[0].ids[:3]] == [True, True, False]
    assert f"{photos[0].ids[2]}, 2 more" in said
    unknown = Benchmark("set", queries, photos[0], photos[1], None, {})
    assert len(gallery.query_grid(unknown, queries.ids[:2]).images) == 2

    drawn = examples.apply_recipes([photo] * 3, donors, ["d2lv/basic", "sscd/simclr"], seed=0)
    assert len(gallery.recipe_grid(drawn).images) == 6
    visible = examples.visible_by_recipe(drawn)
    assert visible.recipe.tolist() == ["d2lv/basic"] * 3 + ["sscd/simclr"] * 3
    assert len(gallery.visible_boxes(visible).get_yticklabels()) == 2
    boxed = {"a": edits.apply(photo, [edits.grade_operation("photo_overlay", 0.5)], donors)}
    assert len(gallery.picture_grid(boxed, boxes=True).patches) == 1

    counts = examples.count_edits(["crop+text", "", "crop"])
    assert counts.to_dict() == {"crop": 2, "text": 1}
    assert [bar.get_height() for bar in gallery.edit_frequencies(counts).patches] == [2, 1]
    assert gallery.edit_frequencies(examples.count_edits([])).texts
    heights = [bar.get_height() for bar in gallery.visible_histogram(manifest).patches]
    assert sum(heights) == 6
    batch = examples.to_batch([photo, photo], 8)
    assert batch.shape == (2, 3, 8, 8)
    assert gallery.view_grid([batch, 1 - batch]).images[0].get_array().shape == (16, 16, 3)
