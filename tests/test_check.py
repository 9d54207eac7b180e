"""The commands that look at data and at submissions before a long run or an upload."""

import io

import h5py
import numpy as np
import pytest
from PIL import Image

from iscutils.__main__ import main
from iscutils.datasets.check import check
from iscutils.descriptors.store import Descriptors, write_submission
from iscutils.descriptors.submission_check import check_submission
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor

CSV = "query_id,reference_id,score\n"


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), "olive").save(buffer, "JPEG")
        (folder / f"{name}.jpg").write_bytes(buffer.getvalue())


@pytest.fixture
def disc(tmp_path):
    write_images(tmp_path / "queries", [f"Q0000{i}" for i in range(4)])
    write_images(tmp_path / "references", [f"R00000{i}" for i in range(4)])
    (tmp_path / "dev_ground_truth.csv").write_text("Q00000,R000001\nQ00001,R000009\n")
    return tmp_path


def looked_at(data, sample=0):
    with open_executor("serial") as executor:
        return check(str(data), executor, sample=sample)


def test_check_says_what_is_there_and_what_is_missing(disc):
    (disc / "queries" / "Q00003.jpg").write_bytes(b"")
    checked = looked_at(f"disc21:{disc}")
    text = "\n".join(checked.lines)
    assert checked.errors == []
    assert "naming official documents" in text
    assert "4 of 50000 queries are there" in text
    assert "missing: R000009" in text
    assert "queries: 4, decoded all, 1 unreadable" in text
    assert "unreadable: Q00003: empty file" in text
    assert "references: 4, decoded all, 0 unreadable" in text


def test_check_of_unreadable_images_and_missing_folders(disc):
    for file in (disc / "references").iterdir():
        file.write_bytes(b"<html>not found</html>")
    checked = looked_at(f"disc21:{disc}")
    assert len(checked.errors) == 1
    assert "4 of 4 references cannot be read, such as R000000" in checked.errors[0]
    assert "disk" in looked_at("disk21:/data").errors[0]


def test_a_sample_is_decoded(disc):
    assert "queries: 4, decoded a sample of 2, 0 unreadable" in looked_at(disc, 2).lines


def test_check_of_folders(disc, tmp_path):
    assert (
        looked_at(disc / "queries").lines[0].endswith("4 images, no benchmark (no queries/ beside)")
    )
    text = "\n".join(looked_at(disc).lines)
    assert "4 queries, 4 references, 0 true pairs" in text
    assert "no ground truth" in text


def test_the_check_command_has_a_status(disc, capsys):
    assert main(["check", f"disc21:{disc}"]) == 0
    assert capsys.readouterr().out.endswith("usable\n")
    assert main(["check", f"disc21:{disc}?split=dev2"]) == 1
    assert "cannot be used: " in capsys.readouterr().err


# --- submissions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "violations"),
    [
        (CSV + "Q00000,R000001,0.5\nQ00001,R000001,-1e-3\n", []),
        ("Q00000,R000001,0.5\n", ["columns Q00000,R000001,0.5, expected query_id"]),
        ("query_id,reference_id,score,part\nQ00000,R000001,1,2\n", ["columns .*part, expected"]),
        (CSV, ["no rows"]),
        (CSV + "Q0,R000001,1\n", [r"1 query ids are not of the form .* line 2: 'Q0'"]),
        (CSV + "Q00000,Q00001,1\n", ["1 reference ids are not"]),
        (CSV + "Q00000,R000001.jpg,1\n", [r"line 2: 'R000001\.jpg'"]),
        (CSV + "Q00000,R000001,1\nQ00000,R000002,nan\n", ["1 scores are no finite.*line 3: 'nan'"]),
        (CSV + "Q00000,R000001,big\n", ["1 scores are no finite number, .*'big'"]),
        (
            CSV + "Q00000,R000001,2\nQ00000,R000002,1\nQ00000,R000001,1\n",
            ["1 pairs occur before already, the first in line 4: 'Q00000,R000001'"],
        ),
        (CSV + "Q00000,R000001,1\nQ00000,R000002,2\n", ["1 rows have a higher score.*line 3: '2'"]),
        (
            CSV + "Q0,R000001,inf\nQ00000,R1,1\nQ00000,R1,1\nQ00000,R000004,1\n",
            ["4 rows, at most 3", "1 query ids", "2 reference ids", "1 scores", "1 pairs"],
        ),
    ],
)
def test_every_violation_of_a_table_is_named(tmp_path, text, violations):
    path = tmp_path / "submission.csv"
    path.write_text(text)
    found = check_submission(path, cap=3)
    assert len(found) == len(violations), found
    for sentence, pattern in zip(found, violations, strict=True):
        import re

        assert re.search(pattern, sentence), sentence


