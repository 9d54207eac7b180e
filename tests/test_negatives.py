"""Hard negative pairs: one scene or one category, never copies of each other."""

import re

import cv2
import numpy as np
import pytest
from folder_content import content, rows
from PIL import Image, ImageFilter

from iscutils.datasets import open_images
from iscutils.edits import negatives, sets
from iscutils.edits.manifest import read_manifest
from iscutils.edits.recipe_files import load_recipe, parse_recipe
from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor, open_executor
from iscutils.files.images import open_folder


def picture(seed, size):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR))


def recipe(tiles=0.5, gap=0.1, min_side=64):
    pairs = {"tiles": tiles, "gap": gap, "min_side": min_side}
    return parse_recipe("pairs", {"operations": {"hflip": {}}, "pairs": pairs})


@pytest.fixture
def photos(tmp_path):
    """Six large photographs of things, and eight small ones of two categories."""
    (tmp_path / "p").mkdir()
    for i in range(6):
        size = (320, 200) if i % 2 else (180, 300)
        picture(i, size).save(tmp_path / "p" / f"large_{i}.jpg", quality=95)
    for i in range(8):
        name = f"{'cat' if i < 4 else 'dog'}_{i:04d}.png"
        picture(100 + i, (90, 80)).save(tmp_path / "p" / name)
    return open_folder(tmp_path / "p")


def make(photos, out, count=4, of=None, *, executor=None, seed=1, **rest):
    return negatives.hard_negative_pairs(
        photos, of or recipe(), count, out, seed=seed, executor=executor or Executor(), **rest
    )


def test_pairs_are_what_they_say(photos, tmp_path):
    folder = make(photos, tmp_path / "set", count=5, of=recipe(tiles=0.4))
    pairs = rows(folder / "pairs.csv")
    assert [pair["pair_id"] for pair in pairs] == [f"P{i:05d}" for i in range(5)]
    assert [pair["kind"] for pair in pairs] == ["tiles"] * 2 + ["category"] * 3
    images = open_images(folder / "images")
    names = [pair[column] for pair in pairs for column in ("image_a", "image_b")]
    assert sorted(names) == images.ids
    used = [source for pair in pairs for source in {pair["source_a"], pair["source_b"]}]
    assert len(used) == len(set(used)) == 2 + 6  # each photograph is in one pair at most
    for pair in pairs:
        a, b = (images.path(images.ids.index(pair[f"image_{side}"])) for side in "ab")
        if pair["kind"] == "tiles":
            assert pair["source_a"] == pair["source_b"]
            continue
        first, second = pair["source_a"], pair["source_b"]
        assert first != second
        assert re.sub(r"_\d+$", "", first) == re.sub(r"_\d+$", "", second)
        for file, source in ((a, first), (b, second)):
            assert file.read_bytes() == photos.path(photos.ids.index(source)).read_bytes()
    assert rows(folder / "unreadable.csv") == []


def test_tiles_are_beside_each_other_with_a_gap(photos, tmp_path):
    folder = make(photos, tmp_path / "set", count=5, of=recipe(tiles=1.0, gap=0.2))
    images = open_images(folder / "images")
    assert len(images) == 10
    for pair in rows(folder / "pairs.csv"):
        source = photos.load(photos.ids.index(pair["source_a"]))
        for side in "ab":
            tile = images.load(images.ids.index(pair[f"image_{side}"]))
            assert min(tile.size) >= 64
            found = cv2.matchTemplate(
                np.asarray(source), np.asarray(tile), cv2.TM_SQDIFF_NORMED
            )  # by brute force: where in the photograph the tile lies
            x, y = cv2.minMaxLoc(found)[2]
            length = 0.4 * max(source.size)
            expected = 0 if side == "a" else max(source.size) - length
            across, along = (y, x) if source.width > source.height else (x, y)
            assert across == 0
            assert along == pytest.approx(expected, abs=1.01)
            assert max(tile.size) == pytest.approx(max(length, min(source.size)), abs=1)


@pytest.mark.parametrize("size", [(1000, 400), (400, 1000), (301, 300), (7, 7)])
@pytest.mark.parametrize("gap", [0.0, 0.1, 0.5])
def test_tile_boxes_never_overlap(size, gap):
    boxes = negatives.tile_boxes(size, gap, 2)
    if not boxes:
        assert int(max(size) * (1 - gap) / 2) < 2
        return
    shown = np.zeros(size[::-1], int)
    for x0, y0, x1, y1 in boxes:
        shown[y0:y1, x0:x1] += 1
        assert min(x1 - x0, y1 - y0) >= 2
    assert shown.max() == 1
    assert (shown == 0).mean() == pytest.approx(gap, abs=2 / max(size))
    assert negatives.tile_boxes(size, gap, 1001) == ()


