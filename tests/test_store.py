"""Descriptor files: what is written comes back, what is wrong is named."""

import h5py
import numpy as np
import pytest

from iscutils.descriptors.store import (
    Descriptors,
    read_descriptors,
    read_shards,
    read_submission,
    write_descriptors,
    write_submission,
)
from iscutils.files.artifacts import KitError
from iscutils.files.ids import image_id


def vectors(n, d=4, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Q00001", "Q00001"),
        ("Q00001.jpg", "Q00001"),
        (b"a/b/Q00001.JPEG", "Q00001"),
        ("007.png", "007"),
        ("holiday.v2", "holiday.v2"),
        ("a.jpg.png", "a"),
        ("scan.tif", "scan"),
        ("film.WebP", "film"),
        (" Q00001.jpg ", "Q00001"),
        ("2023/IMG_0001", "2023/IMG_0001"),
        ("2023%2FIMG_0001.jpg", "2023/IMG_0001"),
        ("Cafe\u0301", "Café"),
        ("Zürich.jpg".encode(), "Zürich"),
    ],
)
def test_image_id(name, expected):
    assert image_id(name) == expected
    assert image_id(image_id(name)) == expected


def test_round_trip_with_columns_and_notes(tmp_path):
    data = vectors(3)
    columns = {
        "boxes": np.arange(12, dtype=np.float32).reshape(3, 4),
        "part": np.array(["full", "left", "größer"]),
    }
    skipped = [(f"id{i}", f"folder/id{i}.jpg", "truncated") for i in range(5000)]
    path = write_descriptors(
        tmp_path / "out" / "q.h5",
        data,
        ["x/007.jpg", "NA.png", "Zürich"],
        columns=columns,
        model="r50",
        sizes=[96, 128],
        skipped=skipped,  # more than the 64 kB of an HDF5 attribute
    )
    again = read_descriptors(path, dim=4)
    assert again.vectors.dtype == np.float32
    assert np.array_equal(again.vectors, data)
    assert again.ids == ["007", "NA", "Zürich"]
    assert len(again) == 3
    assert again.attrs["sizes"] == [96, 128]
    assert again.attrs["model"] == "r50"
    assert again.attrs["skipped"][4999] == ["id4999", "folder/id4999.jpg", "truncated"]
    assert np.array_equal(again.columns["boxes"], columns["boxes"])
    assert again.columns["part"].tolist() == ["full", "left", "größer"]
    assert [file.name for file in path.parent.iterdir()] == ["q.h5"]


def test_the_layout_is_the_one_others_read_and_write(tmp_path):
    path = write_descriptors(tmp_path / "q.h5", vectors(2), ["Q1", "Q22"])
    with h5py.File(path) as file:
        assert file["vectors"].dtype == np.float32
        assert file["vectors"].shape == (2, 4)
        assert file["image_names"][:].tolist() == [b"Q1", b"Q22"]
    with h5py.File(tmp_path / "other.h5", "w") as file:  # double precision, texts of any length
        file["vectors"] = vectors(2).astype(np.float64)
        file.create_dataset("image_names", data=["a/Q1.jpg", "Q22"], dtype=h5py.string_dtype())
    other = read_descriptors(tmp_path / "other.h5")
    assert other.ids == ["Q1", "Q22"]
    assert np.array_equal(other.vectors, vectors(2))


def test_a_part_may_repeat_its_image_but_not_itself(tmp_path):
    write_descriptors(tmp_path / "p.h5", vectors(2), ["Q1", "Q1"], columns={"part": ["a", "b"]})
    with pytest.raises(KitError, match="'Q1'"):
        write_descriptors(tmp_path / "p.h5", vectors(2), ["Q1", "Q1"], columns={"part": ["a", "a"]})


@pytest.mark.parametrize(
    ("data", "names", "columns", "message"),
    [
        (vectors(3), ["a", "b"], {}, "3 vectors but 2 image names"),
        (vectors(2), ["a", "b"], {"norms": [1.0]}, "2 vectors but 1 norms"),
        (vectors(3), ["a.jpg", "b", "x/a.png"], {}, "1 repeated image ids, the first is 'a'"),
        (vectors(2), ["a", ".jpg"], {}, "row 1 has an empty image name"),
        (vectors(2)[0], ["a"], {}, "shape"),
        (np.array([[1.0, 2], [np.nan, 1], [np.inf, 1]]), ["a", "b", "c"], {}, "2 vectors.*'b'"),
    ],
)
def test_wrong_data_are_refused_and_leave_no_file(tmp_path, data, names, columns, message):
    path = tmp_path / "q.h5"
    write_descriptors(path, vectors(1), ["old"])
    with pytest.raises(KitError, match=message):
        write_descriptors(path, data, names, columns=columns)
    assert read_descriptors(path).ids == ["old"]
    assert len(list(tmp_path.iterdir())) == 1
    with h5py.File(path, "w") as file:  # the same written by somebody else
        file["vectors"] = data
        file["image_names"] = np.array(names, dtype="S10")
        for name, values in columns.items():
            file[name] = values
    with pytest.raises(KitError, match=message):
        read_descriptors(path)