def test_ids_are_compared_with_the_data(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text(CSV + "mine,a,1\nother,a,0.5\n")
    assert check_submission(path, ["mine", "other"], ["a"]) == []
    found = check_submission(path, ["mine"], ["a"])
    assert found == ["1 query ids are not a query of the data, the first in line 3: 'other'"]


def test_the_row_cap_is_half_a_million(tmp_path):
    path = tmp_path / "submission.csv"
    rows = (f"Q{i // 1000:05d},R{i:06d},1" for i in range(500_001))
    path.write_text(CSV + "\n".join(rows))
    assert check_submission(path) == ["500001 rows, at most 500000 are allowed"]


def good(tmp_path):
    rng = np.random.default_rng(0)
    queries = Descriptors(rng.random((3, 5), np.float32), ["Q00002", "Q00000", "Q00001"])
    references = Descriptors(rng.random((2, 5), np.float32), ["R000001", "R000000"])
    return write_submission(tmp_path / "good.h5", queries, references)


def replaced(path, **arrays):
    with h5py.File(path, "r+") as file:
        for name, values in arrays.items():
            del file[name]
            if values is not None:
                file[name] = values
    return path


IDS = np.array([b"Q00000", b"Q00001", b"Q00002"])


@pytest.mark.parametrize(
    ("arrays", "violation"),
    [
        ({}, None),
        ({"query": None}, "no data set query but query_ids"),
        ({"query": np.zeros((3, 5))}, "query: type float64, expected float32"),
        ({"query": np.zeros((3, 4), np.float32)}, "query dimension 4, reference dimension 5"),
        ({"query": np.zeros((2, 5), np.float32)}, "query: 2 vectors but 3 ids"),
        ({"query": np.full((3, 5), np.nan, np.float32)}, "query: 3 vectors are not finite"),
        ({"query": np.zeros(3, np.float32)}, r"query: shape \(3,\), expected"),
        ({"query_ids": IDS[::-1]}, "query_ids: not sorted, 'Q00001' after 'Q00002'"),
        ({"query_ids": IDS[[0, 1, 1]]}, "query_ids: 1 repeated, such as 'Q00001'"),
        ({"query_ids": IDS.astype("S7")}, "query_ids: type .*S7.*expected texts of 6 bytes"),
        ({"query_ids": np.array([b"Q00000", b"Q00001", b"X00002"])}, "1 are no query.*'X00002'"),
    ],
)
def test_every_violation_of_a_descriptor_file_is_named(tmp_path, arrays, violation):
    import re

    found = check_submission(replaced(good(tmp_path), **arrays))
    assert len(found) == (violation is not None), found
    assert violation is None or re.search(violation, found[0])


def test_257_dimensions_and_missing_images(tmp_path):
    wide = {name: np.zeros((n, 257), np.float32) for name, n in (("query", 3), ("reference", 2))}
    found = check_submission(replaced(good(tmp_path), **wide))
    assert found == [f"{name}: dimension 257, at most 256" for name in ("query", "reference")]
    names = [f"Q0000{i}" for i in range(4)]
    found = check_submission(good(tmp_path), names, ["R000000", "R000001"])
    assert found == ["query_ids: 1 images have no row, such as 'Q00003'"]


def test_an_extra_set_is_tolerated(tmp_path):
    path = good(tmp_path)
    with h5py.File(path, "r+") as file:
        file["train"] = np.zeros((2, 5), np.float32)
    assert check_submission(path) == []


def test_the_validate_command_has_a_status(disc, tmp_path, capsys):
    path = tmp_path / "submission.csv"
    path.write_text(CSV + "Q00000,R000001,1\n")
    assert main(["validate", str(path), "--data", f"disc21:{disc}"]) == 0
    assert "valid" in capsys.readouterr().out
    path.write_text(CSV + "Q00009,R000001,1\nQ00009,R000001,1\n")
    assert main(["validate", str(path), "--data", f"disc21:{disc}"]) == 1
    found = capsys.readouterr()
    assert found.out.count("\n- ") + found.out.startswith("- ") == 2
    assert "2 rules broken" in found.err
    with pytest.raises(KitError, match="does not exist"):
        check_submission(tmp_path / "nothing.csv")


def test_a_submission_is_made_from_a_list_with_more_columns(tmp_path, capsys):
    path, out = tmp_path / "matches.csv", tmp_path / "upload.csv"
    path.write_text(
        "query_id,reference_id,score,inliers\n"
        "Q00001,R000001,0.5,7\nQ00001,R000002,0.9,3\nQ00002,R000001,0.1,0\n"
    )
    assert main(["validate", str(path)]) == 1
    assert "inliers" in capsys.readouterr().out
    assert main(["validate", str(path), "--write", str(out), "--cap", "2"]) == 0
    assert out.read_text().splitlines() == [
        "query_id,reference_id,score", "Q00001,R000002,0.9", "Q00001,R000001,0.5"
    ]  # fmt: skip
