"""Training sets: whole, resumable, the same from any number of workers, honest about themselves."""

import io
import json
import shutil
import tarfile
from collections import namedtuple

import cv2
import numpy as np
import pandas as pd
import pytest
from folder_content import content, rows
from PIL import Image

from iscutils.datasets import open_images
from iscutils.edits import check, making, sets
from iscutils.edits.estimate import estimate
from iscutils.edits.making import Maker, open_reduced, spread, stable_number
from iscutils.edits.manifest import box_rows, iter_pictures, member_name, read_manifest
from iscutils.edits.recipe_files import list_recipes, load_recipe, parse_recipe
from iscutils.edits.record import transform
from iscutils.edits.repeating import count_repeated, repeat_edits, repeat_picture
from iscutils.files.artifacts import KitError, log
from iscutils.files.executor import Executor, open_executor
from iscutils.files.images import ImageError, open_folder

MIXED = parse_recipe(
    "mixed",
    {
        "source": 80,
        "original": {"draw": "each", "operations": {"squash": {"side": 48}}},
        "draw": "each",
        "operations": {
            "crop": {"probability": 0.7},
            "paste": {"probability": 0.4},
            "underlay": {"probability": 0.3},
            "sticker": {"probability": 0.5},
            "jitter": {},
            "squash": {"side": 48},
        },
    },
)
PLAIN = parse_recipe("plain", {"draw": "each", "operations": {"jitter": {}, "crop": {}}})


def write_photos(folder, number, size=(96, 72), ending="jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        coarse = np.random.default_rng(i).integers(0, 256, (6, 6, 3), np.uint8)
        picture = Image.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR))
        picture.save(folder / f"p{i:03d}.{ending}")
    return open_folder(folder)


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 9)


def synthesise(photos, out, per_image=3, recipe=MIXED, *, executor=None, **rest):
    return sets.synthesise(photos, recipe, per_image, out, executor=executor or Executor(),
                           **{"seed": 5, **rest})  # fmt: skip


def test_every_picture_is_there_and_described(photos, tmp_path):
    folder = synthesise(photos, tmp_path / "set")
    names = [f"{name}_{k}" for name in photos.ids for k in range(3)]
    manifest = read_manifest(folder)
    assert list(manifest["image"]) == names
    assert open_images(folder / "images").ids == sorted(names)
    assert [row["image"] for row in rows(folder / "scales.csv")] == names
    assert list(dict.fromkeys(row["image"] for row in rows(folder / "boxes.csv"))) == names
    assert rows(folder / "unreadable.csv") == []
    for row in manifest.itertuples():
        assert row.seed == [5, stable_number(row.source_id), row.copy]
        assert row.image == f"{row.source_id}_{row.copy}"
        assert row.source_id not in row.donors
        assert (row.width, row.height) == (48, 48)
        with Image.open(folder / row.file) as picture:
            assert picture.size == (48, 48)
        first = ["fit", {"side": 80}]
        if row.copy == 0:
            assert row.operations == [first, ["squash", {"side": 48}]]
            np.testing.assert_allclose(row.homography, np.diag([48 / 96, 48 / 72, 1]), atol=1e-12)
        else:
            assert row.operations[0] == first
            assert row.operations[-1] == ["squash", {"side": 48}]
            assert MIXED.min_visible <= row.visible <= 1
    assert not list(folder.rglob(".*"))
    assert sorted(file.name for file in folder.iterdir()) == [
        "boxes.csv", "images", "manifest.parquet", "scales.csv", "synthesis.json", "unreadable.csv",
    ]  # fmt: skip


