"""Ids of pictures: one function for files and tables, and folders in which names repeat."""

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iscutils.datasets import open_benchmark, open_images
from iscutils.datasets.check import check
from iscutils.descriptors.boxes import read_detections
from iscutils.descriptors.store import read_descriptors, write_descriptors
from iscutils.edits import synthesise, synthesise_queries
from iscutils.edits.manifest import iter_pictures, read_manifest
from iscutils.edits.sources import split_photographs
from iscutils.evaluation.submissions import read_ground_truth, read_predictions, write_ground_truth
from iscutils.files.artifacts import KitError
from iscutils.files.executor import Executor
from iscutils.files.ids import file_name_of, folder_ids, image_id
from iscutils.files.images import open_folder


def write_photos(folder, names, seed=0):
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng([seed, k]).integers(0, 256, (6, 8, 3), np.uint8)
        image = Image.fromarray(values).resize((160, 120), Image.Resampling.BICUBIC)
        image.save(folder / name, "PNG" if name.endswith("png") else "JPEG")


CAMERA = [f"{year}/IMG_000{k}.JPG" for year in (2023, 2024) for k in range(1, 5)]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["b.jpg", "sub/a.jpg"], ["b", "a"]),
        (["2023/a.JPG", "2024/a.JPG", "2024/b.JPG"], ["2023/a", "2024/a", "b"]),
        (["a.jpg", "x/a.jpg"], ["a", "x/a"]),
        (["a.jpg", "a.png", "a"], ["a (jpg)", "a (png)", "a"]),
        (["IMG_4.jpg.jpg"], ["IMG_4"]),
        (["IMG_4.jpg.jpg", "x/IMG_4.jpg"], ["IMG_4", "x/IMG_4"]),
        (["a.JPG", "a.jpg"], ["a (JPG)", "a (jpg)"]),
        (["caf\u00e9.jpg", "cafe\u0301.jpg"], ["café (jpg)", "café (jpg) (2)"]),
        (["holiday.2019", "a b .jpg", " c.jpg"], ["holiday.2019", "a b", "c"]),
        (["line\nbreak.jpg"], ["line break"]),
        (["a%2Fb.jpg", "a/b.jpg"], ["a/b", "b"]),
    ],
)
def test_ids_of_a_folder(names, ids):
    found = folder_ids([f"/photos/{name}" for name in names], "/photos")
    assert found == ids
    assert [image_id(name) for name in found] == ids  # as tables are read
    assert [image_id(file_name_of(name) + ".jpg") for name in found] == ids  # and files


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b"])
def test_a_file_name_stays_in_its_folder(name):
    assert os.path.basename(file_name_of(name)) == file_name_of(name)
    assert image_id(file_name_of(name)) == name


def test_an_id_that_is_too_long_for_a_file_is_named():
    with pytest.raises(KitError, match="too long"):
        file_name_of("x/" * 200)


def test_a_benchmark_insists_on_names(tmp_path):
    write_photos(tmp_path / "references", CAMERA)
    write_photos(tmp_path / "queries", ["Q0.jpg"])
    with pytest.raises(KitError, match="two images have the id 'IMG_0001'"):
        open_benchmark(tmp_path, require_truth=False)


def test_a_camera_archive_becomes_a_benchmark(tmp_path):
    write_photos(tmp_path / "photos", [*CAMERA, "IMG_4.jpg.jpg", "IMG_4.png", "other"])
    os.mkfifo(tmp_path / "photos" / "pipe.jpg")
    checked = check(str(tmp_path / "photos"), Executor())
    assert not checked.errors
    assert any("pipe.jpg: a named pipe" in line for line in checked.lines)
    images = open_images(tmp_path / "photos")
    assert "2023/IMG_0001" in images.ids
    assert "IMG_4 (jpg)" in images.ids
    chosen = split_photographs(images, references=0, negatives=2, seed=0, executor=Executor())
    assert chosen.skipped == [
        ("", str(tmp_path / "photos" / "pipe.jpg"), "a named pipe, not a file")
    ]
    folder = synthesise_queries(
        chosen.references, chosen.distractors, "sscd/simclr", tmp_path / "set",
        positives=len(chosen.references), negatives=2, seed=0, executor=Executor(),
    )  # fmt: skip
    benchmark = open_benchmark(folder)
    assert benchmark.references.ids == chosen.references.ids
    truth = benchmark.ground_truth
    assert sorted(truth["reference_id"][truth["reference_id"] != ""]) == chosen.references.ids
    for i, name in enumerate(benchmark.references.ids):
        same = chosen.references.path(chosen.references.ids.index(name))
        assert benchmark.references.path(i).read_bytes() == same.read_bytes()


@pytest.mark.parametrize("layout", ["files", "shards"])
def test_a_training_set_of_a_camera_archive(tmp_path, layout):
    write_photos(tmp_path / "photos", CAMERA)
    images = open_folder(tmp_path / "photos")
    out = synthesise(images, "sscd/simclr", 2, tmp_path / "set", layout=layout, executor=Executor())
    named = [f"{name}_{copy}" for name in images.ids for copy in (0, 1)]
    assert sorted(read_manifest(out)["image"]) == sorted(named)
    assert sorted(name for name, _ in iter_pictures(out)) == sorted(named)
    if layout == "files":
        assert open_images(out / "images").ids == sorted(named)


def test_ids_come_back_from_files(tmp_path):
    ids = ["2023/IMG_0001", "a (jpg)", "IMG_4", "a#frame=2"]
    path = write_descriptors(tmp_path / "d.h5", np.eye(4), ids)
    assert read_descriptors(path).ids == ids
    truth = pd.DataFrame({"query_id": ids, "reference_id": ids})
    assert read_ground_truth(write_ground_truth(tmp_path / "t.csv", truth))[
        "query_id"
    ].tolist() == sorted(ids)


def test_tables_are_read_with_any_ending_and_blanks(tmp_path):
    (tmp_path / "t.csv").write_text(
        "query_id,reference_id\nQ1 , R1.webp\n Q2.tif,x/R2.JPEG \nQ3,\n"
    )
    truth = read_ground_truth(tmp_path / "t.csv")
    assert truth.to_numpy().tolist() == [["Q1", "R1"], ["Q2", "R2"], ["Q3", ""]]
    (tmp_path / "p.csv").write_text("Q1.heic , R1.avif , 0.5\n")
    assert read_predictions(tmp_path / "p.csv").to_numpy().tolist() == [["Q1", "R1", 0.5]]
    (tmp_path / "d.csv").write_text(
        "image_id,class,confidence,x0,y0,x1,y1\nQ1.gif ,overlay,1,0,0,9,9\n"
    )
    assert read_detections(tmp_path / "d.csv")["image_id"].tolist() == ["Q1"]


def test_an_unknown_id_is_shown_with_what_cannot_be_seen(tmp_path):
    write_photos(tmp_path / "references", ["R1.jpg"])
    write_photos(tmp_path / "queries", ["Q1.jpg"])
    (tmp_path / "ground_truth.csv").write_text("Q1,R1\u200b\n", encoding="utf-8")
    with pytest.raises(KitError, match=r"'R1\\u200b'"):
        open_benchmark(tmp_path)
    (tmp_path / "ground_truth.csv").write_text("Q1 ,R1.webp \n")
    assert open_benchmark(tmp_path).ground_truth.to_numpy().tolist() == [["Q1", "R1"]]