def test_another_dimension_is_named(tmp_path):
    path = write_descriptors(tmp_path / "q.h5", vectors(2, 5), ["a", "b"])
    with pytest.raises(KitError, match=r"q.h5 .*dimension 5, expected 4"):
        read_descriptors(path, dim=4)


def test_damaged_and_foreign_files(tmp_path):
    path = write_descriptors(tmp_path / "q.h5", vectors(500), [str(i) for i in range(500)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KitError, match=r"cannot read .*q.h5"):
        read_descriptors(path)
    path.write_text("no HDF5 at all")
    with pytest.raises(KitError, match="damaged or not HDF5"):
        read_descriptors(path)
    with pytest.raises(KitError, match="does not exist"):
        read_descriptors(tmp_path / "nothing.h5")
    with h5py.File(path, "w") as file:
        file["query"] = vectors(2)
    with pytest.raises(KitError, match="no dataset image_names and vectors but query"):
        read_descriptors(path)
    with h5py.File(path, "a") as file:
        file["query_ids"] = np.array(["Q00001", "Q00002"], dtype="S6")
    with pytest.raises(KitError, match="no datasets reference"):
        read_submission(path)


def test_an_empty_set_can_be_written(tmp_path):
    path = write_descriptors(tmp_path / "q.h5", np.zeros((0, 8)), [])
    assert read_descriptors(path, dim=8).ids == []


def official(n, d, letter, digits, seed):
    numbers = np.random.default_rng(seed).permutation(10 * n)[:n]
    return Descriptors(vectors(n, d, seed), [f"{letter}{i:0{digits}d}" for i in numbers])


def test_submission_layout(tmp_path):
    queries, references = official(20, 256, "Q", 5, 1), official(30, 256, "R", 6, 2)
    path = write_submission(tmp_path / "s.h5", queries, references, counts=(20, 30))
    with h5py.File(path) as file:
        assert sorted(file) == ["query", "query_ids", "reference", "reference_ids"]
        assert file["query"].dtype == file["reference"].dtype == np.float32
        assert file["query_ids"].dtype == "S6"
        assert file["reference_ids"].dtype == "S7"
        ids = [id_.decode() for id_ in file["query_ids"][:]]
        assert ids == sorted(queries.ids)
        by_id = dict(zip(queries.ids, queries.vectors, strict=True))
        assert np.array_equal(file["query"][:], [by_id[id_] for id_ in ids])
    with h5py.File(path, "a") as file:
        file["train"] = vectors(3)  # tolerated
    again_queries, again_references = read_submission(path)
    assert again_queries.ids == sorted(queries.ids)
    assert again_references.ids == sorted(references.ids)


def test_submission_refusals(tmp_path):
    queries, references = official(5, 8, "Q", 5, 1), official(5, 8, "R", 6, 2)
    path = tmp_path / "s.h5"
    with pytest.raises(KitError, match=r"dimension 257.*at most 256"):
        write_submission(path, official(5, 257, "Q", 5, 1), official(5, 257, "R", 6, 2))
    with pytest.raises(KitError, match="query dimension 8, reference dimension 9"):
        write_submission(path, queries, official(5, 9, "R", 6, 2))
    with pytest.raises(KitError, match="expected 50000 and 1000000"):
        write_submission(path, queries, references, counts=(50_000, 1_000_000))
    with pytest.raises(KitError, match="'Q1' is not 6 characters"):
        write_submission(path, Descriptors(vectors(1, 8), ["Q1"]), references)
    with pytest.raises(KitError, match="repeated"):
        write_submission(path, Descriptors(vectors(2, 8), ["Q00001"] * 2), references)
    assert list(tmp_path.iterdir()) == []


def test_shards_in_any_order_give_the_same_submission(tmp_path):
    queries, references = official(9, 8, "Q", 5, 1), official(30, 8, "R", 6, 2)
    shards = []
    for i, rows in enumerate(np.array_split(np.arange(30), 4)):
        names = [f"refs/{references.ids[row]}.jpg" for row in rows]
        shards.append(write_descriptors(tmp_path / f"{i}.h5", references.vectors[rows], names))
    files = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        read = read_shards([shards[i] for i in order])
        assert read.ids == sorted(references.ids)
        files.append(write_submission(tmp_path / f"{order}.h5", queries, read).read_bytes())
    assert files[0] == files[1]


def test_shards_that_do_not_fit_together(tmp_path):
    first = write_descriptors(tmp_path / "1.h5", vectors(2), ["a", "b"])
    second = write_descriptors(tmp_path / "2.h5", vectors(2), ["b", "c"])
    third = write_descriptors(tmp_path / "3.h5", vectors(1, 5), ["d"])
    with pytest.raises(KitError, match="repeated image ids, the first is 'b'"):
        read_shards([first, second])
    with pytest.raises(KitError, match="different dimensions"):
        read_shards([first, third])
    with pytest.raises(KitError, match="at least one"):
        read_shards([])