def test_tables_follow_from_the_manifest(photos, tmp_path):
    folder = synthesise(photos, tmp_path / "set")
    manifest = read_manifest(folder)
    scales = rows(folder / "scales.csv")
    assert [row["scale"] for row in scales] == [f"{v:.6f}" for v in manifest["visible"]]
    assert all(row["scale"] == "1.000000" for row in scales if row["image"].endswith("_0"))
    expected = []
    for row in manifest.itertuples():
        for kind, x0, y0, x1, y1 in row.boxes:
            name = {"original": "overlay", "photo": "overlay", "sticker": "sticker"}[kind]
            bounds = [int(np.floor(x0)), int(np.floor(y0)), int(np.ceil(x1)), int(np.ceil(y1))]
            expected.append([row.image, name, *map(str, bounds)])
        if not row.boxes:
            expected.append([row.image, "", "", "", "", ""])
    lines = [list(row.values()) for row in rows(folder / "boxes.csv")]
    assert lines == expected
    assert {line[1] for line in lines} == {"", "overlay", "sticker"}
    assert all(int(value) <= 48 for line in lines for value in line[2:] if value)


def test_boxes_are_whole_pixels_inside_the_picture():
    box = {"kind": "photo", "x0": 1.2, "y0": 0.0, "x1": 9.01, "y1": 20.0}
    empty = {"kind": "sticker", "x0": 3.0, "y0": 4.0, "x1": 3.0, "y1": 9.0}
    assert box_rows("a", [box], (10, 20)) == [("a", "overlay", 1, 0, 10, 20)]
    assert box_rows("a", [box | {"x1": 9.0}], (10, 20)) == [("a", "overlay", 1, 0, 9, 20)]
    assert box_rows("a", [empty], (10, 20)) == [("a", "", "", "", "", "")]


@pytest.mark.parametrize("layout", ["files", "shards"])
def test_one_and_two_workers_give_the_same_bytes(photos, tmp_path, layout):
    one = content(synthesise(photos, tmp_path / "one", layout=layout, shard=9))
    with open_executor("processes", 2) as executor:
        two = synthesise(photos, tmp_path / "two", layout=layout, shard=9, executor=executor)
    assert content(two) == one


def test_a_copy_does_not_depend_on_the_other_photographs(photos, tmp_path):
    whole = synthesise(photos, tmp_path / "all", recipe=PLAIN)
    part = synthesise(photos.subset([7, 2]), tmp_path / "some", recipe=PLAIN, per_image=2)
    pictures = {name: file for name, file in content(whole).items() if name.endswith("jpg")}
    by_name = {name.rpartition("/")[2]: data for name, data in pictures.items()}
    some = {name: data for name, data in content(part).items() if name.endswith("jpg")}
    assert len(some) == 4
    assert all(by_name[name.rpartition("/")[2]] == data for name, data in some.items())
    other = content(synthesise(photos, tmp_path / "other", recipe=PLAIN, seed=6))
    assert not any(other[name] == data for name, data in pictures.items())


def test_shards_are_webdataset_tars_of_the_same_pictures(photos, tmp_path):
    files = synthesise(photos, tmp_path / "files")
    shards = synthesise(photos, tmp_path / "shards", layout="shards", shard=7)
    assert sorted(file.name for file in (shards / "shards").iterdir()) == [
        f"{i:06d}.tar" for i in range(5)  # two photographs of three copies in each
    ]  # fmt: skip
    manifest = read_manifest(shards).set_index("image")
    names = []
    for file in sorted((shards / "shards").iterdir()):
        with tarfile.open(file) as tar:
            members = tar.getmembers()
            assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {
                (0, 0, 0, "", 0o644)
            }
            for picture, record in zip(members[::2], members[1::2], strict=True):
                name = picture.name.removesuffix(".jpg")
                assert record.name == f"{name}.json"
                row = json.loads(tar.extractfile(record).read())
                assert row["image"] == name
                assert row["file"] == manifest.file[name] == f"shards/{file.name}"
                assert row["operations"] == manifest.operations[name]
                assert row["visible"] == manifest.visible[name]
                names.append(name)
    assert names == list(manifest.index)
    listed = list(iter_pictures(shards))
    assert [name for name, _ in listed] == names
    for (name, one), (other, two) in zip(listed, iter_pictures(files), strict=True):
        assert name == other
        assert one.tobytes() == two.tobytes()
    assert (shards / "scales.csv").read_bytes() == (files / "scales.csv").read_bytes()