def test_copies_are_no_negatives(tmp_path):
    (tmp_path / "p").mkdir()
    base = picture(7, (120, 90))
    for i in range(6):  # byte-identical, resized, recompressed, blurred: all of one photograph
        same = base.resize((100 + 20 * (i // 2), 90)).filter(ImageFilter.GaussianBlur(i // 2))
        same.save(tmp_path / "p" / f"copy_{i}.jpg", quality=60 + 10 * (i // 2))
    photos = open_folder(tmp_path / "p")
    folder = make(photos, tmp_path / "none", count=3, of=recipe(tiles=0.0))
    assert rows(folder / "pairs.csv") == []
    for i in range(6):
        picture(50 + i, (120, 90)).save(tmp_path / "p" / f"other_{i}.jpg")
    photos = open_folder(tmp_path / "p")
    folder = make(photos, tmp_path / "some", count=3, of=recipe(tiles=0.0))
    assert {pair["source_a"][:5] for pair in rows(folder / "pairs.csv")} == {"other"}
    assert len(rows(folder / "pairs.csv")) == 3


def test_hash_is_near_for_copies_and_far_for_others():
    base = picture(1, (300, 200))
    copies = [
        base.resize((150, 140)),
        base.filter(ImageFilter.GaussianBlur(3)),
        base.point(lambda v: int(0.7 * v + 20)),
    ]
    others = [picture(i, (300, 200)) for i in range(2, 12)]
    assert max(negatives.hash_distance(base, copy) for copy in copies) <= 10
    assert min(negatives.hash_distance(base, other) for other in others) > 10
    assert negatives.perceptual_hash(base).shape == (64,)
    bits, small = negatives.perceptual_hash(base), base.convert("L").resize((32, 32), 2, None, 3.0)
    n = np.arange(32)  # slow and obvious: the cosine sums themselves
    waves = np.cos(np.pi * (n[None] + 0.5) * n[:8, None] / 32)
    waves[0] /= np.sqrt(2)
    low = (waves @ np.asarray(small, float) @ waves.T).ravel()
    assert (bits != (low > np.median(low))).sum() <= 1


def test_categories_are_folders_names_or_given(photos, tmp_path):
    found = negatives.default_categories(photos)
    assert set(found.values()) == {"large", "cat", "dog"}
    for i in range(4):
        folder = tmp_path / "f" / ("left" if i < 2 else "right")
        folder.mkdir(parents=True, exist_ok=True)
        picture(200 + i, (60, 60)).save(folder / f"x{i}.png")
    nested = open_folder(tmp_path / "f")
    assert negatives.default_categories(nested) == dict(
        x0="left", x1="left", x2="right", x3="right"
    )
    given = {"x0": "odd", "x2": "odd", "x1": "lonely"}
    folder = make(nested, tmp_path / "given", 1, recipe(tiles=0.0), categories=given)
    (pair,) = rows(folder / "pairs.csv")
    assert {pair["source_a"], pair["source_b"]} == {"x0", "x2"}
    with pytest.raises(KitError, match="2 pairs of one category are wanted, and there are 1"):
        make(nested, tmp_path / "none", 2, recipe(tiles=0.0), categories=given)


def test_too_few_large_photographs_are_named(photos, tmp_path):
    with pytest.raises(KitError, match=r"7 pairs of tiles .* there are 6: give larger"):
        make(photos, tmp_path / "a", 7, recipe(tiles=1.0))
    with pytest.raises(KitError, match="room for two tiles of 190 px and the gap; there are 0"):
        make(photos, tmp_path / "a", 2, recipe(tiles=1.0, min_side=190))
    with pytest.raises(KitError, match="has no 'pairs'"):
        make(photos, tmp_path / "a", 2, load_recipe("isc_queries"))
    with pytest.raises(KitError, match="count=0"):
        make(photos, tmp_path / "a", 0)
    assert not (tmp_path / "a").exists()


def test_broken_files_are_listed_and_replaced(photos, tmp_path):
    data = (tmp_path / "p" / "large_0.jpg").read_bytes()
    for name in ("large_0", "large_1"):  # the header is whole, the picture is not
        (tmp_path / "p" / f"{name}.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "p" / "cat_0000.png").write_bytes(b"broken")
    photos = open_folder(tmp_path / "p")
    folder = make(photos, tmp_path / "set", 5, recipe(tiles=1.0))
    listed = {row["image_id"] for row in rows(folder / "unreadable.csv")}
    assert listed == {"large_0", "large_1"}
    assert len(rows(folder / "pairs.csv")) == 4
    folder = make(photos, tmp_path / "cats", 6, recipe(tiles=0.0))
    assert len(open_images(folder / "images")) == 2 * len(rows(folder / "pairs.csv")) > 0
    used = {pair[f"source_{side}"] for pair in rows(folder / "pairs.csv") for side in "ab"}
    assert not used & {"large_0", "large_1", "cat_0000"}


class Killed(Exception):
    pass


class Mortal(Executor):
    def _results(self, function, items, chunk):
        for number, item in enumerate(items):
            if number == 2:
                raise Killed
            yield function(item)


def test_killed_call_resumes_and_workers_change_nothing(photos, tmp_path):
    whole = content(make(photos, tmp_path / "whole"))
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        make(photos, out, executor=Mortal())
    assert not (out / "pairs.csv").exists()
    stamps = {file: file.stat().st_mtime_ns for file in (out / "images").iterdir()}
    assert len(stamps) == 4
    (out / "images" / "P00002_a.png").write_bytes(b"half")
    with open_executor("processes", 2) as executor:
        make(photos, out, executor=executor)
    assert content(out) == whole
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    stamp = (out / "pairs.csv").stat().st_mtime_ns
    make(photos, out)
    assert (out / "pairs.csv").stat().st_mtime_ns == stamp
    assert content(make(photos, out, seed=2)) == content(make(photos, tmp_path / "two", seed=2))


def test_their_copies_are_a_training_set(photos, tmp_path):
    folder = make(photos, tmp_path / "pairs", count=3)
    images = open_images(folder / "images")
    out = sets.synthesise(images, recipe(), 2, tmp_path / "set", executor=Executor())
    assert list(read_manifest(out)["source_id"]) == [name for name in images.ids for _ in range(2)]
    with pytest.raises(KitError, match="holds a synthesised set of pairs"):
        sets.synthesise(images, recipe(), 2, folder, executor=Executor())
    assert len(open_images(folder / "images")) == 6
