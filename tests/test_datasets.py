"""Builtin images and benchmarks in ISC layout."""

import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iscutils.datasets import builtin_images, is_isc_layout, open_benchmark, open_images
from iscutils.datasets.benchmark import read_edits
from iscutils.datasets.builtin import FOLDER, PARTS, read_credits
from iscutils.edits.likeness import thumbnails
from iscutils.edits.negatives import hash_distance
from iscutils.edits.sources import open_sources
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import find_unreadable, open_folder

SHARED = Path(__file__).parents[2] / "shared"


# --- photographs that come with the kit ----------------------------------------------------------


def test_every_photograph_has_its_credits_and_no_other_file_is_there():
    credits = pd.read_csv(FOLDER / "CREDITS.csv", keep_default_na=False)
    assert list(credits.columns) == ["file", "part", "source", "licence", "credit"]
    assert (credits != "").all(axis=None)
    assert credits.to_dict("records") == list(read_credits())
    assert sorted(credits.file) == sorted(p.name for p in FOLDER.iterdir() if p.suffix == ".jpg")
    assert {path.suffix for path in FOLDER.iterdir()} == {".jpg", ".csv"}
    assert set(credits.part) == set(PARTS)
    allowed = "CC BY 4.0 |CC0 1.0|MIT "  # what may be shown with the credit kept
    assert credits.licence.str.match(allowed).all()
    assert not credits.credit.str.contains("BY-SA|BY-NC|ermission", regex=True).any()