def test_names_with_dots_survive_the_shards(tmp_path):
    write_photos(tmp_path / "p", 2)
    (tmp_path / "p" / "p000.jpg").rename(tmp_path / "p" / "a.b 100% é.jpg")
    photos = open_folder(tmp_path / "p")
    folder = synthesise(photos, tmp_path / "set", layout="shards")
    with tarfile.open(folder / "shards" / "000000.tar") as tar:
        assert all(name.count(".") == 1 for name in tar.getnames())
    assert next(iter_pictures(folder))[0] == "a.b 100% é_0"
    assert count_repeated(folder, photos, photos) == (6, 6)
    assert member_name("a.b") != member_name("a%2Eb")


def test_pictures_are_made_again_from_the_manifest(photos, tmp_path):
    for layout in ("files", "shards"):
        folder = synthesise(photos, tmp_path / layout, layout=layout, quality=70)
        assert count_repeated(folder, photos, photos, limit=27) == (27, 27)
    folder = synthesise(photos, tmp_path / "files", quality=70)
    row = read_manifest(folder, names=["p004_2"]).iloc[0]
    data = repeat_picture(folder, "p004_2", photos, photos)
    assert data == (folder / row.file).read_bytes()
    np.testing.assert_array_equal(
        repeat_edits(folder, "p004_2", photos, photos).homography, row.homography
    )
    (folder / row.file).write_bytes(data[:-2])
    assert count_repeated(folder, photos, photos, limit=27) == (26, 27)
    with pytest.raises(KitError, match="'p999_0' is not in"):
        repeat_picture(folder, "p999_0", photos, photos)
    with pytest.raises(KitError, match="'p004' of p004_2 is missing"):
        repeat_picture(folder, "p004_2", photos.subset([0]), photos)


class Killed(Exception):
    pass


class Mortal(Executor):
    """Stops after some items, as a killed process would."""

    def __init__(self, items):
        self.items = items

    def _results(self, function, items, chunk):
        for number, item in enumerate(items):
            if number == self.items:
                raise Killed
            yield function(item)


@pytest.mark.parametrize("layout", ["files", "shards"])
def test_killed_call_resumes(photos, tmp_path, layout, monkeypatch):
    options = {"layout": layout, "shard": 6}
    whole = content(synthesise(photos, tmp_path / "whole", **options))
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        synthesise(photos, out, executor=Mortal(2), **options)
    assert not (out / "manifest.parquet").exists()
    # Killed inside the third block: its pictures are there in part, and its record is not.
    place = out / sets.LAYOUTS[layout]
    if layout == "files":
        (place / "000002").mkdir()
        (place / "000002" / "p002_0.jpg").write_bytes(b"half")
        (place / ".000003.x").mkdir()
    else:
        (place / "000002.tar").write_bytes(b"half")
    stamps = {
        file: file.stat().st_mtime_ns
        for file in sorted(place.rglob("00000[01]*/*")) + sorted(place.glob("00000[01].tar"))
    }
    made = []
    monkeypatch.setattr(sets, "_make_block", lambda job, block: made.append(block))
    with pytest.raises(FileNotFoundError):
        synthesise(photos, out, **options)
    assert made == list(range(2, 9 if layout == "files" else 5))
    monkeypatch.undo()
    synthesise(photos, out, **options)
    assert content(out) == whole
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    assert not list(out.rglob(".*"))


def test_finished_set_is_kept_and_other_arguments_make_it_anew(photos, tmp_path):
    out = synthesise(photos, tmp_path / "set")
    stamp = (out / "manifest.parquet").stat().st_mtime_ns
    assert synthesise(photos, out) == out
    assert (out / "manifest.parquet").stat().st_mtime_ns == stamp
    for change in ({"seed": 6}, {"quality": 50}, {"layout": "shards"}, {"limit": 4}):
        fresh = synthesise(photos, tmp_path / "-".join(change), **change)
        assert content(synthesise(photos, out, **change)) == content(fresh)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(KitError, match="empty folder"):
        synthesise(photos, foreign)
    assert [file.name for file in foreign.iterdir()] == ["thesis.txt"]


