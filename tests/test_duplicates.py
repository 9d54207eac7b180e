"""Groups of copies within a folder: `python -m iscutils duplicates`."""

import csv
import json
import shutil

import pandas as pd
import pytest
from PIL import Image
from skimage import data

from iscutils.__main__ import main
from iscutils.files.images import FileImages
from iscutils.report.findings import Findings
from iscutils.report.groups import groups_of, write_groups

NAMES = {"coffee": data.coffee, "chelsea": data.chelsea, "rocket": data.rocket}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three photographs; a small and a cropped copy of one, a copied file, two white pictures."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "=sub").mkdir()
    for name, load in NAMES.items():
        Image.fromarray(load()).resize((320, 240)).save(root / f"{name}.png")
    coffee = Image.open(root / "coffee.png")
    coffee.resize((160, 120)).save(root / "=sub" / "small.jpg", quality=70)
    coffee.crop((30, 20, 300, 220)).save(root / "=sub" / "part.jpg")
    shutil.copy(root / "rocket.png", root / "=sub" / "same.png")
    for name in ("white", "blank"):
        Image.new("RGB", (64, 64), "white").save(root / f"{name}.png")
    return root


def rows_of(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_duplicates_of_a_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path))
    command = ["duplicates", ".", "--model", "release-64", "--workers", "1", "--name", "copies"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "3 groups with 7 of 8 pictures; nothing was changed" in said
    found = {}
    for row in rows_of(tmp_path / "copies" / "groups.csv"):
        found.setdefault(row["group"], []).append(row)
    names = [[row["file"] for row in rows] for rows in found.values()]
    assert sorted(map(sorted, names)) == [
        ["./=sub/part.jpg", "./=sub/small.jpg", "coffee.png"],
        ["./=sub/same.png", "rocket.png"],
        ["blank.png", "white.png"],
    ]
    assert all(rows[0]["original"] == "True" for rows in found.values())
    assert sum(row["original"] == "True" for rows in found.values() for row in rows) == 3
    (coffee,) = (rows for rows in found.values() if len(rows) == 3)
    assert coffee[0]["file"] == "coffee.png"  # the largest
    assert all(0.5 <= float(row["score"]) < 1 for row in coffee[1:])
    reasons = {row["reason"] for rows in found.values() for row in rows if len(rows) == 2}
    assert reasons == {"original", "equal file"}
    copies = json.loads((tmp_path / "copies" / "groups.json").read_text())
    assert copies["white.png"] == ["blank.png"]
    assert copies["chelsea.png"] == []
    assert copies["coffee.png"] == ["=sub/part.jpg", "=sub/small.jpg"]

    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [[member["file"] for member in group] for group in printed] == [
        [name.removeprefix("./") for name in group] for group in names
    ]
    assert len(list(folder.rglob("*.*"))) == 8


def test_find_prints_json(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ISCUTILS_RUNS", str(tmp_path))
    find = ["find", "=sub/same.png", "--among", ".", "--model", "release-64", "--workers", "1"]
    assert main([*find, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["query_id"], row["reference_id"], row["score"]) == (
        "=sub/same.png", "rocket.png", 1,
    )  # fmt: skip


def pictures_of(tmp_path, sizes):
    for name, side in sizes.items():
        Image.new("RGB", (side, side), "white").save(tmp_path / name)
    return FileImages(list(sizes), [str(tmp_path / name) for name in sizes])


def test_members_are_tied_by_their_best_pairs(tmp_path):
    sides = {"a.png": 10, "b.png": 30, "c.png": 20, "d.png": 5, "e.png": 6, "f.png": 7}
    pictures = pictures_of(tmp_path, sides)
    pairs = [
        ("a.png", "b.png", 0.6), ("a.png", "c.png", 0.9), ("c.png", "b.png", 0.8),
        ("d.png", "e.png", 0.7), ("e.png", "d.png", 0.7), ("f.png", "a.png", 0.4),
    ]  # fmt: skip
    table = pd.DataFrame(pairs, columns=["query_id", "reference_id", "score"])
    found = Findings(table.assign(reason="points"))
    groups = groups_of(found, pictures)
    first = [(m.file, m.tied_to, m.score, m.original) for m in groups[0]]
    assert first == [
        ("b.png", "", 1.0, True), ("a.png", "c.png", 0.9, False), ("c.png", "b.png", 0.8, False),
    ]  # fmt: skip
    assert [[m.file for m in group] for group in groups[1:]] == [["e.png", "d.png"]]
    page = write_groups(groups, found, pictures, tmp_path / "out").read_text()
    assert page.count("data:image/jpeg") == 5
    assert "http:" not in page
    assert "https:" not in page


def test_names_cannot_leave_the_page(tmp_path):
    names = ["</script><b>.png", "b.png"]
    pictures_of(tmp_path, {"b.png": 20})
    pictures = FileImages(names, [str(tmp_path / "b.png")] * 2)
    table = pd.DataFrame([(*names, 0.9, "points")],
                         columns=["query_id", "reference_id", "score", "reason"])  # fmt: skip
    found = Findings(table)
    page = write_groups(groups_of(found, pictures), found, pictures, tmp_path / "out").read_text()
    assert "</script><b>" not in page


def test_a_folder_without_copies(tmp_path):
    pictures = pictures_of(tmp_path, {"a.png": 10})
    found = Findings(pd.DataFrame(columns=["query_id", "reference_id", "score", "reason"]))
    assert groups_of(found, pictures) == []
    assert "0 groups" in write_groups([], found, pictures, tmp_path / "out").read_text()