def test_photographs_are_small_and_can_be_read():
    files = list(FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    with open_executor("serial") as executor:
        assert find_unreadable(open_folder(FOLDER), executor) == []
    for path in files:
        if path.suffix == ".jpg":
            with Image.open(path) as image:
                assert max(image.size) <= 256
                assert not image.getexif()


def test_the_parts_share_no_photograph_and_nothing_alike():
    parts = {part: open_images("builtin", part=part) for part in PARTS}
    assert {part: len(images) for part, images in parts.items()} == {
        "train": 224, "reference": 152, "distractor": 70,
    }  # fmt: skip
    for a, b in itertools.combinations(parts.values(), 2):
        assert not set(a.ids) & set(b.ids)
        likeness = thumbnails(a) @ thumbnails(b).T
        for i, j in np.argwhere(likeness > 0.8):
            assert hash_distance(a.load(i), b.load(j)) > 10, (a.ids[i], b.ids[j])


def test_builtin_limits_seeds_and_ids():
    few, many = (open_images("builtin", part="reference", limit=n) for n in (10, 1000))
    assert few.ids == many.ids[:10]
    assert sorted(many.ids) == sorted(open_images("builtin", part="reference").ids)
    assert [file.rsplit(os.sep, 1)[1] for file in few.files] == [f"{i}.jpg" for i in few.ids]
    other = open_images("builtin", part="reference", limit=10, seed=1)
    assert other.ids != few.ids
    for bad in ({"part": "test"}, {"limit": -1}, {"seed": -1}):
        with pytest.raises(KitError, match=str(next(iter(bad.values())))):
            open_images("builtin", **bad)


def test_the_key_does_not_tell_when_the_kit_was_installed(tmp_path, monkeypatch):
    before = builtin_images("train", 5)
    keys = [before.key(), before.subset([0, 1]).key()]
    for file in before.files:
        copy = tmp_path / Path(file).name
        copy.write_bytes(Path(file).read_bytes())
        os.utime(copy, (1, 1))
    monkeypatch.setattr("iscutils.datasets.builtin.FOLDER", tmp_path)
    after = builtin_images("train", 5)
    assert after.files != before.files
    assert [after.key(), after.subset([0, 1]).key()] == keys
    assert builtin_images("train", 5, seed=1).ids != after.ids
    assert len({*keys, after.subset([1, 0]).key()}) == 3


def test_sources_of_builtin_data(tmp_path):
    given = dict(negatives=3, seed=0, folder=tmp_path, executor=None)
    sources = open_sources("builtin", "builtin", references=12, **given)
    assert sources.references.ids == builtin_images("reference", 12).ids
    assert sources.distractors.ids == builtin_images("distractor", 20).ids  # donors of pastes
    assert len(open_sources("builtin", "builtin", references=0, **given).references) == 152
    with pytest.raises(KitError, match="references=153, but there are only 152"):
        open_sources("builtin", "builtin", references=153, **given)


# --- benchmarks -----------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    """Two queries, one a distractor, and three references."""
    for name in ("queries/q1", "queries/q2", "references/r1", "references/r2", "references/r3"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
    (tmp_path / "ground_truth.csv").write_bytes(b"query_id,reference_id\r\nq1,r2\r\nq2,\r\n")
    return tmp_path


def test_a_folder_in_isc_layout(bench):
    (bench / "edits.csv").write_bytes(b"query_id,edits\r\nq1,crop+text\r\nq2,\r\n")
    assert is_isc_layout(bench)
    benchmark = open_benchmark(str(bench), "builtin")
    assert benchmark.name == bench.name
    assert benchmark.queries.ids == ["q1", "q2"]
    assert benchmark.references.ids == ["r1", "r2", "r3"]
    assert benchmark.background.ids == open_images("builtin").ids
    truth = benchmark.ground_truth
    assert list(truth.columns) == ["query_id", "reference_id"]
    assert sorted(truth.itertuples(index=False, name=None)) == [("q1", "r2"), ("q2", "")]
    assert benchmark.edits == {"q1": "crop+text", "q2": ""}


def test_truth_without_header_and_edits_without_file(bench):
    (bench / "ground_truth.csv").write_bytes(b"q1,r2\r\nq2,\r\n")
    benchmark = open_benchmark(bench, limit=5)
    assert len(benchmark.ground_truth) == 2
    assert len(benchmark.background) == 5
    assert benchmark.edits == {}


def test_truth_may_be_missing_when_it_is_not_required(bench):
    (bench / "ground_truth.csv").unlink()
    with pytest.raises(KitError, match=r"ground_truth\.csv is missing: the metric needs"):
        open_benchmark(bench)
    assert open_benchmark(bench, require_truth=False).ground_truth is None


def remove(path):
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: (b / "references").rename(b / "refs"), "has no folder references/"),
        (lambda b: remove(b / "queries"), "queries holds no images"),
        (lambda b: (b / "ground_truth.csv").write_text("q1,r9\n"), "reference_id.*r9"),
        (lambda b: (b / "ground_truth.csv").write_text("q7,r1\n"), "query_id.*q7"),
        (lambda b: (b / "ground_truth.csv").write_text("q1,\n"), "ground_truth.csv"),
        (
            lambda b: Image.new("RGB", (2, 2)).save(b / "references" / "r1.jpg"),
            r"two images have the id 'r1'.*r1\.jpg and .*r1\.png",
        ),
        (lambda b: (b / "edits.csv").write_text("q1,crop,text\n"), r"edits\.csv, line 1: expected"),
        (
            lambda b: (b / "edits.csv").write_text("query_id,edits\nq9,crop\n"),
            "line 2: 'q9' is not",
        ),
        (lambda b: (b / "edits.csv").write_text("q1,crop\nq1,text\n"), "line 2: .*'q1' .*twice"),
    ],
)
def test_bad_benchmarks_are_named_in_one_line(bench, spoil, message):
    spoil(bench)
    with pytest.raises(KitError, match=message) as caught:
        open_benchmark(bench)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_benchmark(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for data, message in (
        (tmp_path / "nowhere", "nowhere does not exist: expected a folder with references/"),
        (tmp_path, "is no benchmark.*notebook 02"),
        ("builtin", "'builtin' has no queries yet.*notebook 02"),
    ):
        with pytest.raises(KitError, match=message):
            open_benchmark(data)
        assert not is_isc_layout(data)


@pytest.mark.parametrize("part", ["references", "queries", "."])
def test_training_on_the_benchmark_is_refused(bench, part):
    with pytest.raises(KitError, match=r"learning from the .* of a benchmark"):
        open_benchmark(bench, bench / part)


def test_open_images_of_a_folder(tmp_path):
    for i in range(10):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    assert open_images(tmp_path).ids == list("0123456789")
    assert open_images(tmp_path, limit=5).ids == list("02468")
    assert open_images(tmp_path, limit=99, part="reference").ids == list("0123456789")
    with pytest.raises(KitError, match="limit=-1"):
        open_images(tmp_path, limit=-1)


def test_edits_with_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "edits.csv"
    path.write_bytes(b"\xef\xbb\xbfquery_id,edits\r\n\r\nq1,blur\r\n")
    assert read_edits(path, ["q1"]) == {"q1": "blur"}


def test_the_shared_benchmark():
    if not (SHARED / "bench").is_dir():
        pytest.skip("no ../shared/bench beside this checkout")
    benchmark = open_benchmark(SHARED / "bench", "builtin")
    assert (len(benchmark.queries), len(benchmark.references)) == (600, 1000)
    assert (benchmark.ground_truth.reference_id != "").sum() == 300
    assert set(benchmark.edits) == set(benchmark.queries.ids)
    with open_executor("serial") as executor:
        assert find_unreadable(benchmark.queries.subset(range(40)), executor) == []
    assert open_folder(SHARED / "bench" / "queries").key() == benchmark.queries.key()