def test_unreadable_photographs_are_listed_and_nothing_else_is_lost(photos, tmp_path):
    good = {
        name.rpartition("/")[2]: data
        for name, data in content(synthesise(photos, tmp_path / "good", recipe=PLAIN)).items()
    }
    (tmp_path / "photos" / "p003.jpg").write_bytes(b"no picture")
    (tmp_path / "photos" / "p008.jpg").write_bytes(b"")
    photos = open_folder(tmp_path / "photos")
    folder = synthesise(photos, tmp_path / "set", recipe=PLAIN)
    listed = rows(folder / "unreadable.csv")
    assert [row["image_id"] for row in listed] == ["p003", "p008"]
    assert [row["reason"] for row in listed][1] == "empty file (0 bytes)"
    assert all(row["file"].endswith(".jpg") for row in listed)
    assert set(read_manifest(folder)["source_id"]) == set(photos.ids) - {"p003", "p008"}
    made = {n.rpartition("/")[2]: d for n, d in content(folder).items() if n.endswith(".jpg")}
    assert len(made) == 21
    assert all(good[name] == data for name, data in made.items())
    # As donors they are passed over.
    folder = synthesise(photos, tmp_path / "mixed")
    assert not {"p003", "p008"} & {d for ids in read_manifest(folder)["donors"] for d in ids}


def test_limit_takes_every_nth_and_the_others_are_donors(photos, tmp_path):
    assert spread(1_000_000, 100_000)[:3] == [0, 10, 20]
    assert spread(9, 4) == [int(i * 9 / 4) for i in range(4)] == [0, 2, 4, 6]
    assert spread(3, 0) == spread(3, 7) == [0, 1, 2]
    folder = synthesise(photos, tmp_path / "set", per_image=8, limit=4)
    manifest = read_manifest(folder)
    edited = ["p000", "p002", "p004", "p006"]
    assert list(dict.fromkeys(manifest["source_id"])) == edited
    used = {donor for ids in manifest["donors"] for donor in ids}
    assert used
    assert used <= set(photos.ids) - set(edited)
    given = photos.subset([8])
    folder = synthesise(photos, tmp_path / "given", per_image=8, limit=4, donors=given)
    assert {d for ids in read_manifest(folder)["donors"] for d in ids} == {"p008"}


def test_donors_show_faces_where_the_recipe_asks(photos, tmp_path, monkeypatch, caplog):
    with_face = {photos.load(i).tobytes() for i in (1, 5)}
    monkeypatch.setattr(
        making, "detect_faces", lambda image: np.zeros((int(image.tobytes() in with_face), 4))
    )
    monkeypatch.setattr(log, "propagate", True)
    content = {"operations": {"opacity": {}}, "faces": True}
    recipe = parse_recipe("faces", content)
    folder = synthesise(photos, tmp_path / "set", recipe=recipe)
    assert "2 of 9 donor photographs show a face" in caplog.text
    manifest = read_manifest(folder)
    for row in manifest.itertuples():
        first = set(row.donors) & {"p001", "p005"}
        assert first == set(row.donors) == {"p001", "p005"} - {row.source_id}
    with_face.clear()
    folder = synthesise(photos, tmp_path / "none", recipe=recipe)
    used = {donor for ids in read_manifest(folder)["donors"] for donor in ids}
    assert used == set(photos.ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_image": 0}, "per_image=0: give a number of 1"),
        ({"layout": "zip"}, "layout 'zip' is unknown; allowed: files, shards"),
        ({"quality": 101}, "quality=101"),
        ({"shard": 0}, "shard=0"),
        ({"limit": -1}, "limit=-1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_wrong_arguments_are_named(photos, tmp_path, change, message):
    with pytest.raises(KitError, match=message):
        synthesise(photos, tmp_path / "set", **change)
    assert not (tmp_path / "set").exists()


def test_too_few_photographs_are_named(photos, tmp_path):
    one, none = photos.subset([0]), photos.subset([])
    for images, donors in ((one, None), (one, one), (photos, none)):
        with pytest.raises(KitError, match="at least 2 photographs"):
            synthesise(images, tmp_path / "set", donors=donors)
    with pytest.raises(KitError, match="no photographs to edit"):
        synthesise(none, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    folder = synthesise(one, tmp_path / "alone", recipe=PLAIN)
    assert len(read_manifest(folder)) == 3
    folder = synthesise(one, tmp_path / "two", donors=photos.subset([3]))
    assert {d for ids in read_manifest(folder)["donors"] for d in ids} <= {"p003"}


def test_disc_that_is_too_small_is_named_before_the_work(photos, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 3000))
    with pytest.raises(KitError, match=r"27 pictures need about \d+ kB, but 3 kB are free"):
        synthesise(photos, tmp_path / "set")
    assert not list((tmp_path / "set").rglob("*.jpg"))
    folder = synthesise(photos, tmp_path / "set", check_disc=False)
    assert len(list(folder.rglob("*.jpg"))) == 27
    # What is there already needs no room: one block is left of nine.
    out = tmp_path / "rest"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 12_000))
    with pytest.raises(KitError, match="27 pictures need"):
        synthesise(photos, out)
    with pytest.raises(Killed):
        synthesise(photos, out, check_disc=False, executor=Mortal(8))
    synthesise(photos, out)
    assert len(list(out.rglob("*.jpg"))) == 27


