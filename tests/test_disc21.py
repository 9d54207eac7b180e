"""DISC21 in every folder naming in use, complete or in part, in folders and in zip files."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from iscutils.datasets import (
    benchmark_file,
    check_data,
    data_paths,
    is_benchmark,
    open_benchmark,
    open_images,
)
from iscutils.datasets import disc21 as disc
from iscutils.datasets.archives import ArchiveImages
from iscutils.datasets.layouts import parse_spec, reduce_truth
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import ImageError

QUERIES = ["Q00000", "Q00001", "Q25000"]
TEST_QUERIES = ["Q50000", "Q50001"]
REFERENCES = [f"R{i:06d}" for i in range(5)]
TRAINING = [f"T{i:06d}" for i in range(3)]
TRUTH = "Q00000,R000002\nQ00001,\nQ25000,R000004\n"
TEST_TRUTH = "Q50000,R000001\nQ50001,\n"
# naming: (development queries, test queries, references, training images, truth files)
NAMINGS = {
    "challenge": (
        "query_images", "query_images_phase2", "reference_images", "training_images",
        "dev_queries_groundtruth.csv", "test_queries_groundtruth.csv",
    ),
    "official documents": (
        "images/queries", "images/test_queries", "images/references", "images/train",
        "public_ground_truth.csv", "test_truth.csv",
    ),
    "SSCD": (
        "val_query", "val_query", "val_ref", "training",
        "val_groundtruth_matches.csv", "test_groundtruth_matches.csv",
    ),
    "RDCD": (
        "images/dev_queries", "images/test_queries", "images/references", "images/train",
        "dev_ground_truth.csv", "test_ground_truth.csv",
    ),
    "CopyNCE": (
        "query_images", "query_images", "reference_images", "training_images",
        "dev_queries_groundtruth.csv", "test_queries_groundtruth.csv",
    ),
    "download": (
        "dev_queries_50k_0", "test_queries_50k_0", "refs_50k_0", "train_50k_0",
        "dev_queries_groundtruth.csv", "test_queries_groundtruth.csv",
    ),
}  # fmt: skip


def picture(name):
    """JPEG bytes of one colour, which the name decides."""
    colour = tuple(np.random.default_rng(list(name.encode())).integers(0, 256, 3).tolist())
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.jpg").write_bytes(picture(name))


def make_disc(root, naming="challenge"):
    dev, test, references, training, truth, test_truth = NAMINGS[naming]
    parts = [(dev, QUERIES), (test, TEST_QUERIES), (references, REFERENCES), (training, TRAINING)]
    for place, names in parts:
        write_images(root / place, names)
    (root / truth).write_text(TRUTH)
    (root / test_truth).write_text(TEST_TRUTH)
    return root


def zip_folder(folder):
    """Put a folder into a zip file of its name, in a folder inside, and remove it."""
    with zipfile.ZipFile(folder.with_name(folder.name + ".zip"), "w") as archive:
        archive.writestr("__MACOSX/._Q00000.jpg", b"not an image")
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{folder.name}/{file.name}")
            file.unlink()
    folder.rmdir()


def content(benchmark):
    sets = (benchmark.queries, benchmark.references, benchmark.background)
    pictures = [[s.load(i).tobytes() for i in range(len(s))] for s in sets]
    return [s.ids for s in sets], pictures, benchmark.ground_truth.to_numpy().tolist()


@pytest.mark.parametrize("split", ["dev", "dev1", "dev2", "test"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_gives_the_same_benchmark(tmp_path, naming, split):
    expected = content(open(make_disc(tmp_path / "a"), split))
    found = open(make_disc(tmp_path / "b", naming), split)
    assert found.notes["naming"] == naming
    assert content(found) == expected
    wanted = {"dev": QUERIES, "dev1": QUERIES[:2], "dev2": QUERIES[2:], "test": TEST_QUERIES}
    assert found.queries.ids == wanted[split]
    assert found.references.ids == REFERENCES
    assert found.background.ids == TRAINING
    assert found.name == f"disc21-{split}"


def open(root, split="dev", **options):
    return open_benchmark(f"disc21:{root}?split={split}", f"disc21:{root}", **options)


@pytest.mark.parametrize("naming", ["challenge", "RDCD", "download"])
def test_zip_files_are_read_without_unpacking(tmp_path, naming):
    expected = content(open(make_disc(tmp_path / "a")))
    root = make_disc(tmp_path / "b", naming)
    for place in set(NAMINGS[naming][:4]):
        zip_folder(root / place)
    before = sorted(tmp_path.rglob("*"))
    found = open(root)
    assert content(found) == expected
    assert isinstance(found.references, ArchiveImages)
    assert found.references.path(0) is None
    assert sorted(tmp_path.rglob("*")) == before
    part = found.references.subset([3, 1])
    assert part.ids == ["R000003", "R000001"]
    assert part.load(0).tobytes() == found.references.load(3).tobytes()
    assert part.key() != found.references.key() == open(root).references.key()
    with open_executor("processes", 2) as executor:
        loaded = list(executor.map(found.references.load, range(5)))
    assert [image.tobytes() for image in loaded] == expected[1][1]


def test_an_unpacked_folder_wins_over_its_zip_and_parts_are_joined(tmp_path):
    root = make_disc(tmp_path, "download")
    write_images(root / "refs_50k_1", ["R000100"])
    zip_folder(root / "refs_50k_1")
    write_images(root / "train_50k_0.zip.d", [])
    (root / "refs_50k_0.zip").write_bytes(b"half a download")
    assert open(root).references.ids == [*REFERENCES, "R000100"]


def test_a_damaged_archive_and_a_damaged_member(tmp_path):
    root = make_disc(tmp_path)
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("Q1.jpg", b"text")
    images = ArchiveImages(["a", "b"], [root / "more.zip"] * 2, ["Q1.jpg", "gone.jpg"])
    with pytest.raises(ImageError, match="not a JPEG"):
        images.load(0)
    with pytest.raises(ImageError, match="damaged zip member"):
        images.load(1)
    zip_folder(root / "reference_images")
    (root / "reference_images.zip").write_bytes(b"PK half a download")
    with pytest.raises(KitError, match=r"cannot read .*reference_images\.zip.*download it again"):
        open(root)


TRUTHS = {
    "no header": TRUTH,
    "header": "query_id,reference_id\n" + TRUTH,
    "CRLF": TRUTH.replace("\n", "\r\n"),
    "all of it": TRUTH + TEST_TRUTH,
}


@pytest.mark.parametrize("layout", TRUTHS)
def test_every_form_of_the_truth(tmp_path, layout):
    make_disc(tmp_path)
    (tmp_path / "dev_queries_groundtruth.csv").write_bytes(TRUTHS[layout].encode())
    rows = open(tmp_path).ground_truth.to_numpy().tolist()
    assert rows == [["Q00000", "R000002"], ["Q00001", ""], ["Q25000", "R000004"]]
    assert len(open(tmp_path).notes["truth"]["dev_queries_groundtruth.csv"]) == 64


def test_a_list_of_positives_alone_is_said(tmp_path, caplog):
    make_disc(tmp_path)
    (tmp_path / "dev_queries_groundtruth.csv").unlink()
    (tmp_path / "subset_1_ground_truth.csv").write_text("Q00000,R000002\n")
    found = disc.read(parse_spec(f"disc21:{tmp_path}"))
    assert found.notes["positives"] == 1
    assert any("others count as false" in problem for problem in found.problems)
    (tmp_path / "subset_1_ground_truth.csv").write_text("Q00000,R000002\nQ00000,R000004\n")
    found = disc.read(parse_spec(f"disc21:{tmp_path}"))  # two originals of one query
    assert found.notes["positives"] == 2
    assert any("lists 1 queries, all with an original" in problem for problem in found.problems)


def test_truth_files_that_disagree_are_an_error(tmp_path):
    make_disc(tmp_path)
    (tmp_path / "other_truth.csv").write_text("Q00000,R000003\n")
    with pytest.raises(KitError, match=r"disagree on query 'Q00000'.*\?truth=FILE"):
        open(tmp_path)
    data = f"disc21:{tmp_path}?truth={tmp_path / 'other_truth.csv'}"
    truth = open_benchmark(data, f"disc21:{tmp_path}").ground_truth
    assert truth.to_numpy().tolist() == [["Q00000", "R000003"]]


def test_subsets_run_and_say_so(tmp_path):
    make_disc(tmp_path)
    (tmp_path / "query_images" / "Q25000.jpg").unlink()
    (tmp_path / "reference_images" / "R000002.jpg").unlink()
    (tmp_path / "dev_queries_groundtruth.csv").write_text(TRUTH + "Q00002,R000001\n")
    write_images(tmp_path / "query_images", ["Q00002"])
    found = open(tmp_path)
    # The reference of Q00000 has no image: what has no original there is a distractor.
    rows = found.ground_truth.to_numpy().tolist()
    assert rows == [["Q00000", ""], ["Q00001", ""], ["Q00002", "R000001"]]
    assert found.missing == ("Q25000", "R000002")
    assert found.notes["missing"] == 2
    assert found.notes["complete"] is False
    assert found.notes["positives"] == 1
    json.dumps(found.notes)


def test_one_of_several_references_is_enough():
    import pandas as pd

    rows = [("q1", "r1"), ("q1", "r2"), ("q2", "r2"), ("q3", "")]
    truth = pd.DataFrame(rows, columns=["query_id", "reference_id"])
    kept, missing = reduce_truth(truth, ["q1", "q2", "q3"], ["r1"])
    assert kept.to_numpy().tolist() == [["q1", "r1"], ["q2", ""], ["q3", ""]]
    assert missing == ("r2",)
    assert reduce_truth(truth, ["q2"], ["r1"]) == (None, ("q1", "q3", "r2"))


@pytest.mark.parametrize(("split", "positives"), [("dev1", 4991), ("dev2", 5009), ("test", 10000)])
def test_positives_of_a_whole_truth_are_counted(tmp_path, split, positives):
    make_disc(tmp_path)
    first, last, _ = disc.SPLITS[split]
    for name in tmp_path.glob("*.csv"):
        name.unlink()
    for count in (positives, positives - 1):
        rows = [f"Q{q:05d}," + f"R{q:06d}" * (q - first < count) for q in range(first, last + 1)]
        (tmp_path / "truth.csv").write_text("\n".join(rows))
        problems = disc.read(parse_spec(f"disc21:{tmp_path}?split={split}")).problems
        wrong = f"the truth has {count} true pairs instead of {positives}: wrong file?"
        assert (wrong in problems) == (count != positives)


def test_truth_may_be_missing_for_search(tmp_path):
    make_disc(tmp_path)
    (tmp_path / "dev_queries_groundtruth.csv").unlink()
    with pytest.raises(KitError, match=r"no ground truth.*\?truth=FILE"):
        open(tmp_path)
    assert open(tmp_path, require_truth=False).ground_truth is None


def test_the_subset_of_positives_has_no_distractors(tmp_path):
    make_disc(tmp_path)
    found = open_benchmark(f"disc21:{tmp_path}?split=subset_1", f"disc21:{tmp_path}")
    assert (found.queries.ids, found.references.ids) == (["Q00000"], ["R000002"])
    assert found.ground_truth.to_numpy().tolist() == [["Q00000", "R000002"]]
    assert (found.name, found.notes["split"]) == ("disc21-subset_1", "subset_1")
    assert (disc.SPLITS["subset_1"][2], disc._problems("subset_1", 4991, 4991, None, ())) == (
        4991, ["no ground truth of split subset_1: put its CSV into the folder"],
    )  # fmt: skip
    (tmp_path / "dev_queries_groundtruth.csv").unlink()
    with pytest.raises(KitError, match="subset_1 follows from the ground truth"):
        open_benchmark(f"disc21:{tmp_path}?split=subset_1", require_truth=False)


def test_errors_name_what_was_expected(tmp_path):
    make_disc(tmp_path)
    for data, message in (
        ("disk21:/data", "did you mean 'disc21:'"),
        (f"disc21:{tmp_path}?split=phase3", "no split 'phase3'; choose one of dev, dev1"),
        (f"disc21:{tmp_path}?part=dev", "'part=dev' is no option of disc21; known: split="),
        (f"disc21:{tmp_path}/nowhere", "nowhere does not exist"),
        (f"disc21:{tmp_path / 'query_images'}", "no queries in .* expected .*query_images"),
        (f"{tmp_path}/nowhere", "no folder"),
    ):
        with pytest.raises(KitError, match=message):
            check_data(data)
    check_data(f"disc21:{tmp_path}?split=test")
    check_data("builtin")
    check_data(str(tmp_path))
    (tmp_path / "training_images").rename(tmp_path / "others")
    check_data(f"disc21:{tmp_path}")
    with pytest.raises(KitError, match="no training images"):
        check_data(f"disc21:{tmp_path}", train=True)
    with pytest.raises(KitError, match="no training images"):
        open_images(f"disc21:{tmp_path}")


def test_a_split_without_images_is_an_error(tmp_path):
    make_disc(tmp_path)
    (tmp_path / "query_images" / "Q25000.jpg").unlink()
    with pytest.raises(KitError, match="none of the 4 query images belongs to split 'dev2'"):
        open(tmp_path, "dev2")


@pytest.mark.parametrize("zipped", [False, True])
def test_learning_from_the_references_is_refused(tmp_path, zipped):
    make_disc(tmp_path)
    if zipped:
        zip_folder(tmp_path / "reference_images")
    references = open(tmp_path).references
    with pytest.raises(KitError, match="learning from the references of a benchmark"):
        open_benchmark(f"disc21:{tmp_path}", references)


def test_a_file_stands_for_the_data_set_in_later_notebooks(tmp_path):
    make_disc(tmp_path / "disc")
    data = f"disc21:{tmp_path / 'disc'}?split=dev2"
    path = benchmark_file(data, tmp_path / "run")
    assert path.suffix == ".json"
    assert benchmark_file(data, tmp_path / "run") == path
    assert is_benchmark(data)
    assert is_benchmark(path)
    assert open_benchmark(path).queries.ids == ["Q25000"]
    assert benchmark_file(tmp_path / "disc", tmp_path / "run") == tmp_path / "disc"
    assert data_paths(data) == [tmp_path / "disc"]
    path.write_text("{}")
    with pytest.raises(KitError, match="names no benchmark"):
        open_benchmark(path)


def test_training_images_of_a_data_set_and_their_limit(tmp_path):
    make_disc(tmp_path)
    assert open_images(f"disc21:{tmp_path}").ids == TRAINING
    assert open_images(f"disc21:{tmp_path}", limit=2).ids == ["T000000", "T000001"]