def test_estimate_is_near_the_truth_and_reads_well(photos, tmp_path, monkeypatch, caplog):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 66 * 10**9))
    for layout in ("files", "shards"):
        guess = estimate(photos, MIXED, 3, sample=9, seed=5, layout=layout, out=tmp_path / "no")
        folder = synthesise(photos, tmp_path / layout, layout=layout)
        size = sum(len(data) for data in content(folder / sets.LAYOUTS[layout]).values())
        size += (folder / "manifest.parquet").stat().st_size if layout == "files" else 0
        assert guess.pictures == 27
        assert guess.bytes == pytest.approx(size, rel=0.5)
        assert guess.bytes == round(27 * guess.bytes_per_picture)
        assert guess.seconds == pytest.approx(27 * guess.seconds_per_picture)
    two = estimate(photos, MIXED, 3, workers=2, limit=4, finished=1)
    assert two.pictures == 9
    assert two.seconds == pytest.approx(9 * two.seconds_per_picture / 2)
    text = str(making.replace(guess, pictures=2_000_000, seconds=9 * 3600.0, bytes=31 * 10**9,
                              workers=2))  # fmt: skip
    assert text == "2,000,000 pictures: about 9 h on 2 cores and 31 GB; 66 GB are free"
    monkeypatch.setattr(log, "propagate", True)
    synthesise(photos, tmp_path / "logged")
    assert "27 pictures: about" in caplog.text


def test_large_jpegs_are_decoded_small_and_the_homography_knows(tmp_path):
    picture = check.coordinate_image((1201, 803)) if hasattr(check, "coordinate_image") else None
    if picture is None:
        x, y = np.meshgrid(np.linspace(0, 250, 1201), np.linspace(0, 250, 803))
        picture = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    (tmp_path / "p").mkdir()
    picture.save(tmp_path / "p" / "wide.jpg", quality=95)
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6  # shown turned clockwise: upright again
    turned.save(tmp_path / "p" / "turned.jpg", quality=95, exif=exif)
    picture.save(tmp_path / "p" / "whole.png")
    photos = open_folder(tmp_path / "p")
    recipe = parse_recipe("half", {"operations": {"vflip": {}}, "source": 300})
    maker = Maker(photos, photos, recipe, 0)
    for i, name in enumerate(photos.ids):
        small, size = open_reduced(photos, i, 300)
        assert size == (1201, 803)
        assert small.size == ((1201, 803) if name == "whole" else (601, 402))
        edited, _ = maker.make(i, (0,))
        assert edited.original_size == (1201, 803)
        assert [name for name, _ in edited.operations] == ["fit", "vflip"]
        assert edited.image.width == 300
        moved = transform(edited.homography, np.array([[0.0, 803.0], [1201.0, 0.0]]))
        np.testing.assert_allclose(moved, [[0, 0], edited.image.size], atol=1e-6)
        point = np.array([[900.0, 200.0]])
        seen = edited.image.getpixel(tuple(transform(edited.homography, point)[0].astype(int)))
        np.testing.assert_allclose(seen[:2], point[0] / (1201, 803) * 250, atol=5)
    small, size = open_reduced(photos, photos.ids.index("wide"), 1201)
    assert small.size == size == (1201, 803)


def test_maker_raises_image_errors_and_skips_the_rest(photos, tmp_path):
    (tmp_path / "photos" / "p002.jpg").write_bytes(b"broken")
    maker = Maker(photos, photos.subset([2]), MIXED, 0)
    with pytest.raises(ImageError, match="not a JPEG"):
        maker.make(2, (0,))
    recipe = parse_recipe("blend", {"operations": {"opacity": {}}})
    with pytest.raises(KitError, match="none of the 1 donor photographs can be read"):
        Maker(photos, photos.subset([2]), recipe, 0).make(1, (0,))
    edited, donors = Maker(photos, photos.subset([2, 5]), recipe, 0).make(1, (0,))
    assert donors == ["p005"]
    assert edited.image.size == (96, 72)


def test_manifest_is_readable_elsewhere_and_in_parts(photos, tmp_path):
    folder = synthesise(photos, tmp_path / "set")
    raw = pd.read_parquet(folder / "manifest.parquet")
    assert len(raw) == 27
    assert raw["visible"].dtype == np.float64
    assert all(len(values) == 9 for values in raw["homography"])
    assert all(isinstance(json.loads(text), list) for text in raw["operations"])
    part = read_manifest(folder, columns=["visible", "boxes"], names=["p001_1", "p002_0"])
    assert list(part.columns) == ["visible", "boxes"]
    assert part["boxes"].iloc[1] == []


def test_manifest_of_many_blocks_is_written_in_groups(photos, tmp_path, monkeypatch):
    whole = read_manifest(synthesise(photos, tmp_path / "one"))
    from iscutils.edits import manifest

    monkeypatch.setattr(manifest, "ROWS", 4)
    parts = read_manifest(synthesise(photos, tmp_path / "two"))
    assert list(parts["image"]) == list(whole["image"])
    assert list(parts["seed"]) == list(whole["seed"])


def test_shipped_recipe_makes_a_set_of_odd_pictures(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, size in (("dot", (1, 1)), ("strip", (20_000, 30)), ("tall", (7, 300))):
        Image.new("RGB", size).save(folder / f"{name}.png")
    out = synthesise(open_folder(folder), tmp_path / "set", recipe=load_recipe("isc_queries"))
    pictures = dict(iter_pictures(out))
    assert len(pictures) == 9
    data = io.BytesIO((out / "images" / "000000" / "dot_0.jpg").read_bytes())
    assert Image.open(data).size == pictures["dot_0"].size


ELEVEN = [name for name in list_recipes() if name.startswith("d2lv/") and "vocab" not in name]


@pytest.mark.parametrize("name", ELEVEN)
def test_every_d2lv_set_has_twenty_square_copies_that_show_enough(photos, tmp_path, name):
    """Same seed, same bytes; the gray twins have three equal channels."""
    made = synthesise(photos, tmp_path / "set", 20, name, limit=2)
    table = read_manifest(made)
    assert table.groupby("source_id").size().tolist() == [20, 20]
    assert table.visible.min() >= 0.05
    assert set(table.width) == set(table.height) == {256}
    pictures = dict(iter_pictures(made))
    if name.endswith("_bw"):
        assert all((np.ptp(np.asarray(p), axis=2) == 0).all() for p in pictures.values())
    again = synthesise(photos, tmp_path / "again", 20, name, limit=2)
    assert content(made) == content(again)
